"""`quire train`: teach a model from text or conversations, with a bar, a curve, and a state that survives anything."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from quire.cli.options import OptionDecorator, gathered
from quire.errors import ConfigError, ExecutorUnavailableError

if TYPE_CHECKING:
    from quire.cli.train_progress import TrainProgress
    from quire.train.recipe import Recipe
    from quire.train.run import Run

_COUNT = click.IntRange(min=1)
_PATH = click.Path(path_type=Path)
_RECIPE: tuple[OptionDecorator, ...] = (
    click.option("--steps", type=_COUNT, help="Steps in all. [default: as many as --epochs needs]"),
    click.option("--epochs", type=_COUNT, help="Passes over the data. [default: 1]"),
    click.option("--batch-tokens", type=_COUNT, help="Tokens in one batch. [default: 8192]"),
    click.option("--accumulate", type=_COUNT, help="Batches in one step. [default: 1]"),
    click.option("--optimizer", type=click.Choice(["adamw", "muon"]), help="How weights move. [default: adamw]"),
    click.option("--learning-rate", type=float, help="At its peak. [default: 0.001]"),
    click.option("--warmup-steps", type=click.IntRange(min=0), help="Until the peak. [default: 100]"),
    click.option("--final-rate-share", type=float, help="Of the peak, at the end of the cosine. [default: 0.1]"),
    click.option("--weight-decay", type=float, help="Of matrices. [default: 0.1]"),
    click.option("--clip-norm", type=float, help="Longest gradient. [default: 1]"),
    click.option(
        "--precision", type=click.Choice(["float32", "bfloat16"]), help="Of products; weights are float32. [default: bfloat16]"
    ),
    click.option("--validation-share", type=float, help="Of the documents, never learned. [default: 0.01]"),
    click.option("--validate-every", type=_COUNT, help="Steps between two validations. [default: 250]"),
    click.option("--save-minutes", type=float, help="Between two saved states. [default: 10]"),
    click.option("--seed", type=int, help="Of weights and order. [default: 0]"),
    click.option("--threads", type=_COUNT, help="[default: the cores this process may use]"),
    click.option("--device", help="cpu or cuda. [default: cuda where there is one]"),
    click.option(
        "--compile", "compile", is_flag=True, default=None, help="Fuse operations with torch.compile; needs a C++ compiler."
    ),
)
_JOB: tuple[OptionDecorator, ...] = (
    click.option("-m", "--model", metavar="DIR", help="Go on from this model's weights instead of fresh ones."),
    click.option("--config", metavar="FILE", help="The shape of a fresh model, as a config.json. [default: 4 M parameters]"),
    click.option("--tokenizer", metavar="DIR", help="Use this model's tokenizer instead of training one."),
    click.option("--vocab-size", type=_COUNT, help="Of a tokenizer that is trained. [default: 4096]"),
    click.option("--max-context", type=_COUNT, help="Longest document in tokens. [default: the shape's]"),
)
_JOB_NAMES = ("model", "config", "tokenizer", "vocab_size", "max_context")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """What was given on the command line; the rest is left to the recipe's defaults."""

    recipe: dict[str, Any]
    job: dict[str, Any]


def _train_options(command: Any) -> Any:
    def gather(values: dict[str, Any]) -> TrainOptions:
        given = {name: value for name, value in values.items() if value is not None}
        job = {name: given.pop(name) for name in _JOB_NAMES if name in given}
        return TrainOptions(recipe=given, job=job)

    return gathered(command, _RECIPE + _JOB, "options", gather)


@click.command()
@click.argument("data", nargs=-1, type=_PATH)
@click.option("-o", "--output", required=True, type=_PATH, help="Directory of the finished model, and of the run's state.")
@click.option("--resume", is_flag=True, help="Continue the run in the output directory, with the options it was started with.")
@_train_options
def train(data: tuple[Path, ...], output: Path, resume: bool, options: TrainOptions) -> None:
    """Train a decoder on DATA: .txt and .md files, or .jsonl with {"text": ...} or {"messages": [...]} a line.

    Of conversations only the assistant's words are learned. Ctrl-C saves the state and stops; --resume continues from it, bit
    for bit. The finished directory loads in Quire and in transformers. Needs quire[torch].

    \b
    Example:
      quire train chats.jsonl -o my-model --steps 2000
      quire train --resume -o my-model
      quire train letters.txt -o tuned -m my-model --learning-rate 1e-4
    """
    from quire.cli.display import show_note
    from quire.train.memory import keep_freed_memory

    _require_torch()
    keep_freed_memory()
    run = _resume(data, output, options) if resume else _start(data, output, options)
    with _progress(run) as progress, _stop_signals(progress) as has_stopped:
        is_finished = run.train(progress.show, has_stopped)
    if not is_finished:
        show_note(f"Saved after step {run.trainer.step}. Continue with: quire train --resume -o {output}")
        raise KeyboardInterrupt
    run.export()
    show_note(f"Wrote {output}. Try it with: quire run -m {output} ...")


def _start(data: tuple[Path, ...], output: Path, options: TrainOptions) -> Run:
    from quire.cli.display import show_note
    from quire.train.run import Job, start_run

    if not data:
        raise ConfigError("there is nothing to learn from", next_step="Name text or JSONL files, or continue with --resume.")
    job = Job(data=tuple(str(path.resolve()) for path in data), **options.job)
    return start_run(job, _recipe(options), output, show_note)


def _resume(data: tuple[Path, ...], output: Path, options: TrainOptions) -> Run:
    from quire.cli.display import show_note
    from quire.train.run import resume_run

    if data or options.recipe or options.job:
        raise ConfigError(
            "a resumed run keeps the data and options it was started with",
            given=", ".join([*map(str, data), *options.recipe, *options.job]),
            next_step="Leave them out, or start a new run with --model.",
        )
    return resume_run(output, show_note)


def _recipe(options: TrainOptions) -> Recipe:
    import torch

    from quire.config import DType
    from quire.engine.resolve import default_threads
    from quire.train.recipe import OptimizerKind, Recipe

    given = {"threads": default_threads(), "device": "cuda" if torch.cuda.is_available() else "cpu"} | options.recipe
    if "optimizer" in given:
        given["optimizer"] = OptimizerKind(given["optimizer"])
    if "precision" in given:
        given["precision"] = DType(given["precision"])
    return Recipe(**given)


def _require_torch() -> None:
    from importlib.util import find_spec

    missing = [name for name in ("torch", "matplotlib") if find_spec(name) is None]
    if missing:
        raise ExecutorUnavailableError(
            "training needs the torch extra",
            given=f"no {' and no '.join(missing)}",
            next_step="Run `pip install 'quire[torch]'`.",
        )


@contextmanager
def _progress(run: Run) -> Iterator[TrainProgress]:
    from quire.cli.train_progress import TrainProgress
    from quire.train.flops import measure_peak

    peak = measure_peak(run.recipe.device, run.recipe.precision)
    with TrainProgress(run.trainer.step, run.trainer.num_steps, peak) as progress:
        yield progress


@contextmanager
def _stop_signals(progress: TrainProgress) -> Iterator[Any]:
    """Yields whether Ctrl-C or a request to terminate has come; a second one ends the process at once."""
    received: list[int] = []

    def remember(number: int, _frame: FrameType | None) -> None:
        if received:
            os._exit(128 + number)
        received.append(number)
        progress.note("Stopping after this step; once more ends at once, losing what was not saved.")

    previous = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
