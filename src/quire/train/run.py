"""One training run and its directory: started from data, continued from what was saved, finished as a model directory.

OUT/                     the exported model, once the run has ended
OUT/training/            job.json recipe.json     what was asked for
                         model/                   config.json and tokenizer of the model in training
                         state.safetensors        weights and moments, replaced every few minutes
                         curve.csv curve.png      the losses so far
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from quire.errors import CheckpointError, ConfigError
from quire.executors.torch_decoder import Decoder
from quire.models.checkpoint import load_checkpoint
from quire.models.config_file import Config
from quire.models.families import build_spec
from quire.text.tokenizer import Tokenizer
from quire.train.card import Material, ModelFacts, render_card
from quire.train.checkpoint import load_state, save_state, write_safely
from quire.train.curve import CurveRow, LearningCurve, draw, read_curve
from quire.train.documents import read_documents
from quire.train.encoding import EncodedDocuments, Encoder
from quire.train.export import export_model
from quire.train.loop import StepReport, Trainer
from quire.train.recipe import Recipe
from quire.train.tokenizer import save_tokenizer, train_tokenizer

TRAINING = "training"
DEFAULT_CONFIG: Mapping[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 256,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "intermediate_size": 640,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "attention_bias": False,
    "tie_word_embeddings": True,
}
"""A small decoder of modern shape: RMSNorm, RoPE, gated FFN, grouped queries."""

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")
Notice = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to learn and from where to start.

    With `model` its weights, shape and tokenizer are the start. Otherwise weights are fresh, the shape is the config.json
    `config` or DEFAULT_CONFIG, and the tokenizer is that of the directory `tokenizer`, or a new one of `vocab_size` tokens.
    """

    data: tuple[str, ...]
    model: str | None = None
    config: str | None = None
    tokenizer: str | None = None
    vocab_size: int = 4096
    max_context: int | None = None


class Run:
    """A run in its directory."""

    def __init__(self, output: Path, trainer: Trainer, decoder: Decoder, identity: dict[str, str]) -> None:
        self._output, self._directory = output, output / TRAINING
        self._decoder, self._identity = decoder, identity
        self.trainer = trainer
        self.recipe = Recipe.from_file(self._directory / "recipe.json")
        self._curve: LearningCurve | None = None
        self._saved_at = time.monotonic()

    def train(self, on_step: Callable[[StepReport], None], should_stop: Callable[[], bool]) -> bool:
        """Takes the remaining steps, saving as it goes; returns whether the run is finished. A stopped run is saved too."""
        path = self._directory / "curve.csv"
        self._curve = LearningCurve.resume(path, self.trainer.step) if self.trainer.step else LearningCurve.begin(path)

        def record(report: StepReport) -> None:
            self._record(report)
            on_step(report)

        self.trainer.run(record, should_stop)
        self.save()
        return self.trainer.step >= self.trainer.num_steps

    def save(self) -> None:
        """Writes the state and draws the curve."""
        save_state(self.trainer.state(self._identity), self._directory / "state.safetensors")
        if self.trainer.step:
            draw(self._directory / "curve.csv", self._directory / "curve.png")
        self._saved_at = time.monotonic()

    def export(self, dtype: torch.dtype = torch.bfloat16) -> None:
        """Writes the model directory."""
        model = self._directory / "model"
        config = json.loads((model / "config.json").read_text(encoding="utf-8"))
        export_model(self._decoder, config, self._output, tokenizer_directory=model, dtype=dtype, card=self._card(dtype))

    def _card(self, dtype: torch.dtype) -> str:
        shutil.copyfile(self._directory / "curve.png", self._output / "curve.png")
        about = ModelFacts(
            name=self._output.name,
            summary="Trained with `quire train`.",
            spec=self._decoder.spec,
            dtype=str(dtype).removeprefix("torch."),
            material=Material.TEXT if self.trainer.learns_everything else Material.CONVERSATIONS,
            rows=read_curve(self._directory / "curve.csv"),
            recipe=json.loads(self.recipe.to_json()),
            curve_image="curve.png",
        )
        return render_card(about)

    def _record(self, report: StepReport) -> None:
        row = CurveRow(
            step=report.step,
            tokens=report.tokens,
            train_loss=report.loss,
            validation_loss=report.validation_loss,
            learning_rate=report.learning_rate,
            tokens_per_second=report.tokens_per_second,
            seconds=report.seconds,
        )
        if self._curve is not None:
            self._curve.append(row)
        if time.monotonic() - self._saved_at > 60 * self.recipe.save_minutes:
            self.save()


def start_run(job: Job, recipe: Recipe, output: Path, notice: Notice) -> Run:
    """Returns a new run whose directory holds all it needs to continue; raises ConfigError if one lies there already."""
    directory = output / TRAINING
    if (directory / "state.safetensors").exists():
        raise ConfigError(
            "a training run lies there already", given=output, next_step="Continue it with --resume, or choose another directory."
        )
    (directory / "model").mkdir(parents=True, exist_ok=True)
    _prepare_tokenizer(job, directory / "model", notice)
    _prepare_config(job, directory / "model")
    fields = json.dumps({name: getattr(job, name) for name in Job.__slots__}, indent=2)
    write_safely(directory / "job.json", fields.encode())
    write_safely(directory / "recipe.json", recipe.to_json().encode())
    run = _open_run(output, job, recipe, notice)
    run.save()
    return run


def resume_run(output: Path, notice: Notice) -> Run:
    """Returns the run of `output` where its last saved state left it; raises CheckpointError if anything has changed since."""
    directory = output / TRAINING
    recipe = Recipe.from_file(directory / "recipe.json")
    job = Job(**json.loads((directory / "job.json").read_text(encoding="utf-8")))
    run = _open_run(output, job, recipe, notice)
    state = load_state(directory / "state.safetensors", recipe.device)
    for name, value in run._identity.items():
        if state.identity.get(name) != value:
            raise CheckpointError(
                f"the run cannot continue bit for bit: its {name} has changed",
                given=value,
                limit=state.identity.get(name),
                next_step="Restore it, or start a new run with --model from the exported weights.",
            )
    run.trainer.restore(state)
    return run


def _open_run(output: Path, job: Job, recipe: Recipe, notice: Notice) -> Run:
    torch.set_num_threads(recipe.threads)
    model = output / TRAINING / "model"
    decoder = _decoder(job, model, recipe)
    notice("Reading and encoding the training data")
    documents = Encoder(model, decoder.spec.max_context, recipe.threads).encode(read_documents(Path(path) for path in job.data))
    learned, held_out = split_documents(documents, recipe)
    identity = {
        "training data": documents.digest(),
        "recipe": recipe.to_json(),
        "shape": (model / "config.json").read_text(encoding="utf-8"),
        "torch version": torch.__version__,
    }
    return Run(output, Trainer(decoder, recipe, learned, held_out), decoder, identity)


def split_documents(documents: EncodedDocuments, recipe: Recipe) -> tuple[EncodedDocuments, EncodedDocuments | None]:
    """Returns the documents to learn and those held out for validation (None if there are too few)."""
    num_documents = len(documents.lengths)
    num_held_out = int(num_documents * recipe.validation_share)
    if num_held_out == 0:
        return documents, None
    order = np.random.default_rng([recipe.seed, 1]).permutation(num_documents)
    return documents.select(np.sort(order[num_held_out:])), documents.select(np.sort(order[:num_held_out]))


def _decoder(job: Job, model: Path, recipe: Recipe) -> Decoder:
    if job.model is not None:
        checkpoint = load_checkpoint(Path(job.model), max_context=job.max_context)
        decoder = Decoder.from_weights(checkpoint.spec, checkpoint.weights)
    else:
        config = Config(json.loads((model / "config.json").read_text(encoding="utf-8")))
        decoder = Decoder(build_spec(config, job.max_context))
        decoder.init_weights(recipe.seed)
    return decoder.to(recipe.device)


def _prepare_tokenizer(job: Job, model: Path, notice: Notice) -> None:
    source = job.model or job.tokenizer
    if source is not None:
        for name in _TOKENIZER_FILES:
            if (Path(source) / name).exists():
                shutil.copyfile(Path(source) / name, model / name)
        return
    notice("Training a tokenizer")
    texts = (piece for document in read_documents(Path(path) for path in job.data) for piece in document.pieces())
    save_tokenizer(train_tokenizer(texts, job.vocab_size), model, job.max_context or 2048)


def _prepare_config(job: Job, model: Path) -> None:
    """Writes the config.json of the model in training; a fresh model has the tokenizer's vocabulary."""
    if job.model is not None:
        shutil.copyfile(Path(job.model) / "config.json", model / "config.json")
        return
    fields = dict(DEFAULT_CONFIG)
    if job.config is not None:
        try:
            fields = json.loads(Path(job.config).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(
                "the shape cannot be read", given=f"{job.config}: {error}", next_step="Name a config.json."
            ) from error
    fields["vocab_size"] = Tokenizer.from_directory(model).vocab_size
    write_safely(model / "config.json", json.dumps(fields, indent=2, sort_keys=True).encode())
