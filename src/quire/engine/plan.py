"""What a model will take, before it is loaded: the numbers of `resolve`, `Capacity` and `KVLayout`, laid side by side.

    weights    by format: what the native executor would pack
    KV cache   by format: bytes, and what `kv_memory` holds of it
    memory     what loading with these options takes, and whether this machine has it

Nothing is counted here: admission divides the same memory by the same functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from quire.config import QUANTIZED_HEAD_DIM_STEP, EngineConfig, ExecutorKind, KVFormat, WeightFormat
from quire.engine.capacity import Capacity, Needs
from quire.engine.resolve import capacity_of, kv_room, pool_blocks, resolve, settled, step_rows
from quire.environment import Memory, read_memory
from quire.errors import ConfigError
from quire.executors.key_bias import exact_key_layers
from quire.executors.kv_shape import kv_layout
from quire.executors.native import int_layout
from quire.executors.packing import chosen_formats
from quire.kv.layout import KVLayout
from quire.models.checkpoint import Checkpoint
from quire.models.spec import ModelSpec

CONCURRENCY = (1, 4, 16, 64)
"""Numbers of requests for which the longest context of each is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedLoad:
    """The requests to plan for: `concurrency` of them at once, of `context` tokens each; None: the longest that is served."""

    context: int | None = None
    concurrency: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class KVPlan:
    """One KV format. `num_blocks` and `num_own_tiles` are what the KV memory is divided into for `max_num_seqs` requests.

    `load_bytes` are those of the asked load, `seen_bytes` the part of them that its next tokens read: windows see less than is
    held. `contexts` says by the number of requests at once how long each may be; None where so many do not fit.
    """

    format: KVFormat
    is_available: bool
    bytes_per_token: int
    bytes_per_block: int
    bytes_per_own_tile: int
    num_blocks: int
    num_own_tiles: int
    load_bytes: int
    seen_bytes: int
    contexts: Mapping[int, int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """A model with its resolved options. `problem` is the error that loading would end with on this machine, None if it fits.

    `context` and `concurrency` are the asked load. `weights` are bytes by format, `layouts` those of `kv`, in its order.
    """

    config: EngineConfig
    capacity: Capacity
    context: int
    concurrency: int
    weights: Mapping[WeightFormat, int]
    kv: tuple[KVPlan, ...]
    layouts: Mapping[KVFormat, KVLayout]
    needs: Needs
    memory: Memory | None
    problem: ConfigError | None


def plan_memory(config: EngineConfig, checkpoint: Checkpoint, asked: AskedLoad) -> MemoryPlan:
    """Returns what loading a model takes; its weights need not be there (see `models/described.py`).

    Raises ConfigError for options that fit no machine, such as a KV memory without room for a block.
    """
    spec, memory = checkpoint.spec, read_memory()
    resolved, problem = _resolved(config, checkpoint, memory)
    capacity = capacity_of(resolved, spec, checkpoint.weights)
    context = _context(asked.context, settled(resolved.max_context, "max_context"), spec)
    exact = exact_key_layers(spec, checkpoint.weights)
    layouts = {each: kv_layout(spec, capacity.layout.block_size, each, exact if each.is_quantized else ()) for each in KVFormat}
    load = AskedLoad(context=context, concurrency=asked.concurrency)
    return MemoryPlan(
        config=resolved,
        capacity=capacity,
        context=context,
        concurrency=asked.concurrency,
        weights=_weights_by_format(capacity, settled(resolved.weight_format, "weight_format")),
        kv=tuple(_kv_plan(layout, resolved, spec, load) for layout in layouts.values()),
        layouts=layouts,
        needs=capacity.needs(pool_blocks(resolved, spec), step_rows(resolved, spec), kv_room(resolved, spec).num_own_tiles),
        memory=memory,
        problem=problem,
    )


def _resolved(config: EngineConfig, checkpoint: Checkpoint, memory: Memory | None) -> tuple[EngineConfig, ConfigError | None]:
    """Returns the configuration as loading resolves it; where this machine is too small, as a larger one would."""
    try:
        return resolve(config, checkpoint.spec, checkpoint.weights, memory), None
    except ConfigError as error:
        return resolve(config, checkpoint.spec, checkpoint.weights), error


def _context(asked: int | None, served: int, spec: ModelSpec) -> int:
    if asked is not None and asked > spec.max_context:
        raise ConfigError(
            "the context exceeds what the model was trained for",
            given=asked,
            limit=spec.max_context,
            next_step=f"Plan for at most {spec.max_context} tokens.",
        )
    return asked or served


def _weights_by_format(capacity: Capacity, chosen: WeightFormat) -> dict[WeightFormat, int]:
    """Returns the bytes of the weights in every format that can be chosen, and as they are stored where that is the choice."""
    native = replace(capacity, executor=ExecutorKind.NATIVE)
    found: dict[WeightFormat, int] = {}
    for each in WeightFormat:
        if each is not WeightFormat.STORED:
            found[each] = replace(native, formats=chosen_formats(capacity.spec, each, int_layout())).weight_bytes
        elif each is chosen:
            found[each] = capacity.weight_bytes
    return found


def _kv_plan(layout: KVLayout, config: EngineConfig, spec: ModelSpec, load: AskedLoad) -> KVPlan:
    executor, memory_bytes = settled(config.executor, "executor"), settled(config.cache.memory_bytes, "kv_memory")
    is_shaped = not (layout.format.is_quantized and spec.head_dim % QUANTIZED_HEAD_DIM_STEP)
    room = layout.divide(memory_bytes, config.scheduler.max_num_seqs, 1)
    context = load.context or 1
    seen = sum(min(context, layer.sliding_window or context) for layer in spec.layers)
    return KVPlan(
        format=layout.format,
        is_available=is_shaped and layout.format in executor.kv_formats,
        bytes_per_token=layout.bytes_per_token,
        bytes_per_block=layout.bytes_per_block,
        bytes_per_own_tile=layout.bytes_per_own_tile,
        num_blocks=room.num_blocks,
        num_own_tiles=room.num_own_tiles,
        load_bytes=load.concurrency * layout.bytes_for_tokens(context),
        seen_bytes=load.concurrency * layout.bytes_per_token * seen // spec.num_layers,
        contexts={count: longest_context(layout, memory_bytes, count, spec.max_context) for count in CONCURRENCY},
    )


def longest_context(layout: KVLayout, memory_bytes: int, concurrency: int, max_context: int) -> int | None:
    """Returns how many tokens each of `concurrency` requests may have at once, at most `max_context`; None if not one block."""
    room = layout.divide(memory_bytes, concurrency, 1)
    if layout.has_own_tiles and room.num_own_tiles < concurrency:
        return None
    return min(max_context, room.num_blocks // concurrency * layout.block_size) or None
