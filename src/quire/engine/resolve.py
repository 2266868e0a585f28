"""From what the user asked for to what the engine will do: every "auto" becomes a value, every limit is checked.

Memory is decided by one formula: blocks by `KVLayout`, the whole by `Capacity`. Planning, admission and the pool all use the
numbers computed here, and they are compared with the machine before anything is allocated.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from importlib.util import find_spec
from typing import TypeVar

from quire.config import (
    DEFAULT_KV_MEMORY_BYTES,
    QUANTIZED_HEAD_DIM_STEP,
    DType,
    EngineConfig,
    ExecutorKind,
    KVCacheMode,
    KVFormat,
    PrefixCache,
    Quantize,
    WeightFormat,
)
from quire.engine.capacity import Capacity, default_kv_memory, require_fit, require_possible
from quire.environment import Memory, default_threads
from quire.errors import ConfigError
from quire.executors.key_bias import exact_key_layers
from quire.executors.options import ExecutorOptions
from quire.executors.packing import PackLayout, matrix_formats
from quire.executors.protocol import kv_layout
from quire.kv.layout import KVLayout, KVRoom
from quire.models.spec import ModelSpec
from quire.models.weights import SourceDType, Weights
from quire.sched.limits import ContextBound, PoolBound
from quire.units import format_bytes

NATIVE_CORE = "quire.native._core"

_Value = TypeVar("_Value")
_log = logging.getLogger("quire")


def resolve(config: EngineConfig, spec: ModelSpec, weights: Weights, memory: Memory | None = None) -> EngineConfig:
    """Returns `config` with nothing left to choose. Raises ConfigError for a context that model or memory cannot hold.

    `memory` is the machine's; None where it is unknown, and then nothing is compared with it.
    """
    dtype = config.dtype or _natural_dtype(weights.dtype)
    kv_format = config.cache.format or KVFormat(dtype.value)
    executor = config.executor or (ExecutorKind.NATIVE if is_native_built() else ExecutorKind.REFERENCE)
    _require_quantizer(config.quantize, executor)
    _require_kv_format(kv_format, executor, spec.head_dim)
    weight_format = config.weight_format or _weight_format(config, dtype, executor, weights.dtype)
    prefix_cache = PrefixCache.OFF if config.cache.mode is KVCacheMode.OFF else config.cache.prefix_cache
    exact = exact_key_layers(spec, weights) if kv_format.is_quantized else ()
    cache = replace(config.cache, format=kv_format, exact_key_layers=exact, prefix_cache=prefix_cache)
    threads = config.threads or default_threads()
    chosen = replace(config, cache=cache, dtype=dtype, executor=executor, weight_format=weight_format, threads=threads)
    return _sized(chosen, capacity_of(chosen, spec, weights), memory)


def _weight_format(config: EngineConfig, dtype: DType, executor: ExecutorKind, source: SourceDType) -> WeightFormat:
    """Returns how matrices are held: a quantized checkpoint's as they are stored, unless another format was asked for."""
    is_asked = config.dtype is not None or config.quantize is not Quantize.NONE
    if source is not SourceDType.QUANTIZED or is_asked or executor is ExecutorKind.TORCH:
        return WeightFormat.of(dtype, config.quantize)
    return WeightFormat.STORED


def _sized(config: EngineConfig, capacity: Capacity, memory: Memory | None) -> EngineConfig:
    """Returns the configuration with its KV memory and context; raises ConfigError where the machine cannot hold them."""
    spec = capacity.spec
    if memory is not None:
        require_possible(capacity, config.cache, config.scheduler, memory)
    memory_bytes = config.cache.memory_bytes or default_kv_memory(capacity, config.max_context or 1, memory)
    room = capacity.layout.divide(memory_bytes, config.scheduler.max_num_seqs, config.max_context or 1)
    max_context = _max_context(config.max_context, spec, capacity.layout, memory_bytes, room)
    resolved = replace(config, cache=replace(config.cache, memory_bytes=memory_bytes), max_context=max_context)
    if memory is not None:
        pool = KVRoom(num_blocks=pool_blocks(resolved, spec), num_own_tiles=kv_room(resolved, spec).num_own_tiles)
        require_fit(capacity, pool, step_rows(resolved, spec), memory)
    if config.cache.memory_bytes is None and memory_bytes < DEFAULT_KV_MEMORY_BYTES:
        _note_small_cache(resolved, spec)
    return resolved


def _note_small_cache(config: EngineConfig, spec: ModelSpec) -> None:
    """Warns of a KV cache that is smaller than usual because memory is short, unless no request would ever use more."""
    if pool_bound(config, spec) is PoolBound.KV_MEMORY:
        given, usual = (format_bytes(size) for size in (settled(config.cache.memory_bytes, "kv_memory"), DEFAULT_KV_MEMORY_BYTES))
        _log.warning("The KV cache gets %s instead of %s because memory is short; kv_memory chooses its size.", given, usual)


def capacity_of(config: EngineConfig, spec: ModelSpec, weights: Weights) -> Capacity:
    """Returns the capacity formula of a configuration whose formats and executor are chosen."""
    executor, int_layout = settled(config.executor, "executor"), _int_layout(config)
    return Capacity(
        spec=spec,
        layout=layout_of(config, spec),
        executor=executor,
        formats=matrix_formats(spec, weights, settled(config.weight_format, "weight_format"), int_layout),
        int_layout=int_layout,
    )


def executor_options(config: EngineConfig, spec: ModelSpec) -> ExecutorOptions:
    """Returns what the executor of a resolved configuration is built from."""
    return ExecutorOptions(
        layout=layout_of(config, spec),
        num_blocks=pool_blocks(config, spec),
        num_own_tiles=kv_room(config, spec).num_own_tiles,
        dtype=settled(config.dtype, "dtype"),
        quantize=config.quantize,
        threads=settled(config.threads, "threads"),
        int_layout=_int_layout(config),
        packed_cache=config.packed_cache,
        weights=settled(config.weight_format, "weight_format"),
    )


def _int_layout(config: EngineConfig) -> PackLayout:
    """Returns the layout of integer weights on this machine; the reference quantizes as the native executor does."""
    if config.weight_format is not WeightFormat.INT8:
        return PackLayout.VNNI
    from quire.executors.native import int_layout

    return int_layout()


def step_rows(config: EngineConfig, spec: ModelSpec) -> int:
    """Returns the most tokens that a step of a resolved configuration computes: its budget, or all that the pool holds."""
    all_tokens = pool_blocks(config, spec) * config.cache.block_size
    return min(config.scheduler.max_num_batched_tokens, all_tokens)


def layout_of(config: EngineConfig, spec: ModelSpec) -> KVLayout:
    """Returns the cache layout of a resolved configuration."""
    cache = config.cache
    return kv_layout(spec, cache.block_size, settled(cache.format, "kv_format"), cache.exact_key_layers)


def pool_blocks(config: EngineConfig, spec: ModelSpec) -> int:
    """Returns the size of the pool: what the memory holds, but never more than the requests of one step can fill."""
    layout, room = layout_of(config, spec), kv_room(config, spec)
    per_request = layout.blocks_for_tokens(settled(config.max_context, "max_context"))
    num_requests = room.num_own_tiles if layout.has_own_tiles else config.scheduler.max_num_seqs
    if config.cache.mode is KVCacheMode.OFF:
        num_requests = 1
    return min(room.num_blocks, num_requests * per_request)


def context_bound(config: EngineConfig, spec: ModelSpec, model_context: int) -> ContextBound:
    """Returns what keeps the context of a resolved configuration from being longer; `model_context` is the model's own."""
    max_context = settled(config.max_context, "max_context")
    if max_context >= model_context:
        return ContextBound.MODEL
    pool_tokens = kv_room(config, spec).num_blocks * config.cache.block_size
    return ContextBound.KV_MEMORY if max_context >= pool_tokens else ContextBound.MAX_CONTEXT


def pool_bound(config: EngineConfig, spec: ModelSpec) -> PoolBound:
    """Returns which option keeps the pool of a resolved configuration from being larger."""
    room = kv_room(config, spec)
    is_all_memory = pool_blocks(config, spec) == room.num_blocks or 0 < room.num_own_tiles < config.scheduler.max_num_seqs
    return PoolBound.KV_MEMORY if is_all_memory else PoolBound.MAX_NUM_SEQS


def kv_room(config: EngineConfig, spec: ModelSpec) -> KVRoom:
    """Returns the blocks that the memory of a resolved configuration holds, and the own tiles: as many requests may run."""
    memory_bytes, num_tokens = settled(config.cache.memory_bytes, "kv_memory"), settled(config.max_context, "max_context")
    return layout_of(config, spec).divide(memory_bytes, config.scheduler.max_num_seqs, num_tokens)


def settled(value: _Value | None, name: str) -> _Value:
    """Returns a value of a resolved configuration; raises ConfigError if it is still auto."""
    if value is None:
        raise ConfigError(f"{name} is still auto", next_step="Pass the configuration through resolve() first.")
    return value


def is_native_built() -> bool:
    """Returns whether the compiled core was built for this installation."""
    return find_spec(NATIVE_CORE) is not None


def _natural_dtype(source: SourceDType) -> DType:
    return DType.BFLOAT16 if source in (SourceDType.BFLOAT16, SourceDType.QUANTIZED) else DType.FLOAT32


def _require_quantizer(quantize: Quantize, executor: ExecutorKind) -> None:
    if quantize is not Quantize.NONE and executor is ExecutorKind.TORCH:
        raise ConfigError(
            "the torch executor has no integer weights",
            given=f"quantize={quantize.value}",
            limit="executors with integer weights: native, reference",
            next_step="Leave quantize out, or pass executor='native'.",
        )


def _require_kv_format(kv_format: KVFormat, executor: ExecutorKind, head_dim: int) -> None:
    if kv_format not in executor.kv_formats:
        raise ConfigError(
            f"the {executor.value} executor does not have this KV format",
            given=f"kv_format={kv_format.value}",
            limit=f"formats it has: {', '.join(each.value for each in executor.kv_formats)}",
            next_step=_other_kv_format(kv_format),
        )
    if kv_format.is_quantized and head_dim % QUANTIZED_HEAD_DIM_STEP:
        raise ConfigError(
            f"kv_format={kv_format.value} needs a head_dim that is a multiple of {QUANTIZED_HEAD_DIM_STEP}",
            given=head_dim,
            next_step="Leave kv_format out for this model, or pass kv_format='bfloat16'.",
        )


def _other_kv_format(kv_format: KVFormat) -> str:
    """Returns what to do about a format that the chosen executor lacks."""
    having = next(kind.value for kind in ExecutorKind if kv_format in kind.kv_formats)
    return f"Choose one of these or leave kv_format out, or pass executor={having!r}."


def _max_context(asked: int | None, spec: ModelSpec, layout: KVLayout, memory_bytes: int, room: KVRoom) -> int:
    pool_tokens = room.num_blocks * layout.block_size
    if room.num_blocks == 0:
        own = ", and the tile that a request writes" if layout.has_own_tiles else ""
        raise ConfigError(
            "the KV memory does not hold one block of this model",
            given=format_bytes(memory_bytes),
            limit=f"at least {layout.bytes_for_tokens(1)} bytes for {layout.block_size} tokens{own}",
            next_step="Raise kv_memory, or choose a smaller block_size or kv_format.",
        )
    if asked is None:
        return min(spec.max_context, pool_tokens)
    if asked > spec.max_context:
        raise ConfigError(
            "max_context exceeds what the model was trained for",
            given=asked,
            limit=spec.max_context,
            next_step=f"Pass max_context <= {spec.max_context} or leave it out.",
        )
    if asked > pool_tokens:
        raise ConfigError(
            "max_context needs more KV memory than there is",
            given=f"{asked} tokens, {format_bytes(layout.bytes_for_tokens(asked))}",
            limit=f"{pool_tokens} tokens in {format_bytes(memory_bytes)}",
            next_step=f"Raise kv_memory, pass max_context <= {pool_tokens}, or choose a smaller kv_format.",
        )
    return asked
