"""The report as text: one table per precision, which contestants are missing and why, where we lose, the circumstances."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from quire.bench.machine_peak import MachinePeak, higher_peak
from quire.kv.layout import KVLayout
from quire.models.spec import ModelSpec

from .pieces import as_records, workload_fields
from .results import Duel, Results, agreement, duels, roofline
from .roster import Name, Precision
from .workloads import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What was run, and where."""

    shape: str
    spec: ModelSpec
    layout: KVLayout
    threads: int
    machine: Mapping[str, Any]
    commands: tuple[str, ...]


def as_json(results: Results, workloads: Sequence[Workload], around: Circumstances) -> dict[str, Any]:
    """Returns everything, raw readings included, in JSON's types."""
    return {
        "shape": around.shape,
        "threads": around.threads,
        "commands": list(around.commands),
        "machine": dict(around.machine),
        "workloads": workload_fields(workloads),
        "records": as_records(results),
        "peaks": [asdict(peak) for peak in results.peaks],
        "contestants": {str(name): facts for name, facts in results.facts.items()},
        "missing": results.missing,
        "tokens_per_second": {
            str(name): {each.name: list(rates.values()) for each in workloads if (rates := results.rates(name, each))}
            for name in results.names()
        },
        "best_peer": [
            {
                "precision": duel.precision.name,
                "workload": duel.workload.name,
                "best": str(duel.best),
                "ratio": duel.ratio,
                "pairs": duel.num_pairs,
            }
            for duel in duels(results, workloads)
        ],
        "equal_tokens": {str(name): pair for name, pair in _agreements(results, workloads).items()},
    }


def as_markdown(results: Results, workloads: Sequence[Workload], around: Circumstances) -> str:
    """Returns the whole report."""
    found = duels(results, workloads)
    sections = [
        f"# {around.shape}, {around.threads} threads",
        "Tokens per second, medians of alternated rounds, with the spread (fastest - slowest) / median. Ratios are medians over "
        "rounds in which both were measured; their number is next to them. Random weights, the same token ids, greedy, cold "
        "caches except in workloads that reuse them. Every contestant has its own process tree, paused while another is timed.",
        *(_table(results, workloads, around, precision) for precision in Precision if results.of(precision)),
        _losses(found, results),
        _absent(results),
        _same_model(results, workloads),
        _setting(results, around),
    ]
    return "\n\n".join(sections) + "\n"


def _table(results: Results, workloads: Sequence[Workload], around: Circumstances, precision: Precision) -> str:
    names = results.of(precision)
    best = {duel.workload: duel for duel in duels(results, workloads) if duel.precision is precision}
    header = ["workload", "roofline", *map(str, names), "Quire / best peer"]
    lines = [_line(header), "|" + "---|" * len(header)]
    for workload in workloads:
        limit = roofline(around.spec, around.layout, workload, precision, _limits(results))
        cells = [_cell(results, name, workload) for name in names]
        ratio = _ratio(best[workload]) if workload in best else "-"
        lines.append(_line([workload.name, "-" if limit is None else _rate(limit), *cells, ratio]))
    return f"## {precision.value}\n\n" + "\n".join(lines)


def _ratio(duel: Duel) -> str:
    return f"{duel.ratio:.2f}x ({duel.num_pairs}), {duel.best}"


def _cell(results: Results, name: Name, workload: Workload) -> str:
    rate = results.rate(name, workload)
    return "-" if rate is None else f"{_rate(rate)} ({results.spread(name, workload):.0%})"


def _losses(found: Sequence[Duel], results: Results) -> str:
    lost = sorted((duel for duel in found if duel.ratio < 1), key=lambda duel: duel.ratio)
    lines = [
        f"- {duel.workload.name}, {duel.precision.value}: {_rate(duel.ours)} against {_rate(duel.theirs)} of {duel.best}, "
        f"{duel.ratio:.2f}x"
        for duel in lost
    ]
    contested = {duel.precision for duel in found}
    lines += [f"- {each.value}: there was no contest" for each in Precision if results.of(each) and each not in contested]
    return "## Where we lose\n\n" + ("\n".join(lines) or "Nowhere among what was measured here.")


def _absent(results: Results) -> str:
    lines = [f"- {what}: {why}" for what, why in results.missing.items()]
    return "## Not measured\n\n" + ("\n".join(lines) or "Every contestant took part in every workload.")


def _same_model(results: Results, workloads: Sequence[Workload]) -> str:
    lines = [f"- {name}: the first {equal} of {total}" for name, (equal, total) in _agreements(results, workloads).items()]
    text = "Greedy tokens equal to Quire's in 16 bits. Formats round differently, and random weights leave many near ties."
    return f"## The same model\n\n{text}\n\n" + ("\n".join(lines) or "- Quire in 16 bits did not compete.")


def _setting(results: Results, around: Circumstances) -> str:
    lines = [f"- {name}: {value}" for name, value in around.machine.items()]
    lines += [
        f"- machine peak {index + 1}, before a round or after the last: {_peak(each)}" for index, each in enumerate(results.peaks)
    ]
    lines += [
        f"- {name}: " + ", ".join(f"{key} {value}" for key, value in facts.items()) for name, facts in results.facts.items()
    ]
    commands = "\n".join(around.commands)
    return f"## Circumstances\n\n```\n{commands}\n```\n\n" + "\n".join(lines)


def _agreements(results: Results, workloads: Sequence[Workload]) -> Mapping[Name, tuple[int, int]]:
    reference = next((name for name in results.of(Precision.BF16) if name.is_ours), None)
    told = next((each for each in workloads if each.num_new > 1), None)
    return {} if reference is None or told is None else agreement(results, told, reference)


def _limits(results: Results) -> MachinePeak:
    first, *others = results.peaks
    for other in others:
        first = higher_peak(first, other)
    return first


def _peak(peak: MachinePeak) -> str:
    return f"{peak.bandwidth / 1e9:.1f} GB/s, {peak.flops / 1e9:.0f} GFLOP/s"


def _rate(tokens_per_second: float) -> str:
    return f"{tokens_per_second:.1f}" if tokens_per_second < 100 else f"{tokens_per_second:.0f}"


def _line(cells: Sequence[str] | Iterator[str]) -> str:
    return "| " + " | ".join(cells) + " |"
