"""The rotation of a GGUF model as fields of config.json: base, partial rotation, and length scaling.

rope.scaling.type linear, yarn     a factor, as in config.json; linear where the file names no type, as in llama.cpp
rope_freqs.weight                  one divisor per pair: what Llama 3.1's scaling comes to
rope_factors_long, _short          the divisors of longrope
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from quire.models.families.sizes import MAX_CONTEXT, MAX_HEAD_DIM
from quire.models.gguf.fields import Fields
from quire.models.gguf.splits import Gguf

_FREQS, _LONG, _SHORT = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"
FACTOR_TENSORS = frozenset({_FREQS, _LONG, _SHORT})
_LEAST, _MOST = 1e-3, 1e12
"""Bounds of bases, factors and divisors: beyond them frequencies in float32 are NaN or infinite."""
_PARTLY_ROTATED = frozenset({"phi3"})


def add_rope(fields: Fields, gguf: Gguf, config: dict[str, Any]) -> None:
    """Adds the fields of rotation to a config that holds the sizes."""
    own = fields.own
    config["rope_theta"] = optional_factor(fields, "rope.freq_base") or 10_000.0
    _add_rotated_part(fields, config)
    scaling = _divisors(fields, gguf) or _scaling(fields, config)
    if scaling is not None:
        config["rope_scaling"] = scaling
    fields.require(own("rope.scaling.finetuned"), True, False)


def optional_factor(fields: Fields, name: str) -> float | None:
    """Returns a base or a factor of the architecture; None where it is absent or 0."""
    value = fields.optional_number(fields.own(name))
    if value is not None and not _LEAST <= value <= _MOST:
        fields.refuse(fields.own(name), "makes no frequencies", f"{_LEAST:g} to {_MOST:g}")
    return value


def _add_rotated_part(fields: Fields, config: dict[str, Any]) -> None:
    name, head_dim = fields.own("rope.dimension_count"), config["head_dim"]
    num_rotated = fields.optional_size(name, MAX_HEAD_DIM) or head_dim
    if num_rotated == head_dim:
        return
    if fields.architecture not in _PARTLY_ROTATED or num_rotated > head_dim:
        fields.refuse(name, "rotates another part of a head than Quire does", head_dim)
    config["partial_rotary_factor"] = math.nextafter(num_rotated / head_dim, 1.0)  # so that the product is never rounded down


def _divisors(fields: Fields, gguf: Gguf) -> dict[str, Any] | None:
    """Returns a longrope for divisors that are tensors, or None where there are none."""
    found = {name: _factors(fields, gguf, name) for name in FACTOR_TENSORS if name in gguf.placement}
    if not found:
        return None
    scaling_type, factor = _type_and_factor(fields)
    if scaling_type not in ("none", "linear", "longrope"):
        fields.refuse(fields.own("rope.scaling.type"), "has a value that Quire does not honor", "none, linear, longrope")
    if factor not in (None, 1.0):
        fields.refuse(fields.own("rope.scaling.factor"), "scales frequencies that divisors scale already", 1.0)
    if _FREQS in found:
        if len(found) > 1:
            fields.refuse(_FREQS, "is stored together with factors of longrope")
        return {"rope_type": "longrope", "short_factor": found[_FREQS], "long_factor": found[_FREQS], "attention_factor": 1.0}
    if len(found) < 2:
        fields.refuse(_LONG, f"and {_SHORT} come only together")
    attention_factor = fields.optional_number(fields.own("rope.scaling.attn_factor"))
    return {
        "rope_type": "longrope",
        "short_factor": found[_SHORT],
        "long_factor": found[_LONG],
        **({} if attention_factor is None else {"attention_factor": attention_factor}),
    }


def _factors(fields: Fields, gguf: Gguf, name: str) -> list[float]:
    shape = gguf.info(name).shape
    if len(shape) != 1 or shape[0] > MAX_HEAD_DIM:
        fields.refuse(name, "is not one divisor per rotated pair", f"{MAX_HEAD_DIM} at most")
    values = gguf.read(name).to_float32()
    if not np.all((values >= _LEAST) & (values <= _MOST)):
        fields.refuse(name, "holds divisors that make no frequencies", f"{_LEAST:g} to {_MOST:g}")
    found: list[float] = values.tolist()
    return found


def _scaling(fields: Fields, config: dict[str, Any]) -> dict[str, Any] | None:
    """Returns the scaling that the metadata describes, or None."""
    own = fields.own
    scaling_type, factor = _type_and_factor(fields)
    fields.require(own("rope.scaling.attn_factor"), 1.0)
    original = fields.optional_size(own("rope.scaling.original_context_length"), MAX_CONTEXT)
    if scaling_type == "yarn":
        return _yarn(fields, config, factor, original)
    if scaling_type not in ("none", "linear"):
        fields.refuse(own("rope.scaling.type"), "has a value that Quire does not honor", "none, linear, yarn")
    return None if factor in (None, 1.0) else {"rope_type": "linear", "factor": factor}


def _type_and_factor(fields: Fields) -> tuple[str, float | None]:
    """Returns the type of scaling, linear where the file names none, and its factor; none has no factor, as in llama.cpp."""
    scaling_type = fields.text(fields.own("rope.scaling.type")) or "linear"
    factor = optional_factor(fields, "rope.scaling.factor")
    if scaling_type != "none":
        return scaling_type, factor
    if factor not in (None, 1.0):
        fields.warn(fields.own("rope.scaling.factor"), "is ignored, for the type of scaling is none")
    return scaling_type, None


def _yarn(fields: Fields, config: dict[str, Any], factor: float | None, original: int | None) -> dict[str, Any]:
    own = fields.own
    if factor is None:
        fields.refuse(own("rope.scaling.factor"), "is missing")
    fields.require(own("rope.scaling.yarn_ext_factor"), 1.0, -1.0)
    fields.require(own("rope.scaling.yarn_attn_factor"), 1.0)
    fields.require(own("rope.scaling.yarn_log_multiplier"), 0.0)
    return {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": original or config["max_position_embeddings"],
        "beta_fast": optional_factor(fields, "rope.scaling.yarn_beta_fast") or 32.0,
        "beta_slow": optional_factor(fields, "rope.scaling.yarn_beta_slow") or 1.0,
    }
