"""Prepares what a run starts from: a device, a tokenizer, a shape, and weights.

    --model DIR                        its tokenizer, its shape, its weights
    --tokenizer DIR  --config FILE     that tokenizer, that shape, random weights
    neither                            a tokenizer trained on the data, DEFAULT_CONFIG, random weights

`prepare` writes tokenizer and config.json once; a resumed run reads them back.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from quire.environment import read_memory
from quire.errors import ConfigError, ExecutorUnavailableError
from quire.executors.torch_decoder import Decoder
from quire.models.checkpoint import load_checkpoint, read_spec
from quire.models.config_file import Config, read_config
from quire.models.families import build_spec, family_for
from quire.models.families.defaults import DEFAULTS
from quire.models.families.sizes import MAX_CONTEXT
from quire.models.gguf.splits import is_gguf
from quire.models.spec import ModelSpec
from quire.text.tokenizer import Tokenizer
from quire.text.tokenizer_copy import copy_tokenizer
from quire.train.capacity import require_training_memory
from quire.train.checkpoint import write_safely
from quire.train.documents import read_documents
from quire.train.export import CONFIG, GENERATION
from quire.train.recipe import Job, Recipe
from quire.train.tokenizer import MIN_VOCAB_SIZE, check_vocab_size, save_tokenizer, train_tokenizer

DEFAULT_CONFIG: Mapping[str, Any] = MappingProxyType(
    {
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
)
"""A small decoder of modern shape: RMSNorm, RoPE, gated FFN, GQA."""

_DEVICES = ("cpu", "cuda")
_COMPILERS = ("g++", "clang++", "c++")
_TOKEN_FIELDS = ("bos_token_id", "eos_token_id", "pad_token_id")  # of the shape's own tokenizer; export_model sets them
_CONTEXT_FIELDS = ("max_position_embeddings", "n_positions", "n_ctx")

Notice = Callable[[str], None]
"""Shows the user a one-line notice."""


def check_machine(recipe: Recipe) -> None:
    """Raises ConfigError for an unknown device, ExecutorUnavailableError for a missing device or compiler."""
    _check_device(recipe.device)
    if recipe.compile and not any(map(shutil.which, _COMPILERS)):
        raise ExecutorUnavailableError(
            "torch.compile needs a C++ compiler",
            given=f"no {', no '.join(_COMPILERS)}",
            next_step="Install one, or train without --compile.",
        )


def _check_device(name: str) -> None:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise _unknown_device(name) from error
    if device.type not in _DEVICES:
        raise _unknown_device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ExecutorUnavailableError(
            "there is no such CUDA device",
            given=name,
            limit=f"{torch.cuda.device_count()} devices",
            next_step="Train with --device cpu, or check the driver and that torch was installed for CUDA.",
        )


def check_shape(job: Job, recipe: Recipe) -> None:
    """Raises ConfigError for a shape or vocabulary size that is not allowed or that this machine cannot train.

    A tokenizer that is still to be trained is counted with the smallest allowed vocabulary.
    """
    if job.max_context is not None and job.max_context > MAX_CONTEXT:
        raise ConfigError(
            "max_context exceeds the limit",
            given=job.max_context,
            limit=MAX_CONTEXT,
            next_step="Lower --max-context.",
        )
    fields = _config_fields(job)
    if job.model is None:
        if job.tokenizer is None:
            check_vocab_size(job.vocab_size)
        fields = _with_vocabulary(fields, MIN_VOCAB_SIZE)
    require_training_memory(build_spec(Config(fields)), recipe, read_memory())


def prepare(job: Job, directory: Path, notice: Notice) -> None:
    """Writes the tokenizer and the config.json of the model in training."""
    fields = _config_fields(job)
    _prepare_tokenizer(job, directory, _context_of(fields), notice)
    if job.model is None:
        num_tokens, given = Tokenizer.from_directory(directory).vocab_size, fields.get("vocab_size")
        if given not in (None, num_tokens):
            notice(f"The model has the {num_tokens} tokens of its tokenizer, not the {given} of {job.config}")
        fields = _with_vocabulary(fields, num_tokens)
    write_safely(directory / CONFIG, json.dumps(fields, indent=2, sort_keys=True).encode())


def spec_of(directory: Path) -> ModelSpec:
    """Returns the shape that `prepare` wrote; raises ConfigError if the tokenizer has more tokens than the model."""
    spec = build_spec(Config(json.loads((directory / CONFIG).read_text(encoding="utf-8"))))
    num_tokens = Tokenizer.from_directory(directory).vocab_size
    if num_tokens > spec.vocab_size:
        raise ConfigError(
            "the tokenizer has more tokens than the model",
            given=num_tokens,
            limit=spec.vocab_size,
            next_step="Use the tokenizer that belongs to the model.",
        )
    return spec


def new_decoder(job: Job, spec: ModelSpec, recipe: Recipe) -> Decoder:
    """Returns the decoder of a run's first step, on its device; raises ConfigError if its training does not fit into memory."""
    require_training_memory(spec, recipe, read_memory())
    if job.model is not None:
        checkpoint = load_checkpoint(Path(job.model), max_context=job.max_context)
        if replace(checkpoint.spec, max_context=spec.max_context) != spec:
            raise ConfigError(
                "the context of this model cannot be shortened: its rotations depend on it",
                given=job.max_context,
                next_step="Leave out --max-context.",
            )
        decoder = Decoder.from_weights(spec, checkpoint.weights)
    else:
        decoder = Decoder(spec)
        decoder.init_weights(recipe.seed)
    return decoder.to(recipe.device)


def _with_vocabulary(fields: Mapping[str, Any], num_tokens: int) -> dict[str, Any]:
    """Returns the fields of a new model for a tokenizer of `num_tokens` tokens, without token ids of another vocabulary."""
    return {name: value for name, value in fields.items() if name not in _TOKEN_FIELDS} | {"vocab_size": num_tokens}


def _refuse_gguf(model: Path) -> None:
    if is_gguf(model):
        raise ConfigError(
            "training starts from a model directory, not from a GGUF file",
            given=model.name,
            next_step="Name the Hugging Face checkpoint that the file was made from.",
        )


def _config_fields(job: Job) -> dict[str, Any]:
    """Returns the fields of config.json. A requested context becomes the model's, except that an existing table of learned
    positions keeps its rows. If the weight files hold a separate head, the fields say so; references to code in the
    model's directory are dropped.
    """
    if job.model is not None:
        _refuse_gguf(Path(job.model))
        read_config(Path(job.model))  # raises the usual error for a directory without a model
    path = job.config if job.model is None else str(Path(job.model) / CONFIG)
    fields = _with_context(dict(DEFAULT_CONFIG) if path is None else _read_fields(path))
    if job.model is not None:
        is_head_tied = read_spec(Path(job.model)).is_head_tied
        if is_head_tied is not build_spec(Config(fields)).is_head_tied:
            fields["tie_word_embeddings"] = is_head_tied
        fields.pop("auto_map", None)
    has_learned_rows = job.model is not None and "n_positions" in fields
    if job.max_context is not None and not has_learned_rows:
        fields |= dict.fromkeys((name for name in _CONTEXT_FIELDS if name in fields), job.max_context)
    return fields


def _with_context(fields: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields, with their family's default context if they have none."""
    defaults = DEFAULTS[family_for(Config(fields)).name]
    return {name: defaults[name] for name in _CONTEXT_FIELDS if name in defaults} | fields


def _context_of(fields: Mapping[str, Any]) -> int:
    """Returns the model's context, for the tokenizer's settings; `build_spec` checks it."""
    return next((fields[name] for name in _CONTEXT_FIELDS if isinstance(fields.get(name), int)), 0)


def _read_fields(path: str) -> dict[str, Any]:
    try:
        fields = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError("the shape cannot be read", given=f"{path}: {reason}", next_step="Name a config.json.") from error
    if not isinstance(fields, dict):
        raise ConfigError("the shape is not a JSON object", given=path, next_step="Name a config.json.")
    return fields


def _prepare_tokenizer(job: Job, directory: Path, max_context: int, notice: Notice) -> None:
    source = job.model or job.tokenizer
    if source is None:
        notice("Training a tokenizer")
        texts = (piece for document in read_documents(map(Path, job.data)) for piece in document.pieces())
        save_tokenizer(train_tokenizer(texts, job.vocab_size), directory, max_context)
        return
    Tokenizer.from_directory(Path(source))  # raises for one that is missing or damaged
    copy_tokenizer(Path(source), directory)
    if (Path(source) / GENERATION).exists():
        shutil.copyfile(Path(source) / GENERATION, directory / GENERATION)


def _unknown_device(name: str) -> ConfigError:
    return ConfigError(
        "the device is unknown to training", given=name, limit=", ".join(_DEVICES), next_step="Choose one of these."
    )
