"""Prints a benchmark: a table, the machine's peak, one JSON line, and its progress on standard error."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import numpy as np
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from quire import __version__
from quire.bench.machine_peak import MachinePeak
from quire.bench.overhead import Overhead, OverheadReport
from quire.bench.report import Report, Speed
from quire.cli.display import err_console, listing, out_console, print_json, show_note
from quire.cli.machine import this_machine
from quire.environment import usable_cores
from quire.executors.native import NUMERICS_VERSION
from quire.units import format_rate

OnProgress = Callable[[str, int, int], None]

_SECONDS_BETWEEN_LINES = 2.0
_HEADERS = ("phase", "time>", "speed>", "roofline>", "of it>", "MFU>", "MBU>", "ratio>", "spread>")


def show_report(report: Report, settings: Mapping[str, Any], *, is_json_only: bool) -> None:
    """Prints the table unless only JSON is wanted, and as the last line everything as JSON."""
    if not is_json_only:
        _print(report)
    print_json(asdict(report) | circumstances(settings))


def circumstances(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the machine, versions and settings of a report."""
    return {"machine": asdict(this_machine(usable_cores())), "versions": _versions(), "settings": dict(settings)}


def show_overhead(report: OverheadReport, settings: Mapping[str, Any], *, is_json_only: bool) -> None:
    """Prints medians and fastest runs unless only JSON is wanted, and as the last line everything as JSON."""
    if not is_json_only:
        console = out_console()
        rows = [_overhead_row(each) for each in report.overheads]
        console.print(listing("overhead on one thread", ("part", "median>", "fastest>", "spread>"), rows))
        for note in report.notes:
            console.print(note)
    print_json(asdict(report) | circumstances(settings))


@contextmanager
def progress_shown() -> Iterator[OnProgress]:
    """Shows progress on standard error: a bar on a terminal, otherwise one line every two seconds."""
    console = err_console()
    if not console.is_terminal:
        yield _Lines().show
        return
    columns = (TextColumn("{task.description}", style="dim"), BarColumn(bar_width=30), TaskProgressColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("Loading", total=None)
        yield lambda what, done, total: progress.update(task, description=what, completed=done, total=total)


class _Lines:
    """Progress for a file or a pipe: a line at most every two seconds, none for a short measurement."""

    def __init__(self) -> None:
        self._shown_at = time.monotonic()

    def show(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._shown_at >= _SECONDS_BETWEEN_LINES:
            self._shown_at = now
            show_note(f"{what}: {done} of {total}")


def _print(report: Report) -> None:
    console = out_console()
    title = f"{report.executor}, weights {report.weights}, KV {report.kv_format}, {report.threads} threads"
    console.print(listing(title, _HEADERS, [_row(speed) for speed in report.speeds]))
    for when, peak in (("before", report.before), ("after", report.after)):
        console.print(f"machine peak {when}: {_limits(peak)}")
    if report.prefetch is not None:
        console.print(f"weights are prefetched: {report.prefetch}")
    for line in dict.fromkeys(f"ratio: {speed.ratio_is}" for speed in report.speeds if speed.ratio_is is not None):
        console.print(line)
    for note in report.notes:
        console.print(note)


def _row(speed: Speed) -> tuple[str, ...]:
    rate, roofline = speed.tokens_per_second, speed.roofline_seconds
    return (
        speed.name,
        _seconds(speed.seconds),
        "" if rate is None else format_rate(rate, "tokens"),
        "" if roofline is None else _seconds(roofline),
        _percent(speed.share_of_roofline),
        _percent(speed.share_of_flops),
        _percent(speed.share_of_bandwidth),
        "" if speed.ratio is None else f"{speed.ratio:.2f}x",
        _percent(speed.spread),
    )


def _overhead_row(overhead: Overhead) -> tuple[str, ...]:
    return overhead.name, _seconds(overhead.seconds), _seconds(overhead.fastest_seconds), _percent(overhead.spread)


def _limits(peak: MachinePeak) -> str:
    reads = "" if peak.reads is None else f" ({peak.reads})"
    return f"{peak.bandwidth / 1e9:.1f} GB/s{reads}, {peak.flops / 1e9:.0f} GFLOP/s"


def _seconds(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} us"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def _circumstances(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {"machine": asdict(this_machine(usable_cores())), "versions": _versions(), "settings": dict(settings)}


def _versions() -> dict[str, str]:
    return {
        "quire": __version__,
        "native": str(NUMERICS_VERSION),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "tokenizers": version("tokenizers"),
    }
