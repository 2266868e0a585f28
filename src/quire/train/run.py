"""One training run and its directory: started from data, continued from a saved state, finished as a model directory.

OUT/                     the exported model, once the run has ended
OUT/training/            job.json recipe.json     the options of the run
                         model/                   config.json and tokenizer of the model in training
                         state.safetensors        weights and moments, replaced every few minutes
                         curve.csv curve.png      the losses so far
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import torch

from quire.environment import read_memory, usable_cores
from quire.errors import CheckpointError, ConfigError, QuireError
from quire.executors.torch_decoder import Decoder
from quire.models.spec import ModelSpec
from quire.train.capacity import require_training_memory
from quire.train.checkpoint import TrainingState, check_identity, load_state, save_state, write_safely
from quire.train.curve import CurveRow, LearningCurve, can_draw, draw, read_curve
from quire.train.encoding import Encoder
from quire.train.export import DTYPES, Description, export_model
from quire.train.loop import StepReport, Trainer
from quire.train.model_card import Material, ModelFacts, render_card
from quire.train.recipe import Job, Recipe
from quire.train.setup import Notice, check_machine, check_shape, new_decoder, prepare, spec_of
from quire.train.split import load_documents

TRAINING = "training"
_JOB, _RECIPE, _STATE, _MODEL = "job.json", "recipe.json", "state.safetensors", "model"
_CURVE, _IMAGE = "curve.csv", "curve.png"


class Run:
    """A run in its directory."""

    def __init__(self, output: Path, trainer: Trainer, recipe: Recipe, identity: dict[str, str], notice: Notice) -> None:
        self._output, self._directory = output, output / TRAINING
        self._identity, self._notice = identity, notice
        self.trainer, self.recipe = trainer, recipe
        self._saved_at = time.monotonic()

    def restore(self, state: TrainingState) -> None:
        """Continues from `state`; raises CheckpointError if anything it depends on has changed since."""
        check_identity(state, self._identity)
        self.trainer.restore(state)

    def train(self, on_step: Callable[[StepReport], None], should_stop: Callable[[], bool]) -> bool:
        """Takes the remaining steps and saves regularly; returns whether the run is finished. A stopped run is saved too.

        If a regular save fails, a notice is shown and saving is tried again later; a failure at the end raises CheckpointError.
        """
        path = self._directory / _CURVE
        curve = LearningCurve.resume(path, self.trainer.step) if self.trainer.step else LearningCurve.begin(path)

        def record(report: StepReport) -> None:
            curve.append(_row(report))
            on_step(report)
            self._save_when_due()

        self.trainer.run(record, should_stop)
        self.save()
        return self.trainer.step >= self.trainer.num_steps

    def save(self) -> None:
        """Writes the state and draws the curve."""
        save_state(self.trainer.state(self._identity), self._directory / _STATE)
        if self.trainer.step and can_draw():
            draw(self._directory / _CURVE, self._directory / _IMAGE)

    def export(self, dtype: torch.dtype = torch.bfloat16) -> None:
        """Writes the model directory."""
        model = self._directory / _MODEL
        config = json.loads((model / "config.json").read_text(encoding="utf-8"))
        has_picture = can_draw()
        if has_picture:
            draw(self._directory / _CURVE, self._output / _IMAGE)
        card = self._card(dtype, has_picture)
        about = Description(config=config, tokenizer_directory=model, card=card)
        export_model(self.trainer.decoder, about, self._output, dtype)

    def _save_when_due(self) -> None:
        if time.monotonic() - self._saved_at < 60 * self.recipe.save_minutes:
            return
        try:
            self.save()
        except QuireError as error:
            self._notice(f"{error} Training continues; the previous state is kept.")
        self._saved_at = time.monotonic()

    def _card(self, dtype: torch.dtype, has_picture: bool) -> str:
        about = ModelFacts(
            name=self._output.resolve().name,
            summary="Trained with `quire train`.",
            spec=self.trainer.decoder.spec,
            dtype=DTYPES[dtype],
            material=Material.TEXT if self.trainer.learns_everything else Material.CONVERSATIONS,
            rows=read_curve(self._directory / _CURVE),
            recipe=json.loads(self.recipe.to_json()),
            curve_image=_IMAGE if has_picture else None,
        )
        return render_card(about)


def start_run(job: Job, recipe: Recipe, output: Path, notice: Notice) -> Run:
    """Returns a new run whose directory holds all it needs to continue; raises ConfigError if it holds a run already."""
    check_machine(recipe)
    directory = output / TRAINING
    if (directory / _STATE).exists():
        raise ConfigError(
            "the directory holds a training run already",
            given=output,
            next_step="Continue it with --resume, or choose another directory.",
        )
    check_shape(job, recipe)
    _make_directory(directory / _MODEL)
    prepare(job, directory / _MODEL, notice)
    write_safely(directory / _JOB, job.to_json().encode())
    write_safely(directory / _RECIPE, recipe.to_json().encode())
    spec = spec_of(directory / _MODEL)
    run = _open_run(output, job, recipe, new_decoder(job, spec, recipe), notice)
    run.save()
    return run


def resume_run(output: Path, notice: Notice) -> Run:
    """Returns the run of `output` at its last saved state; raises CheckpointError if anything has changed since."""
    directory = output / TRAINING
    job, recipe = Job.from_file(directory / _JOB), Recipe.from_file(directory / _RECIPE)
    check_machine(recipe)
    state = load_state(directory / _STATE, recipe.device)
    missing = [path for path in (*job.data, *job.validation) if not Path(path).exists()]
    if missing:
        raise CheckpointError(
            "the run cannot continue without its data",
            given=f"no {', no '.join(missing)}",
            next_step="Put the files back where they were.",
        )
    spec = spec_of(directory / _MODEL)
    check_identity(state, _circumstances(directory, recipe))
    require_training_memory(spec, recipe, read_memory())
    run = _open_run(output, job, recipe, Decoder(spec).to(recipe.device), notice)
    run.restore(state)
    return run


def _open_run(output: Path, job: Job, recipe: Recipe, decoder: Decoder, notice: Notice) -> Run:
    torch.set_num_threads(recipe.threads)
    if not can_draw():
        notice(
            f"matplotlib is not installed, so the picture {_IMAGE} is left out; {TRAINING}/{_CURVE} has its numbers. "
            "Run `pip install matplotlib` for it."
        )
    directory = output / TRAINING
    num_processes = min(recipe.threads, usable_cores())
    encoder = Encoder(directory / _MODEL, _max_tokens(job, decoder.spec), num_processes)
    documents = load_documents(job, recipe, encoder, notice)
    trainer = Trainer(decoder, recipe, documents.learned, documents.held_out)
    if trainer.num_steps <= recipe.warmup_steps:
        notice(f"The learning rate never reaches its peak: {recipe.warmup_steps} steps of warm-up, {trainer.num_steps} in total")
    return Run(output, trainer, recipe, documents.identity | _circumstances(directory, recipe), notice)


def _circumstances(directory: Path, recipe: Recipe) -> dict[str, str]:
    """Returns what a state depends on besides the data."""
    return {
        "recipe": recipe.to_json(),
        "shape": (directory / _MODEL / "config.json").read_text(encoding="utf-8"),
        "torch version": torch.__version__,
    }


def _max_tokens(job: Job, spec: ModelSpec) -> int:
    return min(job.max_context or spec.max_context, spec.max_context)


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            "the output directory cannot be created",
            given=f"{directory}: {error.strerror or error}",
            next_step="Choose a directory that you may write to.",
        ) from error


def _row(report: StepReport) -> CurveRow:
    return CurveRow(
        step=report.step,
        tokens=report.tokens,
        train_loss=report.loss,
        validation_loss=report.validation_loss,
        learning_rate=report.learning_rate,
        tokens_per_second=report.tokens_per_second,
        seconds=report.seconds,
    )
