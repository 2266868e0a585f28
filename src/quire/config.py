"""The configuration of an engine: frozen, checked when built, every default visible here with its reason.

`None` means "auto"; `resolve()` in `engine/resolve.py` returns a new value in which nothing is auto any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import MappingProxyType

from quire.environment import MAX_THREADS
from quire.errors import ConfigError
from quire.units import GIB, MAX_BYTES
from quire.values import as_int, as_number, shown

KERNEL_TILE_TOKENS = 32
"""Tokens of one K/V kernel tile; a block holds a whole number of tiles, so block size cannot change a bit."""

DEFAULT_KV_MEMORY_BYTES = 2 * GIB
"""What `kv_memory` is where it is left out, unless the machine has less to give."""

MAX_COUNT = 2**31 - 1
"""The largest number of tokens or requests: the arrays of a step count in int32."""

COUNT_LIMITS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        "block_size": (1, MAX_COUNT),
        "memory_bytes": (1, MAX_BYTES),
        "max_num_batched_tokens": (1, MAX_COUNT),
        "max_num_seqs": (1, MAX_COUNT),
        "max_queued_requests": (1, MAX_COUNT),
        "max_context": (2, MAX_COUNT),  # one token to compute and one to draw
        "threads": (1, MAX_THREADS),
    }
)
"""The smallest and the largest value of every count, in Python and on the command line; MAX_COUNT is shown as no limit."""


ITL_TARGET_LIMITS_S = (0.001, 60.0)
"""The smallest and the largest `itl_target`."""


class DType(Enum):
    """Number format of weights in memory. The exact one of the checkpoint unless the user asks for another."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class Quantize(Enum):
    """What the matrices become on loading: integers with a scale for every group of elements, or (`NONE`) what `DType` says."""

    NONE = "none"
    INT8 = "int8"
    INT4 = "int4"


class Calibrate(Enum):
    """Over which text a quantizer learns which inputs matter: a bundled one, or none."""

    AUTO = "auto"
    NONE = "none"


class WeightFormat(Enum):
    """How the matrices lie in memory; `DType` and `Quantize` together choose it.

    `STORED` is what a quantized checkpoint holds, where neither was chosen: each matrix in a format of its own.
    """

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"
    INT4 = "int4"
    STORED = "stored"

    @classmethod
    def of(cls, dtype: DType, quantize: Quantize) -> WeightFormat:
        """Returns the format that weights of a `dtype` take on when they are quantized so."""
        return cls(dtype.value if quantize is Quantize.NONE else quantize.value)


class KVFormat(Enum):
    """Number format of cached keys and values. `INT8_INT4` holds keys in 8 bits and values in 4."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"
    INT8_INT4 = "int8-int4"
    INT4 = "int4"

    @property
    def is_quantized(self) -> bool:
        """Whether keys and values are integers with scales."""
        return self not in _EXACT_KV_FORMATS

    @property
    def has_own_tiles(self) -> bool:
        """Whether a token reads the tile that it stands in as bfloat16, and only earlier tiles in the format itself."""
        return self in (KVFormat.INT8_INT4, KVFormat.INT4)


_EXACT_KV_FORMATS = (KVFormat.FLOAT32, KVFormat.BFLOAT16)

QUANTIZED_HEAD_DIM_STEP = 8
"""Quantized K/V tiles hold channels in eights."""


class KVCacheMode(Enum):
    """`OFF` recomputes every token in every step on the same kernels: O(T^3), and what the cache must equal."""

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

    @property
    def kv_formats(self) -> tuple[KVFormat, ...]:
        """The formats in which this executor can hold keys and values."""
        return _EXACT_KV_FORMATS if self is ExecutorKind.TORCH else tuple(KVFormat)


def checked_count(name: str, value: object) -> int:
    """Returns a count within COUNT_LIMITS as a Python integer; raises ConfigError for anything else."""
    low, high = COUNT_LIMITS[name]
    count = as_int(value)
    if count is None or count < low:
        raise ConfigError(
            f"{name} must be an integer of {low} or more",
            given=shown(value),
            next_step=f"Pass {name} >= {low} or leave it out.",
        )
    if count > high:
        raise ConfigError(
            f"{name} is too large", given=shown(value), limit=high, next_step=f"Pass {name} <= {high} or leave it out."
        )
    return count


def checked_itl_target(name: str, value: object) -> float:
    """Returns a time between two tokens in seconds; raises ConfigError for what is none."""
    low, high = ITL_TARGET_LIMITS_S
    seconds = as_number(value)
    if seconds is None or not low <= seconds <= high:
        raise ConfigError(
            f"{name} is not a time between two tokens",
            given=shown(value),
            limit=f"{low:g} to {high:g} seconds",
            next_step="Write it like 150ms or 0.15s, or leave it out.",
        )
    return float(seconds)


def _check_counts(config: object, names: tuple[str, ...]) -> None:
    for name in names:
        object.__setattr__(config, name, checked_count(name, getattr(config, name)))


def _checked_layers(name: str, value: object) -> tuple[int, ...]:
    layers = [as_int(layer) for layer in value] if isinstance(value, tuple) else [None]
    checked = tuple(layer for layer in layers if layer is not None and layer >= 0)
    if len(checked) != len(layers):
        raise ConfigError(
            f"{name} must be a tuple of integers of 0 or more",
            given=shown(value),
            next_step="Pass the numbers of layers, the first being 0, or leave it out.",
        )
    return checked


def _check_kind(name: str, value: object, kind: type) -> None:
    if not isinstance(value, kind):
        raise ConfigError(
            f"{name} is not a {kind.__name__}", given=shown(value), next_step=f"Pass a {kind.__name__} of quire.config."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig:
    """The KV cache: where it lives, how large it is, in which format."""

    mode: KVCacheMode = KVCacheMode.PAGED
    prefix_cache: PrefixCache = PrefixCache.ON
    block_size: int = KERNEL_TILE_TOKENS
    memory_bytes: int | None = None  # auto: DEFAULT_KV_MEMORY_BYTES, or what the weights leave of the machine
    format: KVFormat | None = None  # auto: the weights' format
    exact_key_layers: tuple[int, ...] = ()  # whose keys stay bfloat16 in a quantized format: `resolve` finds them by their biases

    def __post_init__(self) -> None:
        _check_counts(self, ("block_size",) if self.memory_bytes is None else ("block_size", "memory_bytes"))
        _check_kind("mode", self.mode, KVCacheMode)
        _check_kind("prefix_cache", self.prefix_cache, PrefixCache)
        if self.format is not None:
            _check_kind("format", self.format, KVFormat)
        object.__setattr__(self, "exact_key_layers", _checked_layers("exact_key_layers", self.exact_key_layers))
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
    itl_target_s: float | None = None  # time of a step in which others decode, which bounds its prompt tokens; None: no bound

    def __post_init__(self) -> None:
        _check_counts(self, ("max_num_batched_tokens", "max_num_seqs", "max_queued_requests"))
        if self.itl_target_s is not None:
            object.__setattr__(self, "itl_target_s", checked_itl_target("itl_target_s", self.itl_target_s))


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Everything that shapes an engine; changing any of it makes another engine."""

    cache: CacheConfig = field(default_factory=CacheConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    dtype: DType | None = None  # auto: bfloat16 for bfloat16 checkpoints, float32 for float32 and float16 (exact)
    quantize: Quantize = Quantize.NONE
    calibrate: Calibrate | Path = Calibrate.AUTO  # or a text file
    executor: ExecutorKind | None = None  # auto: native if compiled here
    max_context: int | None = None  # auto: the model's, or what the KV memory holds if that is less
    threads: int | None = None  # auto: the cores this process may use
    weight_format: WeightFormat | None = (
        None  # auto: what dtype and quantize say; stored if neither does and weights are quantized
    )
    packed_cache: Path | None = None  # the directory where the native executor keeps packed weights; None: it keeps none

    def __post_init__(self) -> None:
        _check_counts(self, tuple(name for name in ("max_context", "threads") if getattr(self, name) is not None))
        for name, kind in _KINDS.items():
            if name not in _AUTOMATIC or getattr(self, name) is not None:
                _check_kind(name, getattr(self, name), kind)
        if not isinstance(self.calibrate, (Calibrate, Path)):
            raise ConfigError(
                "calibrate is no text file", given=shown(self.calibrate), next_step="Pass a Calibrate, or pathlib.Path(...)."
            )
        if self.packed_cache is not None and not isinstance(self.packed_cache, Path):
            raise ConfigError(
                "packed_cache is not a path", given=shown(self.packed_cache), next_step="Pass pathlib.Path(...), or None."
            )


_AUTOMATIC = ("dtype", "executor", "weight_format")
_KINDS: Mapping[str, type] = MappingProxyType(
    {
        "cache": CacheConfig,
        "scheduler": SchedulerConfig,
        "dtype": DType,
        "quantize": Quantize,
        "executor": ExecutorKind,
        "weight_format": WeightFormat,
    }
)
