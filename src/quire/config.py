"""What an engine is told: frozen, checked when built, every default visible here with its reason.

`None` means "auto"; `resolve()` in `engine/resolve.py` returns a new value in which nothing is auto any more.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from quire.environment import MAX_THREADS
from quire.errors import ConfigError
from quire.units import GIB, MAX_BYTES

KERNEL_TILE_TOKENS = 32
"""Tokens of one K/V kernel tile; a block holds a whole number of tiles, so block size cannot change a bit."""

DEFAULT_KV_MEMORY_BYTES = 2 * GIB
"""What `kv_memory` is where it is left out, unless the machine has less to give."""

MAX_COUNT = 2**31 - 1
"""The largest number of tokens or requests: the arrays of a step count in int32."""


class DType(Enum):
    """Number format of weights in memory. The exact one of the checkpoint unless the user asks for another."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class Quantize(Enum):
    """What the matrices become on loading: integers with a scale for every group of elements, or (`NONE`) what `DType` says."""

    NONE = "none"
    INT8 = "int8"
    INT4 = "int4"


class IntegerForm(Enum):
    """Which instructions integers are packed for. A core's instruction set has one form; groups are of 32 or 256 elements."""

    VECTORS = "vectors"
    TILES = "tiles"


class WeightFormat(Enum):
    """How the matrices lie in memory; `DType` and `Quantize` together choose it."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"
    INT4 = "int4"

    @classmethod
    def of(cls, dtype: DType, quantize: Quantize) -> WeightFormat:
        """Returns the format that weights of a `dtype` take on when they are quantised so."""
        return cls(dtype.value if quantize is Quantize.NONE else quantize.value)

    def bits_per_weight(self, form: IntegerForm) -> float:
        """Bits in memory, with the share of a bfloat16 scale for a group of weights; int4 for tiles has a byte for 32 besides."""
        integers = {"int8": 8.5, "int4": 4.5} if form is IntegerForm.VECTORS else {"int8": 8.0625, "int4": 4.3125}
        return {"float32": 32, "bfloat16": 16, **integers}[self.value]


class KVFormat(Enum):
    """Number format of cached keys and values."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"

    @property
    def bytes_per_element(self) -> int:
        return 4 if self is KVFormat.FLOAT32 else 2


class KVCacheMode(Enum):
    """`OFF` recomputes every token in every step on the same kernels: the O(T^3) oracle of the seed notes."""

    PAGED = "paged"
    OFF = "off"


class PrefixCache(Enum):
    """Whether full blocks stay findable by their content after they were written."""

    ON = "on"
    OFF = "off"


class ExecutorKind(Enum):
    """`None` in a config picks `NATIVE` where the compiled core exists, else `REFERENCE`."""

    NATIVE = "native"
    REFERENCE = "reference"
    TORCH = "torch"


class PackedCache(Enum):
    """What stands instead of a directory for packed weights."""

    OFF = "off"


def _require_positive(name: str, value: object, limit: int = MAX_COUNT) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name} must be a positive integer", given=value, next_step=f"Pass {name} >= 1 or leave it out.")
    if value > limit:
        given = value if value.bit_length() < 256 else f"an integer of {value.bit_length()} bits"
        raise ConfigError(f"{name} is too large", given=given, limit=limit, next_step=f"Pass {name} <= {limit} or leave it out.")


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig:
    """The KV cache: where it lives, how large it is, in which format."""

    mode: KVCacheMode = KVCacheMode.PAGED
    prefix_cache: PrefixCache = PrefixCache.ON
    block_size: int = KERNEL_TILE_TOKENS
    memory_bytes: int | None = None  # auto: DEFAULT_KV_MEMORY_BYTES, or what the machine has left beside the weights
    format: KVFormat | None = None  # auto: the weights' format

    def __post_init__(self) -> None:
        _require_positive("block_size", self.block_size)
        if self.memory_bytes is not None:
            _require_positive("memory_bytes", self.memory_bytes, MAX_BYTES)
        if self.block_size % KERNEL_TILE_TOKENS:
            raise ConfigError(
                "block_size must be a multiple of the kernel tile",
                given=self.block_size,
                limit=KERNEL_TILE_TOKENS,
                next_step=f"Use {KERNEL_TILE_TOKENS}, {2 * KERNEL_TILE_TOKENS} or {4 * KERNEL_TILE_TOKENS}.",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerConfig:
    """Limits of one step."""

    max_num_batched_tokens: int = 512  # a chunk long enough to saturate the cores, short enough to keep ITL low
    max_num_seqs: int = 64
    max_queued_requests: int = 100_000  # bounded queue; an offline batch may be large

    def __post_init__(self) -> None:
        for name in ("max_num_batched_tokens", "max_num_seqs", "max_queued_requests"):
            _require_positive(name, getattr(self, name))


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Everything that shapes an engine; changing any of it makes another engine."""

    cache: CacheConfig = field(default_factory=CacheConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    dtype: DType | None = None  # auto: bfloat16 for bfloat16 checkpoints, float32 for float32 and float16 (exact)
    quantize: Quantize = Quantize.NONE
    executor: ExecutorKind | None = None  # auto: native if compiled here
    max_context: int | None = None  # auto: the model's, or what the KV memory holds if that is less
    threads: int | None = None  # auto: the cores this process may use
    packed_cache: Path | PackedCache = PackedCache.OFF  # the directory where the native executor keeps packed weights

    def __post_init__(self) -> None:
        for name in ("max_context", "threads"):
            if getattr(self, name) is not None:
                _require_positive(name, getattr(self, name))
        if self.threads is not None and self.threads > MAX_THREADS:
            raise ConfigError(
                "threads exceeds what the pool can start",
                given=self.threads,
                limit=MAX_THREADS,
                next_step="Leave threads out to use every core once; more than cores only makes them wait for each other.",
            )
