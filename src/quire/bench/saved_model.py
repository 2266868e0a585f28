"""Writes a random model as a Hugging Face directory, so that a fresh process, or another engine, can load the same weights."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt

from quire.bench.random_model import random_checkpoint
from quire.models.config_file import parse_config
from quire.models.families import Family, family_for
from quire.models.source import TensorSource
from quire.models.weights import SourceTensor, round_to_bfloat16

_ALIGNMENT = 8  # of the safetensors header, so that tensors start aligned
_HEAD = "lm_head."  # has no family prefix

FileTensor = npt.NDArray[np.uint16]
"""bfloat16 bits in the orientation of the file."""


def save_random_model(config_file: Path, directory: Path) -> None:
    """Writes config.json and model.safetensors, the weights of `random_checkpoint`; no tokenizer.

    Raises ConfigError or ModelError for the config, OSError where the directory cannot be written.
    """
    checkpoint = random_checkpoint(config_file)
    content = config_file.read_bytes()
    family = family_for(parse_config(content))
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_bytes(content)
    write_safetensors(directory / "model.safetensors", _file_tensors(family, family.sources(checkpoint.spec), checkpoint.weights))


def write_safetensors(path: Path, tensors: Mapping[str, FileTensor]) -> None:
    """Writes bfloat16 tensors one after another, without a second copy in memory."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    stop = 0
    for name, tensor in tensors.items():
        start, stop = stop, stop + 2 * prod(tensor.shape)
        header[name] = {"dtype": "BF16", "shape": tensor.shape, "data_offsets": [start, stop]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            file.write(np.ascontiguousarray(tensor).data)


def _file_tensors(
    family: Family, sources: Mapping[str, TensorSource], weights: Mapping[str, SourceTensor]
) -> dict[str, FileTensor]:
    """Returns what the loader would read as `weights`: parts of one matrix joined, transposes and offsets undone."""
    parts: dict[str, list[str]] = defaultdict(list)
    for canonical, source in sources.items():
        parts[source.name].append(canonical)
    result = {}
    for name, canonicals in parts.items():
        canonicals.sort(key=lambda each: sources[each].rows or (0, 0))
        joined = np.concatenate([_without_offset(weights[each], sources[each].offset) for each in canonicals])
        prefix = "" if name.startswith(_HEAD) else family.prefixes[0]
        result[prefix + name] = joined.T if sources[canonicals[0]].is_transposed else joined
    return result


def _without_offset(tensor: SourceTensor, offset: float) -> FileTensor:
    return tensor.to_bfloat16() if offset == 0 else round_to_bfloat16(tensor.to_float32() - np.float32(offset))
