"""Prints a plan: four tables, and what the numbers do not say by themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from quire.cli.display import facts, listing
from quire.cli.planned import Planned, notes, num_parameters
from quire.units import format_bytes, format_rate

if TYPE_CHECKING:
    from rich.table import Table

    from quire.bench.forecast import Times
    from quire.engine.plan import KVPlan, MemoryPlan

_CHOSEN = "*"
_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def plan_tables(planned: Planned) -> Iterator[Table | str]:
    """Returns tables and sentences in the order in which they are read."""
    memory = planned.memory
    yield facts(planned.name, _model_rows(planned))
    yield ""
    yield listing("Weights", ("", "format", "bytes>"), _weight_rows(memory))
    yield from _kv_tables(memory, planned.times)
    yield facts("Memory to load it with these options", _memory_rows(memory))
    yield ""
    yield facts(f"Work of a request of {memory.context} tokens", _work_rows(planned))
    yield from ("", *notes(planned)) if notes(planned) else ()


def _model_rows(planned: Planned) -> Mapping[str, str]:
    config, spec = planned.memory.config, planned.memory.capacity.spec
    chosen = (config.weight_format, config.cache.format, config.executor)
    weights, kv, executor = ("auto" if each is None else each.value for each in chosen)
    return {
        "family": f"{spec.family}, {num_parameters(planned):,} parameters",
        "layers": f"{spec.num_layers}, {spec.num_heads} query heads, {spec.num_kv_heads} kv heads, {spec.head_dim} wide",
        "context": f"{spec.max_context} tokens, {config.max_context} served",
        "executor": f"{executor}, {config.threads} threads, weights {weights}, KV {kv} (marked {_CHOSEN} below)",
    }


def _weight_rows(memory: MemoryPlan) -> Iterator[tuple[str, str, str]]:
    for each, num_bytes in memory.weights.items():
        yield _mark(each is memory.config.weight_format), each.value, format_bytes(num_bytes)


def _kv_tables(memory: MemoryPlan, times: Times | None) -> Iterator[Table]:
    size = format_bytes(memory.config.cache.memory_bytes or 0)
    requests = "request" if memory.concurrency == 1 else "requests"
    headers = ("", "format", "per token>", "own tile>", f"{memory.concurrency} {requests} of {memory.context}>", "blocks>")
    yield listing(f"KV cache in {size}", (*headers, *_time_headers(times)), [_kv_row(each, memory, times) for each in memory.kv])
    counts = tuple(memory.kv[0].contexts)
    headings = ("", "format", *(f"{count} at once>" for count in counts))
    yield listing(f"Longest context of each request in {size}", headings, [_context_row(each, memory) for each in memory.kv])


def _time_headers(times: Times | None) -> tuple[str, ...]:
    return () if times is None else ("a token at least>", "at most>")


def _kv_row(kv: KVPlan, memory: MemoryPlan, times: Times | None) -> tuple[str, ...]:
    row = (
        _mark(kv.format is memory.config.cache.format),
        _format_name(kv),
        format_bytes(kv.bytes_per_token),
        format_bytes(kv.bytes_per_own_tile) if kv.bytes_per_own_tile else "",
        format_bytes(kv.load_bytes),
        str(kv.num_blocks),
    )
    if times is None:
        return row
    seconds = times.generated_token[kv.format]
    return (*row, _duration(seconds), format_rate(memory.concurrency / seconds, "tokens"))


def _context_row(kv: KVPlan, memory: MemoryPlan) -> tuple[str, ...]:
    tokens = ("-" if count is None else str(count) for count in kv.contexts.values())
    return _mark(kv.format is memory.config.cache.format), _format_name(kv), *tokens


def _format_name(kv: KVPlan) -> str:
    return kv.format.value if kv.is_available else f"{kv.format.value} (not here)"


def _memory_rows(memory: MemoryPlan) -> Mapping[str, str]:
    needs, per_row = memory.needs, format_bytes(memory.capacity.bytes_per_row)
    there = "unknown" if memory.memory is None else format_bytes(memory.memory.reachable_bytes)
    return {
        "weights": format_bytes(needs.weights),
        "KV cache": format_bytes(needs.kv_cache),
        "its bookkeeping": format_bytes(needs.books),
        "a step": f"{format_bytes(needs.step)}, activations of {per_row} a token among them",
        "in all": f"{format_bytes(needs.total)} of {there} available",
    }


def _work_rows(planned: Planned) -> Mapping[str, str]:
    work, times = planned.work, planned.times
    rows = {
        "a prompt token": f"{_flops(work.prompt_token)} in the mean",
        "a generated token": f"{_flops(work.generated_token)} after all others",
        "the prompt": _flops(work.prompt),
    }
    if times is None:
        return rows
    rows["the prompt"] += f", at least {_duration(times.prompt)} here"
    peak = f"{times.peak.bandwidth / 1e9:.1f} GB/s and {_flops(times.peak.flops)}/s measured now"
    return rows | {"times": f"rooflines of {peak}: limits, which `quire bench` compares with what is reached"}


def _mark(is_chosen: bool) -> str:
    return _CHOSEN if is_chosen else ""


def _flops(count: float) -> str:
    size, prefix = next((each for each in _PREFIXES if count >= each[0]), (1, ""))
    return f"{count / size:.3g} {prefix}FLOP"


def _duration(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} us"
