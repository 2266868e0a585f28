"""`quire bench`: speed of a model, or of a shape with random weights, beside the machine's limits."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quire.cli.options import OptionDecorator, gathered
from quire.units import format_rate

if TYPE_CHECKING:
    from quire.bench.speed import Report
    from quire.models.checkpoint import Checkpoint

_COUNT = click.IntRange(min=1)
_DEFAULT_TOKENS = {"prefill": (512, 1), "decode": (16, 64)}
_OPTIONS: tuple[OptionDecorator, ...] = (
    click.option("-m", "--model", metavar="MODEL", help="A model directory or Hugging Face id. [default: the bundled model]"),
    click.option("--config", type=click.Path(path_type=Path), help="Random weights of this config.json's shape instead."),
    click.option(
        "--dtype", type=click.Choice(["float32", "bfloat16"]), default="bfloat16", show_default=True, help="Of the weights."
    ),
    click.option("--threads", type=_COUNT, help="Worker threads. [default: the cores this process may use]"),
    click.option("--depth", type=_COUNT, help="Tokens of the prompt. [default: 512 for prefill, 16 for decode]"),
    click.option("--batch", type=_COUNT, default=1, show_default=True, help="Requests together."),
    click.option("--repeat", type=_COUNT, default=3, show_default=True, help="Runs; the median counts."),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """What to measure; None leaves a number to the machine or the phase."""

    model: str | None
    config: Path | None
    dtype: str
    threads: int | None
    depth: int | None
    batch: int
    repeat: int


def _bench_options(command: Any) -> Any:
    return gathered(command, _OPTIONS, "options", lambda values: BenchOptions(**values))


@click.command()
@click.argument("phase", type=click.Choice(list(_DEFAULT_TOKENS)))
@_bench_options
@click.option("--json", "as_json", is_flag=True, help="Print only the JSON line.")
def bench(phase: str, options: BenchOptions, as_json: bool) -> None:
    """Measure PHASE, prefill or decode, beside what the machine could do in the same minute.

    Memory bandwidth and arithmetic are measured before and after; the last line is JSON. Close other programs first.

    \b
    Example:
      quire bench decode --config benchmarks/configs/qwen3-0.6b.json
      quire bench prefill -m path/to/model --depth 2048
    """
    report = _measure(phase, options)
    if not as_json:
        _print(report)
    sys.stdout.write(json.dumps(asdict(report)) + "\n")


def _measure(phase: str, options: BenchOptions) -> Report:
    from quire.bench.speed import Workload, measure
    from quire.cli.display import loading_bar
    from quire.config import DType
    from quire.engine.resolve import default_threads

    num_prompt, num_new = _DEFAULT_TOKENS[phase]
    work = Workload(num_prompt=options.depth or num_prompt, num_new=num_new, batch=options.batch, repeat=options.repeat)
    checkpoint = _checkpoint(options)
    with loading_bar("Measuring") as on_run:
        return measure(checkpoint, work, DType(options.dtype), options.threads or default_threads(), on_run)


def _checkpoint(options: BenchOptions) -> Checkpoint:
    from quire.bench.random_model import random_checkpoint
    from quire.cli.opening import find_directory
    from quire.models.checkpoint import load_checkpoint

    if options.config is not None:
        return random_checkpoint(options.config)
    return load_checkpoint(find_directory(options.model))


def _print(report: Report) -> None:
    from quire.cli.display import listing, out_console

    rows = [
        (
            speed.name,
            format_rate(speed.tokens_per_second, "tokens"),
            _percent(speed.share_of_flops),
            _percent(speed.share_of_bandwidth),
            _percent(speed.spread),
        )
        for speed in report.speeds
    ]
    title = f"{report.executor}, {report.dtype}, {report.threads} threads"
    console = out_console()
    console.print(listing(title, ("phase", "speed>", "MFU>", "MBU>", "spread>"), rows))
    for when, canary in (("before", report.before), ("after", report.after)):
        console.print(f"canary {when}: {canary.bandwidth / 1e9:.1f} GB/s, {canary.flops / 1e9:.0f} GFLOP/s")


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"
