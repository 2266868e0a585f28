"""`quire bench`: speed of a model, or of random weights, compared with the machine's peak. One command per question."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

import click

from quire.cli.bench_quality import quality
from quire.cli.bench_serve import serve
from quire.cli.options import OptionDecorator, Words, count_of, gathered, words
from quire.config import DType, KVFormat
from quire.engine.options import AUTO, WEIGHT_FORMATS

if TYPE_CHECKING:
    from quire.bench.report import Report
    from quire.engine.options import EngineOptions
    from quire.models.checkpoint import Checkpoint

_R = TypeVar("_R")
_COUNT = click.IntRange(min=1)
_SEVERAL = click.IntRange(min=2)
_LEAST_TOKENS = 128  # fewer would bend exponents: 1 + 2 + .. + T is T^2 / 2 only for a large T
_DECODE_TOKENS, _DECODE_DEPTH, _PREFILL_DEPTH = 64, 16, 512


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """Options of every benchmark; `threads` None means the default number."""

    model: str | None
    config: Path | None
    dtype: str
    quantize: str
    kv_format: str
    threads: int | None
    repeat: int
    as_json: bool

    def engine(self) -> EngineOptions:
        """Returns the engine options."""
        words: EngineOptions = {"dtype": self.dtype, "quantize": self.quantize, "kv_format": self.kv_format}
        return words if self.threads is None else {**words, "threads": self.threads}


def _common_options(repeat: int) -> tuple[OptionDecorator, ...]:
    return (
        click.option(
            "-m",
            "--model",
            metavar="MODEL",
            help="A model directory, .gguf file or Hugging Face id. [default: the bundled model]",
        ),
        click.option("--config", type=click.Path(path_type=Path), help="Use random weights of this config.json's shape instead."),
        click.option(
            "--dtype",
            type=words("dtype", DType),
            default=DType.BFLOAT16.value,
            show_default=True,
            help="Number format of the weights.",
        ),
        click.option(
            "--quantize",
            type=Words("quantize", WEIGHT_FORMATS),
            default="none",
            show_default=True,
            help="Quantization of the weights.",
        ),
        click.option(
            "--kv-format",
            type=words("kv_format", KVFormat, AUTO),
            default=AUTO,
            help="Number format of cached keys and values. [default: the weights' format]",
        ),
        click.option("--threads", type=count_of("threads"), help="Worker threads. [default: the cores this process may use]"),
        click.option("--repeat", type=_COUNT, default=repeat, show_default=True, help="Runs; the median is reported."),
        click.option("--json", "as_json", is_flag=True, help="Print only the JSON line."),
    )


def _bench_options(repeat: int) -> Callable[[Callable[..., _R]], Callable[..., _R]]:
    def decorate(command: Callable[..., _R]) -> Callable[..., _R]:
        return gathered(command, _common_options(repeat), "options", lambda values: BenchOptions(**values))

    return decorate


@click.group()
def bench() -> None:
    """Measure speed, compared with the machine's peak in the same minute, and the quality cost of number formats.

    Memory bandwidth and FLOP/s are measured before and after, every figure is printed with its roofline, and the last line is
    JSON. Close other programs first.

    \b
    Example:
      quire bench decode --config benchmarks/configs/qwen3-0.6b.json
      quire bench prefill -m path/to/model --depth 2048
    """


@bench.command()
@_bench_options(repeat=3)
@click.option("--depth", type=_COUNT, default=_DECODE_DEPTH, show_default=True, help="Tokens of the prompt.")
@click.option("--batch", type=_COUNT, default=1, show_default=True, help="Requests in the batch.")
@click.option("--new", "num_new", type=_SEVERAL, default=_DECODE_TOKENS, show_default=True, help="Tokens to generate.")
def decode(options: BenchOptions, depth: int, batch: int, num_new: int) -> None:
    """Measure decode: one token after another.

    \b
    Example:
      quire bench decode --config benchmarks/configs/qwen3-0.6b.json --depth 4096
    """
    from quire.bench.throughput import Workload, measure

    work = Workload(num_prompt=depth, num_new=num_new, batch=batch, repeat=options.repeat)
    _run(options, {"depth": depth, "batch": batch, "new": num_new}, partial(measure, work=work, bench="decode"))


@bench.command()
@_bench_options(repeat=3)
@click.option("--depth", type=_COUNT, default=_PREFILL_DEPTH, show_default=True, help="Tokens of the prompt.")
@click.option("--batch", type=_COUNT, default=1, show_default=True, help="Requests in the batch.")
def prefill(options: BenchOptions, depth: int, batch: int) -> None:
    """Measure prefill: a prompt up to its first token.

    \b
    Example:
      quire bench prefill --config benchmarks/configs/llama-3.2-1b.json --depth 4096
    """
    from quire.bench.throughput import Workload, measure

    work = Workload(num_prompt=depth, num_new=1, batch=batch, repeat=options.repeat)
    _run(options, {"depth": depth, "batch": batch}, partial(measure, work=work, bench="prefill"))


@bench.command("batch")
@_bench_options(repeat=3)
@click.option("--depth", type=_COUNT, default=_DECODE_DEPTH, show_default=True, help="Tokens of each prompt.")
@click.option("--new", "num_new", type=_SEVERAL, default=32, show_default=True, help="Tokens to generate.")
@click.option("--largest", type=_COUNT, default=32, show_default=True, help="Largest batch to measure.")
def batched(options: BenchOptions, depth: int, num_new: int, largest: int) -> None:
    """Measure decode steps for batches of 1, 2, 4, 8, 16 and 32 requests, and the step time compared with batch 1.

    \b
    Example:
      quire bench batch --config benchmarks/configs/qwen3-0.6b.json
    """
    from quire.bench.throughput import BATCHES, Workload, measure_batches

    batches = tuple(batch for batch in BATCHES if batch <= largest)
    work = Workload(num_prompt=depth, num_new=num_new, repeat=options.repeat)
    settings = {"depth": depth, "new": num_new, "batches": batches}
    _run(options, settings, partial(measure_batches, work=work, batches=batches))


@bench.command()
@_bench_options(repeat=3)
@click.option("--requests", type=_COUNT, default=16, show_default=True, help="Requests that share a prefix.")
@click.option("--shared", type=_COUNT, default=2048, show_default=True, help="Tokens of the shared prefix.")
@click.option("--own", type=_COUNT, default=128, show_default=True, help="Tokens of each prompt after the prefix.")
@click.option("--new", "num_new", type=_COUNT, default=128, show_default=True, help="Tokens to generate per request.")
def prefix(options: BenchOptions, requests: int, shared: int, own: int, num_new: int) -> None:
    """Measure requests with a shared prefix, with and without the prefix cache, and a chat's second turn, cold and warm.

    \b
    Example:
      quire bench prefix --config benchmarks/configs/qwen3-0.6b.json --requests 16 --shared 2048
    """
    from quire.bench.prefix_sharing import SharedWork, measure_sharing

    work = SharedWork(num_requests=requests, num_shared=shared, num_own=own, num_new=num_new, repeat=options.repeat)
    settings = {"requests": requests, "shared": shared, "own": own, "new": num_new}
    _run(options, settings, partial(measure_sharing, work=work))


@bench.command("kv-cache")
@_bench_options(repeat=1)
@click.option("--tokens", type=click.IntRange(min=_LEAST_TOKENS), default=256, show_default=True, help="Most tokens to generate.")
@click.option(
    "--chart",
    "charts",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Draw it, as .png or .svg; may be given several times.",
)
def kv_cache(options: BenchOptions, tokens: int, charts: tuple[Path, ...]) -> None:
    """Count and time what the KV cache saves: tokens generated with it, and with all tokens recomputed in every step.

    The executor counts its multiply-adds, which must equal the formulas; exponents are fitted to them and to the times, over an
    eighth, a quarter, a half and all of the tokens. Without the cache the time grows with the square of the tokens at least.

    \b
    Example:
      quire bench kv-cache --chart kv-cache.png --chart kv-cache.svg
      quire bench kv-cache --config benchmarks/configs/qwen3-0.6b.json --tokens 128
    """
    from quire.bench.kv_cache import KVCacheWork, measure_kv_cache
    from quire.bench.kv_cache_chart import require_image_format
    from quire.cli.bench_kv_view import show_kv_cache
    from quire.cli.bench_view import progress_shown

    for path in charts:
        require_image_format(path)
    work = KVCacheWork(num_tokens=tokens, repeat=options.repeat)
    with progress_shown() as on_progress:
        report = measure_kv_cache(_checkpoint(options), work, options.engine(), on_progress)
    show_kv_cache(report, _settings(options) | {"tokens": tokens}, charts, is_json_only=options.as_json)


@bench.command()
@_bench_options(repeat=5)
def kernels(options: BenchOptions) -> None:
    """Measure the executor's kernels separately: layers by rows, the head by rows, attention by depth.

    \b
    Example:
      quire bench kernels --config benchmarks/configs/qwen3-0.6b.json
    """
    from quire.bench.kernels import KernelWork, measure_kernels

    _run(options, {}, partial(measure_kernels, asked=KernelWork(repeat=options.repeat)))


@bench.command()
@_bench_options(repeat=5)
def start(options: BenchOptions) -> None:
    """Measure import, loading from a warm page cache and the first token, each in fresh processes.

    \b
    Example:
      quire bench start
      quire bench start --config benchmarks/configs/qwen3-0.6b.json
    """
    from quire.bench.saved_model import save_random_model
    from quire.bench.startup import StartupWork, measure_startup
    from quire.cli.bench_view import progress_shown, show_report
    from quire.cli.load import find_directory

    with progress_shown() as on_progress, TemporaryDirectory(prefix="quire-bench-") as saved:
        directory = Path(saved)
        if options.config is None:
            directory = find_directory(options.model)
        else:
            on_progress("Writing random weights", 0, 1)
            save_random_model(options.config, directory)
        report = measure_startup(StartupWork(directory=directory, repeat=options.repeat), options.engine(), on_progress)
    show_report(report, _settings(options), is_json_only=options.as_json)


@bench.command()
@click.option("-m", "--model", metavar="MODEL", help="The model whose tokenizer decodes the tokens. [default: the bundled model]")
@click.option("--steps", "num_steps", type=_COUNT, default=32, show_default=True, help="Steps per run.")
@click.option("--repeat", type=_COUNT, default=200, show_default=True, help="Runs; the median and the fastest are reported.")
@click.option("--json", "as_json", is_flag=True, help="Print only the JSON line.")
def overhead(model: str | None, num_steps: int, repeat: int, as_json: bool) -> None:
    """Measure the engine's own overhead: decode steps over a model that computes nothing, and sampling a row of logits.

    \b
    Example:
      quire bench overhead
    """
    from quire.bench.overhead import OverheadWork, measure_overhead
    from quire.cli.bench_view import progress_shown, show_overhead
    from quire.cli.load import find_directory
    from quire.models.checkpoint import load_checkpoint
    from quire.text.tokenizer import Tokenizer

    directory = find_directory(model)
    spec, tokenizer = load_checkpoint(directory).spec, Tokenizer.from_model(directory)
    with progress_shown() as on_progress:
        report = measure_overhead(spec, tokenizer, OverheadWork(num_steps=num_steps, repeat=repeat), on_progress)
    settings = {"model": model or "bundled", "steps": num_steps, "repeat": repeat}
    show_overhead(report, settings, is_json_only=as_json)


bench.add_command(quality)
bench.add_command(serve)


def _run(options: BenchOptions, settings: dict[str, Any], measure: Callable[..., Report]) -> None:
    """Loads what the options name, measures, and shows the report."""
    from quire.cli.bench_view import progress_shown, show_report

    with progress_shown() as on_progress:
        report = measure(_checkpoint(options), options=options.engine(), on_progress=on_progress)
    show_report(report, _settings(options) | settings, is_json_only=options.as_json)


def _settings(options: BenchOptions) -> dict[str, Any]:
    model = options.model or "bundled"
    return {"model": model if options.config is None else options.config.name, **options.engine(), "repeat": options.repeat}


def _checkpoint(options: BenchOptions) -> Checkpoint:
    from quire.bench.random_model import random_checkpoint
    from quire.cli.load import find_directory
    from quire.models.checkpoint import load_checkpoint

    if options.config is not None:
        return random_checkpoint(options.config)
    return load_checkpoint(find_directory(options.model))
