"""From what the user asked for to what the engine will do: every "auto" becomes a value, every limit is checked.

Memory is decided by one formula, `KVLayout`: planning, admission and the pool all use the numbers computed here.
"""

from __future__ import annotations

import os
from dataclasses import replace
from importlib.util import find_spec
from typing import TypeVar

from quire.config import DType, EngineConfig, ExecutorKind, KVCacheMode, KVFormat, PrefixCache, Quantize
from quire.engine.past import PoolBound
from quire.environment import read_environment
from quire.errors import ConfigError
from quire.executors.protocol import kv_layout
from quire.kv.layout import KVLayout
from quire.models.spec import ModelSpec
from quire.models.weights import SourceDType, Weights
from quire.sched.limits import ContextBound
from quire.units import format_bytes

NATIVE_CORE = "quire.native._core"

_Value = TypeVar("_Value")


def resolve(config: EngineConfig, spec: ModelSpec, weights: Weights) -> EngineConfig:
    """Returns `config` with nothing left to choose. Raises ConfigError for a context that model or memory cannot hold."""
    dtype = config.dtype or _exact_dtype(weights.dtype)
    kv_format = config.cache.format or KVFormat(dtype.value)
    executor = config.executor or (ExecutorKind.NATIVE if is_native_built() else ExecutorKind.REFERENCE)
    _require_quantizer(config.quantize, executor)
    prefix_cache = PrefixCache.OFF if config.cache.mode is KVCacheMode.OFF else config.cache.prefix_cache
    cache = replace(config.cache, format=kv_format, prefix_cache=prefix_cache)
    return replace(
        config,
        cache=cache,
        dtype=dtype,
        executor=executor,
        max_context=_max_context(config.max_context, spec, kv_layout(spec, cache.block_size, kv_format), cache.memory_bytes),
        threads=config.threads or default_threads(),
    )


def layout_of(config: EngineConfig, spec: ModelSpec) -> KVLayout:
    """Returns the cache layout of a resolved configuration."""
    return kv_layout(spec, config.cache.block_size, settled(config.cache.format, "kv_format"))


def pool_blocks(config: EngineConfig, spec: ModelSpec) -> int:
    """Returns the size of the pool: what the memory holds, but never more than the requests of one step can fill."""
    layout = layout_of(config, spec)
    per_request = layout.blocks_for_tokens(settled(config.max_context, "max_context"))
    num_requests = 1 if config.cache.mode is KVCacheMode.OFF else config.scheduler.max_num_seqs
    return min(layout.blocks_in_bytes(config.cache.memory_bytes), num_requests * per_request)


def context_bound(config: EngineConfig, spec: ModelSpec, model_context: int) -> ContextBound:
    """Returns what keeps the context of a resolved configuration from being longer; `model_context` is the model's own."""
    max_context = settled(config.max_context, "max_context")
    if max_context >= model_context:
        return ContextBound.MODEL
    layout = layout_of(config, spec)
    pool_tokens = layout.blocks_in_bytes(config.cache.memory_bytes) * layout.block_size
    return ContextBound.KV_MEMORY if max_context >= pool_tokens else ContextBound.MAX_CONTEXT


def pool_bound(config: EngineConfig, spec: ModelSpec) -> PoolBound:
    """Returns which option keeps the pool of a resolved configuration from being larger."""
    is_all_memory = pool_blocks(config, spec) == layout_of(config, spec).blocks_in_bytes(config.cache.memory_bytes)
    return PoolBound.KV_MEMORY if is_all_memory else PoolBound.MAX_NUM_SEQS


def settled(value: _Value | None, name: str) -> _Value:
    """Returns a value of a resolved configuration; raises ConfigError if it is still auto."""
    if value is None:
        raise ConfigError(f"{name} is still auto", next_step="Pass the configuration through resolve() first.")
    return value


def is_native_built() -> bool:
    """Returns whether the compiled core was built for this installation."""
    return find_spec(NATIVE_CORE) is not None


def default_threads() -> int:
    """Returns the threads to use where nobody chose: QUIRE_THREADS, else one for every usable core."""
    return read_environment().threads or usable_cores()


def usable_cores() -> int:
    """Returns the cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _exact_dtype(source: SourceDType) -> DType:
    return DType.BFLOAT16 if source is SourceDType.BFLOAT16 else DType.FLOAT32


def _require_quantizer(quantize: Quantize, executor: ExecutorKind) -> None:
    if quantize is not Quantize.NONE and executor is ExecutorKind.TORCH:
        raise ConfigError(
            "the torch executor has no integer weights",
            given=f"quantize={quantize.value}",
            limit="executors with integer weights: native, reference",
            next_step="Leave quantize out, or pass executor='native'.",
        )


def _max_context(asked: int | None, spec: ModelSpec, layout: KVLayout, memory_bytes: int) -> int:
    num_blocks = layout.blocks_in_bytes(memory_bytes)
    pool_tokens = num_blocks * layout.block_size
    if num_blocks == 0:
        raise ConfigError(
            "the KV memory does not hold one block of this model",
            given=format_bytes(memory_bytes),
            limit=f"at least {format_bytes(layout.bytes_per_block)} for {layout.block_size} tokens",
            next_step="Raise kv_memory or choose a smaller kv_format.",
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
            given=f"{asked} tokens, {format_bytes(layout.blocks_for_tokens(asked) * layout.bytes_per_block)}",
            limit=f"{pool_tokens} tokens in {format_bytes(memory_bytes)}",
            next_step=f"Raise kv_memory, pass max_context <= {pool_tokens}, or choose a smaller kv_format.",
        )
    return asked
