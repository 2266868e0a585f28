"""A plan as one value: its JSON, and the sentences that its numbers do not say by themselves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import Enum
from math import prod
from typing import Any

from quire.bench.forecast import Times, Work
from quire.config import KVFormat
from quire.engine.plan import KVPlan, MemoryPlan
from quire.models.described import Described
from quire.models.spec import QKNorm
from quire.units import MIB, cdiv, format_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """All that is known of a model before it is loaded; `times` is None where nothing was measured."""

    name: str
    described: Described
    memory: MemoryPlan
    work: Work
    times: Times | None


def plan_json(planned: Planned) -> dict[str, Any]:
    """Returns the plan with the stable names that scripts may read; sizes are in bytes, times in seconds."""
    memory, spec = planned.memory, planned.memory.capacity.spec
    config = memory.config
    return {
        "model": planned.name,
        "family": spec.family,
        "num_parameters": num_parameters(planned),
        "missing": planned.described.missing,
        "settings": {
            "executor": _word(config.executor),
            "weights": _word(config.weight_format),
            "kv_format": _word(config.cache.format),
            "kv_memory": config.cache.memory_bytes,
            "block_size": config.cache.block_size,
            "max_context": config.max_context,
            "max_num_seqs": config.scheduler.max_num_seqs,
            "max_num_batched_tokens": config.scheduler.max_num_batched_tokens,
            "threads": config.threads,
            "context": memory.context,
            "concurrency": memory.concurrency,
        },
        "weights": {each.value: size for each, size in memory.weights.items()},
        "kv": {each.format.value: _kv_json(each) for each in memory.kv},
        "exact_key_layers": list(exact_key_layers(memory)),
        "memory": _memory_json(memory),
        "flops": asdict(planned.work),
        "times": _times_json(planned.times),
        "notes": list(notes(planned)),
    }


def _word(choice: Enum | None) -> str | None:
    return None if choice is None else str(choice.value)


def _kv_json(kv: KVPlan) -> dict[str, Any]:
    fields = asdict(kv)
    del fields["format"]
    return fields | {"contexts": {str(count): tokens for count, tokens in kv.contexts.items()}}


def _memory_json(memory: MemoryPlan) -> dict[str, Any]:
    return {
        **asdict(memory.needs),
        "total": memory.needs.total,
        "activations_per_token": memory.capacity.bytes_per_row,
        "available": None if memory.memory is None else memory.memory.reachable_bytes,
        "fits": memory.problem is None,
        "problem": None if memory.problem is None else str(memory.problem),
    }


def _times_json(times: Times | None) -> dict[str, Any] | None:
    if times is None:
        return None
    return {
        "bandwidth": times.peak.bandwidth,
        "flops": times.peak.flops,
        "prompt": times.prompt,
        "generated_token": {each.value: seconds for each, seconds in times.generated_token.items()},
    }


def num_parameters(planned: Planned) -> int:
    """Returns the number of the model's weights, one that is tied counted once."""
    return sum(prod(shape) for shape in planned.memory.capacity.spec.tensor_shapes().values())


def notes(planned: Planned) -> tuple[str, ...]:
    """Returns what the numbers do not say by themselves, a sentence or two each."""
    memory = planned.memory
    found = (*_about_weights(planned), *_about_keys(planned), *_about_windows(memory), *_about_load(memory))
    return found if memory.problem is None else (*found, f"This machine cannot load it so: {memory.problem}")


def _about_weights(planned: Planned) -> Iterator[str]:
    described = planned.described
    if described.missing is None:
        return
    yield f"There are no weights here: `quire run` needs {described.missing} beside config.json."
    if described.unread_storage is not None:
        yield (
            f"The weights are stored as {described.unread_storage}. What that takes is known once they are there; until then "
            "they count as bfloat16."
        )


def _about_keys(planned: Planned) -> Iterator[str]:
    spec = planned.memory.capacity.spec
    if exact := exact_key_layers(planned.memory):
        yield f"In the integer KV formats, keys of layers {', '.join(map(str, exact))} stay bfloat16, for their biases are large."
    elif planned.described.missing is not None and spec.has_qkv_bias and spec.qk_norm is QKNorm.NONE:
        yield "In the integer KV formats, keys of layers with large biases stay bfloat16: known once weights are there."


def exact_key_layers(memory: MemoryPlan) -> tuple[int, ...]:
    """Returns the layers whose keys stay bfloat16 in the integer KV formats."""
    return memory.layouts[KVFormat.INT4].exact_key_layers


def _about_load(memory: MemoryPlan) -> Iterator[str]:
    needed = memory.capacity.layout.bytes_for_requests(memory.concurrency, memory.context)
    if needed > (memory.config.cache.memory_bytes or 0):
        yield (
            f"{memory.concurrency} x {memory.context} tokens are computed together with --kv-memory {cdiv(needed, MIB)}MiB or "
            "more; with less, requests wait for one another."
        )


def _about_windows(memory: MemoryPlan) -> Iterator[str]:
    spec = memory.capacity.spec
    windows = sorted({layer.sliding_window for layer in spec.layers if layer.sliding_window is not None})
    if not windows:
        return
    chosen = next(each for each in memory.kv if each.format is memory.config.cache.format)
    num_windowed = sum(layer.sliding_window is not None for layer in spec.layers)
    yield (
        f"{num_windowed} of {spec.num_layers} layers see the last {', '.join(map(str, windows))} tokens only. The cache holds "
        f"all tokens of every layer, {format_bytes(chosen.load_bytes)} for this load; the next tokens read "
        f"{format_bytes(chosen.seen_bytes)} of that."
    )
