"""What an engine will take of the machine's memory: one formula, applied before anything is allocated.

    weights    every matrix in its format, packed where the native executor packs it
    KV cache   blocks * KVLayout.bytes_per_block, and an own tile of each running request where the format has them
    books      what the pool remembers of each block: its keys and tokens
    step       activations of the largest step that the limits allow, one slice of logits, and where the executor writes
               attention scores down, those of its longest request

Weights that are mapped from files are not counted: the operating system drops such pages when it needs them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod

from quire.config import DEFAULT_KV_MEMORY_BYTES, CacheConfig, ExecutorKind, SchedulerConfig, WeightFormat
from quire.engine.batch import rows_per_slice
from quire.environment import Memory, read_memory
from quire.errors import CapacityError, ConfigError
from quire.executors.packing import PackLayout, PanelFormat, chosen_formats, packed_bytes
from quire.kv.layout import KVLayout, KVRoom
from quire.models.spec import ModelSpec
from quire.sampling import SamplingParams
from quire.units import GIB, KIB, MIB, format_bytes

_FLOAT_BYTES = 4

_BOOK_BYTES, _BOOK_BYTES_PER_TOKEN = 640, 8
"""Of one block of the pool in Python, once its content is findable."""

_LOGPROB_BYTES = 256
"""Of one candidate in a result: its entry, its numbers and its text."""

_LARGE_BYTES = GIB // 4
"""Results below this size are not worth asking the operating system how much memory there is."""

_PERCENT_OF_DEFAULT = 80
"""Of the memory that is left, what a KV cache takes at most where its size was not chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """Bytes that an engine takes."""

    weights: int
    kv_cache: int
    books: int
    step: int

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache + self.books + self.step

    def __str__(self) -> str:
        parts = {"weights": self.weights, "KV cache": self.kv_cache, "its bookkeeping": self.books, "a step": self.step}
        return f"{format_bytes(self.total)}: " + ", ".join(f"{name} {format_bytes(size)}" for name, size in parts.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """The formula for one model on one executor; `formats` are those of its matrices, by name."""

    spec: ModelSpec
    layout: KVLayout
    executor: ExecutorKind
    formats: Mapping[str, PanelFormat]
    int_layout: PackLayout = PackLayout.VNNI

    @property
    def bytes_per_block(self) -> int:
        """Of a block with its books."""
        return self.layout.bytes_per_block + self._book_bytes

    @property
    def bytes_per_score(self) -> int:
        """Of one pair of a query and a key: scores of all heads with two copies, a mask, or nothing where tiles are merged."""
        is_whole = self.executor is ExecutorKind.REFERENCE or self.spec.attention_softcap is not None
        if self.executor is ExecutorKind.NATIVE:
            return 0
        return 3 * _FLOAT_BYTES * self.spec.num_heads if is_whole else _FLOAT_BYTES + 1

    def block_cost(self, num_rows: int) -> int:
        """Bytes that one block more takes at most: itself, and the scores of `num_rows` queries for its keys."""
        return self.bytes_per_block + self.bytes_per_score * num_rows * self.layout.block_size

    @property
    def bytes_per_row(self) -> int:
        """Activations of one token of a step: residual, queries, keys and values, and the feed-forward, with their copies."""
        spec = self.spec
        query, kv = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
        return _FLOAT_BYTES * (3 * spec.hidden_size + 4 * query + 2 * kv + spec.ffn_size)

    @property
    def weight_bytes(self) -> int:
        """What the executor holds of the weights: panels of the format, or float32 where it does not pack."""
        return sum(self._tensor_bytes(name, shape) for name, shape in self.spec.tensor_shapes().items())

    def needs(self, num_blocks: int, num_rows: int, num_own_tiles: int = 0) -> Needs:
        """Returns what a pool of blocks, own tiles and steps of up to `num_rows` tokens take, and the weights."""
        logits = min(num_rows, rows_per_slice(self.spec.vocab_size)) * self.spec.vocab_size * _FLOAT_BYTES
        num_keys = min(num_blocks * self.layout.block_size, self.spec.max_context)
        scores = self.bytes_per_score * min(num_rows, num_keys) * num_keys
        return Needs(
            weights=self.weight_bytes,
            kv_cache=num_blocks * self.layout.bytes_per_block + num_own_tiles * self.layout.bytes_per_own_tile,
            books=num_blocks * self._book_bytes,
            step=num_rows * self.bytes_per_row + logits + scores,
        )

    @property
    def _book_bytes(self) -> int:
        return _BOOK_BYTES + _BOOK_BYTES_PER_TOKEN * self.layout.block_size

    def _tensor_bytes(self, name: str, shape: tuple[int, ...]) -> int:
        if self.executor is not ExecutorKind.NATIVE or name not in self.formats:
            return _FLOAT_BYTES * prod(shape)
        return packed_bytes((shape[0], shape[1]), self.formats[name])


def default_kv_memory(capacity: Capacity, min_tokens: int, memory: Memory | None) -> int:
    """Returns `DEFAULT_KV_MEMORY_BYTES`, or where weights and a step leave less of the machine, most of that.

    Never less than holds `min_tokens` tokens: whether even that fits is for `require_fit` to say.
    """
    if memory is None:
        return DEFAULT_KV_MEMORY_BYTES
    left = max(0, memory.available_bytes - capacity.needs(0, SchedulerConfig().max_num_batched_tokens).total)
    num_blocks = left * _PERCENT_OF_DEFAULT // 100 // capacity.block_cost(SchedulerConfig().max_num_batched_tokens)
    fitting = num_blocks * capacity.layout.bytes_per_block
    return min(DEFAULT_KV_MEMORY_BYTES, max(fitting, capacity.layout.bytes_for_tokens(min_tokens)))


def require_possible(capacity: Capacity, cache: CacheConfig, scheduler: SchedulerConfig, memory: Memory) -> None:
    """Raises ConfigError for an option that asks for more than the whole machine could give, whatever is used of it.

    Values up to the defaults always pass: they are limits that no request need reach.
    """
    steps, most = SchedulerConfig(), memory.total_bytes + memory.swap_bytes
    left = max(0, memory.reachable_bytes - capacity.needs(0, steps.max_num_batched_tokens).total)
    if (asked := cache.memory_bytes) is not None and asked > max(most, DEFAULT_KV_MEMORY_BYTES):
        fitting = _size_option(left // capacity.block_cost(steps.max_num_batched_tokens) * capacity.layout.bytes_per_block)
        raise _impossible("kv_memory", format_bytes(asked), most, fitting)
    for name, size in (("max_num_seqs", capacity.bytes_per_block), ("max_num_batched_tokens", capacity.bytes_per_row)):
        count = getattr(scheduler, name)
        if count > getattr(steps, name) and count * size > most:
            fitting = str(max(left // size, getattr(steps, name)))
            raise _impossible(name, f"{count}, which takes at least {format_bytes(count * size)}", most, fitting)


def _impossible(name: str, given: str, most: int, fitting: str) -> ConfigError:
    return ConfigError(
        f"{name} asks for more memory than this machine has",
        given=given,
        limit=format_bytes(most),
        next_step=f"Pass {name}={fitting} or less, or leave it out.",
    )


def require_fit(capacity: Capacity, pool: KVRoom, num_rows: int, memory: Memory) -> None:
    """Raises ConfigError, with the numbers and what would fit, if the engine needs more memory than is available."""
    needs = capacity.needs(pool.num_blocks, num_rows, pool.num_own_tiles)
    if needs.total <= memory.reachable_bytes:
        return
    swap = f" and {format_bytes(memory.swap_bytes)} of swap" if memory.swap_bytes else ""
    raise ConfigError(
        "the model and its KV cache need more memory than there is",
        given=needs,
        limit=f"{format_bytes(memory.available_bytes)} available{swap}",
        next_step=_what_fits(capacity, pool, num_rows, memory.reachable_bytes),
    )


def _what_fits(capacity: Capacity, pool: KVRoom, num_rows: int, room: int) -> str:
    """Returns the advice that changes least: less KV memory, smaller steps, smaller weights, a smaller model."""
    left, cost = room - capacity.needs(0, num_rows).total, capacity.block_cost(num_rows)
    if left >= cost:
        return f"Pass kv_memory={_size_option(left // cost * capacity.layout.bytes_per_block)} or less."
    row_cost = capacity.bytes_per_row + capacity.bytes_per_score * capacity.layout.block_size
    num_fitting_rows = (room - capacity.needs(min(1, pool.num_blocks), 0, min(1, pool.num_own_tiles)).total) // row_cost
    if num_fitting_rows > 0:
        return f"Pass max_num_batched_tokens={num_fitting_rows} or less, and a smaller kv_memory."
    for weight_format in (WeightFormat.BFLOAT16, WeightFormat.INT8, WeightFormat.INT4):
        formats = chosen_formats(capacity.spec, weight_format, capacity.int_layout)
        smaller = replace(capacity, executor=ExecutorKind.NATIVE, formats=formats)
        if smaller.needs(1, 1, min(1, pool.num_own_tiles)).total <= room and smaller.weight_bytes < capacity.weight_bytes:
            option = "dtype" if weight_format is WeightFormat.BFLOAT16 else "quantize"
            executor = "" if capacity.executor is ExecutorKind.NATIVE else " with executor=native"
            return f"Pass {option}={weight_format.value}{executor}: its weights take {format_bytes(smaller.weight_bytes)}."
    return "Choose a smaller model, or free memory."


def _size_option(num_bytes: int) -> str:
    """Returns a size that is written like the option and not larger."""
    for size, name in ((MIB, "MiB"), (KIB, "KiB")):
        if num_bytes >= 8 * size:
            return f"{num_bytes // size}{name}"
    return str(num_bytes)


def require_logit_room(shape: tuple[int, ...], vocab_size: int) -> None:
    """Raises CapacityError where the logits of tokens [B, T], returned whole, need more memory than is available."""
    num_bytes = prod(shape) * vocab_size * _FLOAT_BYTES
    if num_bytes > _LARGE_BYTES and (memory := read_memory()) is not None and num_bytes > memory.reachable_bytes:
        raise CapacityError(
            "the logits of so many tokens need more memory than there is",
            given=f"{prod(shape)} tokens, {format_bytes(num_bytes)}",
            limit=f"{format_bytes(memory.reachable_bytes)} available",
            next_step=f"Pass at most {memory.reachable_bytes // (vocab_size * _FLOAT_BYTES)} tokens in one call.",
        )


def require_logprob_room(sampling: SamplingParams, num_prompt: int) -> None:
    """Raises CapacityError where the log-probabilities that a request is sure to ask for need more memory than is available.

    Those are of its prompt, and of `max_tokens` tokens of each completion where a number is given.
    """
    num_entries = 0
    if sampling.prompt_logprobs is not None:
        num_entries += num_prompt * (sampling.prompt_logprobs + 1)
    if sampling.logprobs is not None and sampling.max_tokens is not None:
        num_entries += sampling.n * sampling.max_tokens * (sampling.logprobs + 1)
    num_bytes = num_entries * _LOGPROB_BYTES
    if num_bytes > _LARGE_BYTES and (memory := read_memory()) is not None and num_bytes > memory.reachable_bytes:
        raise CapacityError(
            "so many log-probabilities need more memory than there is",
            given=f"{num_entries} of them, {format_bytes(num_bytes)}",
            limit=f"{format_bytes(memory.reachable_bytes)} available",
            next_step="Ask for fewer: lower logprobs, prompt_logprobs, max_tokens or n, or shorten the prompt.",
        )
