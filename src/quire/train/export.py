"""Writes a `Decoder` as a Hugging Face model directory, under its family's own tensor names.

`Family.sources` says how to read a checkpoint: transpose, slice, add. Writing is the inverse:

    canonical        layers.0.attn.q [H D, E]   attn.k [K D, E]   attn.v [K D, E]
    subtract, join   layers.0.self_attn.qkv_proj.weight [(H + 2 K) D, E]              Phi-3; GPT-2 also transposes

All files are first written and flushed in a temporary folder inside the directory, then moved into place;
`config.json`, without which the directory is not a model, comes last.
"""

from __future__ import annotations

import filecmp
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from quire.errors import ConfigError
from quire.executors.torch_decoder import Decoder
from quire.files import flush
from quire.models.config_file import Config, parse_config
from quire.models.families import Family, build_spec, family_for
from quire.models.quantized import QUANTIZATION_FIELDS
from quire.models.source import TensorSource
from quire.models.spec import ModelSpec
from quire.text.tokenizer import Tokenizer
from quire.text.tokenizer_copy import copy_tokenizer, tokenizer_files

_NOT_KEPT = ("torch_dtype", *QUANTIZATION_FIELDS)
WEIGHTS, CONFIG, CARD, GENERATION = "model.safetensors", "config.json", "README.md", "generation_config.json"
DTYPES: Mapping[torch.dtype, str] = MappingProxyType({torch.float32: "float32", torch.bfloat16: "bfloat16"})
_STAGE = ".export"
_HEAD = "lm_head."  # has no family prefix


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a model directory says of its weights: fields of config.json, where tokenizer and template lie, text of README.md."""

    config: Mapping[str, Any]
    tokenizer_directory: Path
    card: str


def export_model(model: Decoder, about: Description, directory: Path, dtype: torch.dtype) -> None:
    """Writes config.json, model.safetensors, tokenizer and chat template, generation_config.json and README.md.

    The fields of the config describe `model`; its dtype, vocabulary size and token ids are set here. Weights are rounded to
    `dtype`, float32 or bfloat16. An interruption leaves a directory that is a whole model or has no config.json. Raises
    ConfigError if the parts do not belong together or cannot be written, TokenizerError without a tokenizer.
    """
    if dtype not in DTYPES:
        raise ConfigError(
            "weights cannot be exported in this format",
            given=dtype,
            limit=", ".join(DTYPES.values()),
            next_step="Export float32 or bfloat16.",
        )
    tokenizer_directory = about.tokenizer_directory
    token_ids = _token_ids(tokenizer_directory, model.spec.vocab_size)
    fields = {name: value for name, value in about.config.items() if name not in _NOT_KEPT}
    fields |= {"dtype": DTYPES[dtype], "vocab_size": model.spec.vocab_size, **token_ids}
    family = _family_of(fields, model.spec)
    generation = {"do_sample": False} | {name: value for name, value in token_ids.items() if value is not None}
    with _staged(directory) as stage:
        save_file(family_tensors(model, family, dtype), stage / WEIGHTS, metadata={"format": "pt"})
        copy_tokenizer(tokenizer_directory, stage)
        _write_json(stage / GENERATION, generation)
        _write_json(stage / CONFIG, fields | {"model_type": family.name})
        (stage / CARD).write_text(about.card, encoding="utf-8")


def family_tensors(model: Decoder, family: Family, dtype: torch.dtype) -> dict[str, Tensor]:
    """Returns contiguous copies of the parameters in `dtype`, named, joined and transposed as `family` stores them.

    An offset is subtracted in float32, so a norm that Gemma stores as w and means as 1 + w keeps w to 2**-24.
    """
    parameters = model.state_dict()
    parts: dict[str, list[tuple[TensorSource, Tensor]]] = {}
    for canonical, source in family.sources(model.spec).items():
        value = parameters[canonical].detach().to("cpu", torch.float32) - source.offset
        parts.setdefault(source.name, []).append((source, value))
    return {_name_in_file(name, family): _joined(found).to(dtype, copy=True).contiguous() for name, found in parts.items()}


def _joined(parts: list[tuple[TensorSource, Tensor]]) -> Tensor:
    """Returns the file's tensor: the parts of a fused matrix in the order of their rows, transposed if the file's is."""
    in_order = sorted(parts, key=lambda part: part[0].rows or (0, 0))
    whole = torch.cat([value for _, value in in_order])
    return whole.T if parts[0][0].is_transposed else whole


def _name_in_file(name: str, family: Family) -> str:
    return name if name.startswith(_HEAD) else family.prefixes[0] + name


def _family_of(fields: Mapping[str, Any], spec: ModelSpec) -> Family:
    """Returns the family that reads the fields back; raises ConfigError unless they describe the same model."""
    config: Config = parse_config(json.dumps(fields).encode())
    described = build_spec(config, spec.max_context)
    if described != spec:
        raise ConfigError(
            "config.json would describe another model than the one that was trained",
            given=", ".join(name for name in ModelSpec.__slots__ if getattr(described, name) != getattr(spec, name)),
            next_step="Pass the fields that the model was built from.",
        )
    return family_for(config)


def _token_ids(directory: Path, vocab_size: int) -> dict[str, int | list[int] | None]:
    """Returns the ids that begin, end and pad a text; raises ConfigError if the model lacks a token of the tokenizer."""
    ours = Tokenizer.from_directory(directory)
    if ours.vocab_size > vocab_size:
        raise ConfigError(
            "the tokenizer has more tokens than the model",
            given=ours.vocab_size,
            limit=vocab_size,
            next_step="Export with the tokenizer that the model was trained with.",
        )
    eos_ids = sorted(ours.eos_token_ids)
    return {
        "bos_token_id": ours.id_of(ours.named_tokens.get("bos_token", "")),
        "eos_token_id": eos_ids[0] if len(eos_ids) == 1 else eos_ids or None,
        "pad_token_id": ours.id_of(ours.named_tokens.get("pad_token", "")),
    }


def _write_json(path: Path, fields: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@contextmanager
def _staged(directory: Path) -> Iterator[Path]:
    """Yields an empty folder whose files move into `directory` if the block succeeds."""
    stage = directory / _STAGE
    try:
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir(parents=True)
        yield stage
        _publish(stage, directory)
    except OSError as error:
        raise ConfigError(
            "the model directory cannot be written",
            given=f"{directory}: {error.strerror or error}",
            next_step="Choose a directory with free space that you may write to.",
        ) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _publish(stage: Path, directory: Path) -> None:
    """Moves flushed files into place. If another model is there, its config.json is removed first."""
    names = sorted(path.relative_to(stage).as_posix() for path in stage.rglob("*") if path.is_file())
    for name in names:
        flush(stage / name)
    outdated = [name for name in tokenizer_files(directory) if name not in names]
    if outdated or not all(_is_unchanged(stage / name, directory / name) for name in names if name not in (WEIGHTS, CARD)):
        (directory / CONFIG).unlink(missing_ok=True)
        flush(directory)
    for name in outdated:
        (directory / name).unlink()
    for name in sorted(names, key=lambda name: name == CONFIG):
        if name == CONFIG:
            flush(directory)
        (directory / name).parent.mkdir(exist_ok=True)
        os.replace(stage / name, directory / name)
    flush(directory)


def _is_unchanged(fresh: Path, published: Path) -> bool:
    return published.exists() and filecmp.cmp(fresh, published, shallow=False)
