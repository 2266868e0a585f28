"""`quire train`: trains a model on text or conversations, with a progress bar, a learning curve and a resumable state."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from quire.cli.options import OptionDecorator, count_of, gathered
from quire.config import DType
from quire.errors import ConfigError, ExecutorUnavailableError
from quire.train.recipe import COUNT_LIMITS, Job, OptimizerKind, Recipe

if TYPE_CHECKING:
    from quire.cli.train_progress import TrainProgress
    from quire.train.run import Run

_COUNT = click.IntRange(min=1)
_PATH = click.Path(path_type=Path)
_DEFAULT, _DEFAULT_JOB = Recipe(), Job(data=())


def _choice(choices: type[Enum]) -> click.Choice[str]:
    return click.Choice([str(choice.value) for choice in choices])


def _recipe_option(name: str, help_text: str, kind: Any = None) -> OptionDecorator:
    default = getattr(_DEFAULT, name)
    shown = default.value if isinstance(default, Enum) else f"{default:g}"
    kind = kind or (count_of(name, COUNT_LIMITS) if name in COUNT_LIMITS else float)
    return click.option(f"--{name.replace('_', '-')}", type=kind, help=f"{help_text} [default: {shown}]")


_RECIPE: tuple[OptionDecorator, ...] = (
    click.option("--steps", type=count_of("steps", COUNT_LIMITS), help="Steps in total. [default: as many as --epochs needs]"),
    _recipe_option("epochs", "Passes over the data."),
    _recipe_option("batch_tokens", "Tokens per batch."),
    _recipe_option("accumulate", "Batches per step."),
    _recipe_option("optimizer", "How gradients change the weights.", _choice(OptimizerKind)),
    _recipe_option("learning_rate", "Peak learning rate."),
    _recipe_option("warmup_steps", "Steps until the peak learning rate."),
    _recipe_option("final_rate_share", "Share of the peak learning rate at the end of the cosine."),
    _recipe_option("weight_decay", "Weight decay of matrices."),
    _recipe_option("clip_norm", "Largest gradient norm."),
    _recipe_option("precision", "Number format of matrix products; weights are float32.", _choice(DType)),
    _recipe_option("validation_share", "Share of the documents that is held out for validation."),
    _recipe_option("validate_every", "Steps between two validations."),
    _recipe_option("save_minutes", "Minutes between two saved states."),
    _recipe_option("seed", "Seed of the weights and of the order of documents."),
    click.option("--threads", type=count_of("threads", COUNT_LIMITS), help="[default: the cores this process may use]"),
    click.option("--device", help="cpu or cuda. [default: cuda if available]"),
    click.option(
        "--compile", "compile", is_flag=True, default=None, help="Fuse operations with torch.compile; needs a C++ compiler."
    ),
)
_JOB: tuple[OptionDecorator, ...] = (
    click.option(
        "-m",
        "--model",
        metavar="MODEL",
        help="Start from the weights of this directory or Hugging Face id instead of random ones.",
    ),
    click.option("--config", metavar="FILE", type=_PATH, help="Shape of a new model, a config.json. [default: 4 M parameters]"),
    click.option("--tokenizer", metavar="DIR", type=_PATH, help="Use this model's tokenizer instead of training one."),
    click.option(
        "--vocab-size", type=_COUNT, help=f"Tokens of a tokenizer that is trained. [default: {_DEFAULT_JOB.vocab_size}]"
    ),
    click.option(
        "--max-context", type=count_of("max_context"), help="Context of the model in tokens; longer documents are split."
    ),
    click.option(
        "--validation", metavar="FILE", type=_PATH, multiple=True, help="File to validate on; may be given several times."
    ),
)
_JOB_NAMES = ("model", "config", "tokenizer", "vocab_size", "max_context", "validation")
_CONTRADICTIONS = (
    ("model", "config"),
    ("model", "tokenizer"),
    ("model", "vocab_size"),
    ("tokenizer", "vocab_size"),
    ("steps", "epochs"),
    ("validation", "validation_share"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """The options that were given; the rest have the recipe's defaults."""

    recipe: dict[str, Any]
    job: dict[str, Any]


def _train_options(command: Any) -> Any:
    def gather(values: dict[str, Any]) -> TrainOptions:
        given = {name: value for name, value in values.items() if value not in (None, ())}
        job = {name: given.pop(name) for name in _JOB_NAMES if name in given}
        return TrainOptions(recipe=given, job=job)

    return gathered(command, _RECIPE + _JOB, "options", gather)


@click.command()
@click.argument("data", nargs=-1, type=_PATH)
@click.option("-o", "--output", required=True, type=_PATH, help="Directory of the finished model, and of the run's state.")
@click.option("--resume", is_flag=True, help="Continue the run in the output directory, with the options it was started with.")
@_train_options
def train(data: tuple[Path, ...], output: Path, resume: bool, options: TrainOptions) -> None:
    """Train a decoder on DATA: .txt and .md files, or .jsonl with {"text": ...} or {"messages": [...]} per line.

    In conversations, only the assistant's messages are learned. Ctrl-C saves the state and stops; --resume continues from it,
    bit for bit. The finished directory loads in Quire and in transformers. Needs quire[torch].

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
    example = '--raw "The beginning of a text"' if run.trainer.learns_everything else '"Hello"'
    show_note(f"Wrote {output}. Try it with: quire run -m {output} {example}")


def _start(data: tuple[Path, ...], output: Path, options: TrainOptions) -> Run:
    from quire.cli.display import show_note
    from quire.train.run import start_run

    if not data:
        raise ConfigError("there is nothing to learn from", next_step="Name text or JSONL files, or continue with --resume.")
    return start_run(_job(data, options), _recipe(options), output, show_note)


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


def _job(data: tuple[Path, ...], options: TrainOptions) -> Job:
    """Returns the job with absolute paths, so that it can be continued from any directory."""
    from quire.models.hub import find_model

    given = options.recipe | options.job
    for names in _CONTRADICTIONS:
        if given.keys() >= set(names):
            spelled = " and ".join(f"--{name.replace('_', '-')}" for name in names)
            raise ConfigError("two options contradict each other", given=spelled, next_step="Give only one of them.")
    fields: dict[str, Any] = {
        name: str(value.resolve()) if isinstance(value, Path) else value for name, value in options.job.items()
    }
    if "model" in fields:
        fields["model"] = str(find_model(fields["model"]).resolve())
    fields["validation"] = tuple(str(path.resolve()) for path in options.job.get("validation", ()))
    return Job(data=tuple(str(path.resolve()) for path in data), **fields)


def _recipe(options: TrainOptions) -> Recipe:
    import torch

    from quire.environment import default_threads

    given = {"threads": default_threads(), "device": "cuda" if torch.cuda.is_available() else "cpu"} | options.recipe
    kinds: dict[str, Callable[[str], Enum]] = {"optimizer": OptimizerKind, "precision": DType}
    return Recipe(**given | {name: kind(given[name]) for name, kind in kinds.items() if name in given})


def _require_torch() -> None:
    from importlib.util import find_spec

    if find_spec("torch") is None:
        raise ExecutorUnavailableError(
            "training needs the torch extra", given="no torch", next_step="Run `pip install 'quire[torch]'`."
        )


@contextmanager
def _progress(run: Run) -> Iterator[TrainProgress]:
    from quire.cli.train_progress import TrainProgress
    from quire.train.flops import measure_peak

    peak = measure_peak(run.recipe.device, run.recipe.precision)
    with TrainProgress(run.trainer.step, run.trainer.num_steps, peak) as progress:
        yield progress


@contextmanager
def _stop_signals(progress: TrainProgress) -> Iterator[Callable[[], bool]]:
    """Yields a function that returns whether SIGINT or SIGTERM has arrived; a second signal ends the process at once."""
    received: list[int] = []

    def remember(number: int, _frame: FrameType | None) -> None:
        if received:
            os._exit(128 + number)
        received.append(number)
        with suppress(RuntimeError):  # standard error is in the middle of another line
            progress.note("Stopping after this step; a second Ctrl-C ends at once and loses what is not saved.")

    previous = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
