"""Prints what the KV cache saves: the two tables of the notes this project grew from, with this model's numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from quire.bench.kv_cache import Coefficients, Exponents, KVCacheReport, Pair
from quire.bench.kv_cache_chart import draw_chart
from quire.cli.bench_view import circumstances
from quire.cli.display import facts, listing, out_console, print_json, show_note
from quire.errors import defect

_COLUMNS = ("products>", "attention>", "head>", "time>")
_HEADERS = (*_COLUMNS, *_COLUMNS, "times more>")
_PREFIXES = ((10**15, "P"), (10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k"))


def show_kv_cache(report: KVCacheReport, settings: Mapping[str, Any], charts: Sequence[Path], *, is_json_only: bool) -> None:
    """Prints the tables unless only JSON is wanted, one line of JSON, and then draws the charts.

    Raises ConfigError for a chart that cannot be written, and IntegrityError for results that contradict the promises, when all
    else is printed.
    """
    if not is_json_only:
        for part in _tables(report):
            out_console().print(part)
    print_json(_json(report) | circumstances(settings))
    for path in charts:
        draw_chart(report, path)
        show_note(f"drawn: {path}")
    if not (report.equals_formulas and report.has_equal_bits):
        raise defect("what was counted or drawn is not what it must be")


def _json(report: KVCacheReport) -> dict[str, Any]:
    pairs = {
        name: [asdict(pair) | {"times_more": pair.times_more} for pair in getattr(report, name)] for name in ("steps", "totals")
    }
    return asdict(report) | pairs


def _tables(report: KVCacheReport) -> Iterator[Any]:
    title = f"{report.executor}, KV {report.kv_format}, {report.threads} threads; multiply-adds"
    yield facts(title, _formula_rows(report.coefficients))
    yield ""
    yield listing(
        "Step i: with the cache O(dim^2 + i dim), then without it O(i dim^2 + i^2 dim)",
        ("i>", *_HEADERS),
        map(_row, report.steps),
    )
    yield listing(
        "T tokens in all: with the cache O(T dim^2 + T^2 dim), then without it O(T^2 dim^2 + T^3 dim)",
        ("T>", *_HEADERS),
        (*map(_row, report.totals), _exponent_row(report)),
    )
    yield _verdict(report)


def _formula_rows(model: Coefficients) -> Mapping[str, str]:
    """Returns the formulas with this model's numbers in the places of dim^2 and dim."""
    token, pair, logits = (_count(each) for each in (model.token, model.pair, model.logits))
    rows = {
        "dim^2 is": f"{token}: products of a token with the weights of all layers",
        "dim is": f"{pair}: a token and a key that it sees, Q K^T and probabilities times V, in all layers",
        "head": f"{logits}: one row of logits a step",
        "step i, with": f"{token} + {pair} i + {logits}",
        "step i, without": f"{token} i + {pair} i (i + 1) / 2 + {logits}",
        "T tokens, with": f"{token} T + {pair} T (T + 1) / 2 + {logits} T",
        "T tokens, without": f"{token} T (T + 1) / 2 + {pair} T (T + 1) (T + 2) / 6 + {logits} T",
    }
    if model.windows:
        sizes = ", ".join(map(str, model.windows))
        rows["windows"] = f"some layers see the last {sizes} keys only: beyond that their attention grows as products do"
    return rows


def _row(pair: Pair) -> tuple[str, ...]:
    cells = [str(pair.tokens)]
    for measured in (pair.cached, pair.recomputed):
        counts = measured.counts
        cells += [_count(counts.projections), _count(counts.attention), _count(counts.head), _duration(measured.seconds)]
    return (*cells, f"{pair.times_more:.3g}x")


def _exponent_row(report: KVCacheReport) -> tuple[str, ...]:
    def cells(found: Exponents) -> tuple[str, ...]:
        fitted = (found.projections, found.attention, found.head, found.seconds)
        return tuple(f"T^{exponent:.2f}" for exponent in fitted)

    return ("fitted", *cells(report.exponents_cached), *cells(report.exponents_recomputed), "")


def _verdict(report: KVCacheReport) -> str:
    counted = "equal the formulas in every step" if report.equals_formulas else "DIFFER from the formulas"
    bits = (
        "the same tokens and log-probabilities, bit by bit" if report.has_equal_bits else "DIFFERENT tokens or log-probabilities"
    )
    return f"Counts of the executor {counted}; both runs drew {bits}."


def _count(count: int) -> str:
    size, prefix = next((each for each in _PREFIXES if count >= each[0]), (1, ""))
    return f"{count / size:.4g}{prefix and ' '}{prefix}"


def _duration(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} us"
