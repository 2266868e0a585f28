"""What a quantized checkpoint takes over from its source: the tensors under their family's names, config.json, the tokenizer.

canonical    layers.0.attn.q [H D, E]   attn.k [K D, E]   attn.v [K D, E]
in the file  model.layers.0.self_attn.qkv_proj.weight [(H + 2 K) D, E]                   a fused matrix, Phi-3
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from quire.arrays import Float32Array
from quire.errors import UnsupportedConfigError
from quire.models.checkpoint import Checkpoint
from quire.models.config_file import Config
from quire.models.families import Family, family_for
from quire.models.gguf.spec import config_of
from quire.models.gguf.splits import is_gguf, open_gguf
from quire.models.quantized import QUANTIZATION_FIELDS
from quire.models.source import TensorSource
from quire.models.spec import ModelSpec
from quire.models.strict_json import parse_json
from quire.models.weights import SourceDType

_NOT_KEPT = ("torch_dtype", "dtype", "auto_map", *QUANTIZATION_FIELDS)
_HEAD = "lm_head."  # has no family prefix


@dataclass(frozen=True, slots=True, kw_only=True)
class Naming:
    """The family that names the tensors of a spec, and the fields of config.json that describe it."""

    family: Family
    fields: Mapping[str, Any]
    sources: Mapping[str, TensorSource]

    def name_of(self, source: TensorSource) -> str:
        """Returns a tensor's name in the file."""
        return source.name if source.name.startswith(_HEAD) else self.family.prefixes[0] + source.name

    def parts(self, names: Iterable[str]) -> dict[str, list[str]]:
        """Returns the name in the file of each tensor, and the canonical names of its parts in the order of their rows."""
        found: dict[str, list[str]] = {}
        for canonical in sorted(names, key=lambda name: self.sources[name].rows or (0, 0)):
            found.setdefault(self.name_of(self.sources[canonical]), []).append(canonical)
        return found

    def joined(self, names: Sequence[str], tensors: Mapping[str, Float32Array]) -> Float32Array:
        """Returns the parts of a tensor as one; an offset is taken off in float32."""
        parts = [tensors[name] - np.float32(self.sources[name].offset) for name in names]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def read_naming(checkpoint: Checkpoint) -> Naming:
    """Returns how a checkpoint's tensors are named; raises UnsupportedConfigError for GPT-2, whose matrices lie transposed."""
    fields = _config_fields(checkpoint.directory)
    family = family_for(Config(dict(fields)))
    sources = family.sources(checkpoint.spec)
    if any(source.is_transposed for source in sources.values()):
        raise UnsupportedConfigError(
            "this architecture stores its matrices transposed, for which the format has no layout",
            given=family.name,
            next_step="Quantize on loading instead: --quantize int4.",
        )
    return Naming(family=family, fields=fields, sources=sources)


def described(naming: Naming, spec: ModelSpec, dtype: SourceDType) -> dict[str, Any]:
    """Returns the fields of the new config.json, all but the quantization."""
    kept = {name: value for name, value in naming.fields.items() if name not in _NOT_KEPT}
    word = "float16" if dtype is SourceDType.FLOAT16 else "bfloat16"
    return kept | {"model_type": naming.family.name, "tie_word_embeddings": spec.is_head_tied, "torch_dtype": word}


def _config_fields(path: Path) -> Mapping[str, Any]:
    if is_gguf(path):
        return config_of(open_gguf(path)).fields
    fields = parse_json((path / "config.json").read_bytes())
    if not isinstance(fields, dict):
        raise UnsupportedConfigError("config.json is not an object", next_step="Download the file again.")
    return fields
