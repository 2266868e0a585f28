"""Rotary settings in `config.json`, old and new: flat `rope_theta` + `rope_scaling`, or one `rope_parameters` object."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType

from quire.errors import UnsupportedConfigError
from quire.models.config_file import Config
from quire.models.families.sizes import MAX_CONTEXT, Sizes
from quire.models.rope import LinearScaling, Llama3Scaling, NoScaling, RopeScaling, YarnScaling, build_rope
from quire.models.spec import RopeSpec

_KINDS = MappingProxyType({name: name for name in ("default", "linear", "dynamic", "llama3", "yarn", "longrope", "su")})


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeFields:
    """What the file says about rotation: the base and, where there is any, the object that describes the scaling."""

    theta: float
    scaling: Config | None

    @property
    def kind(self) -> str:
        """Returns the scaling's name; transformers has used the keys `rope_type` and `type` for it."""
        if self.scaling is None:
            return "default"
        names = {self.scaling.choice(key, _KINDS) for key in ("rope_type", "type") if self.scaling.has(key)}
        if len(names) > 1:
            self.scaling.refuse("type", "contradicts rope_type")
        return names.pop() if names else "default"


def read_rope_fields(config: Config, *, default_theta: float = 10_000.0) -> RopeFields:
    """Returns the model-wide rotation fields; the same fact given twice must agree."""
    parameters, scaling = config.section("rope_parameters"), config.section("rope_scaling")
    if parameters is not None and scaling is not None:
        config.refuse("rope_scaling", "is given together with rope_parameters", "one of the two")
    nested = parameters or scaling
    sources = [source for source in (nested, config) if source is not None and source.has("rope_theta")]
    thetas = {read_theta(source, "rope_theta", default_theta) for source in sources}
    if len(thetas) > 1:
        config.refuse("rope_theta", "differs from the one in rope_parameters")
    return RopeFields(theta=thetas.pop() if thetas else default_theta, scaling=nested)


def read_rope(config: Config, sizes: Sizes) -> RopeSpec:
    """Returns the rotation of a family that rotates whole heads: default, linear, llama3 or yarn."""
    config.require("partial_rotary_factor", 1.0)
    return scaled_rope(read_rope_fields(config), sizes)


def scaled_rope(fields: RopeFields, sizes: Sizes) -> RopeSpec:
    """Returns the rotation of whole heads for fields that were read already."""
    if fields.scaling is not None:
        fields.scaling.require("partial_rotary_factor", 1.0)
    return build_rope(sizes.head_dim, fields.theta, _read_scaling(fields, sizes.model_context))


def read_theta(config: Config, name: str, default: float) -> float:
    """Returns a rotary base; it must be above 1 so that frequencies fall."""
    theta = config.number(name, default)
    if theta <= 1:
        config.refuse(name, "must be above 1")
    return theta


def _read_scaling(fields: RopeFields, model_context: int) -> RopeScaling:
    kind, scaling = fields.kind, fields.scaling
    if scaling is None or kind == "default":
        return NoScaling()
    if kind == "linear":
        return LinearScaling(factor=scaling.number("factor"))
    if kind == "llama3":
        return _read_llama3(scaling, model_context)
    if kind == "yarn":
        return _read_yarn(scaling, model_context)
    if kind == "dynamic":
        raise UnsupportedConfigError(
            "config.json asks for dynamic NTK rope scaling, whose frequencies change with the length of a request",
            given=kind,
            limit="default, linear, llama3, yarn",
            next_step="Cached keys would be wrong at the next length: use a checkpoint with another rope scaling.",
        )
    return scaling.refuse("rope_type", "is not honoured for this architecture", "default, linear, llama3, yarn")


def _read_llama3(scaling: Config, model_context: int) -> Llama3Scaling:
    low, high = scaling.number("low_freq_factor"), scaling.number("high_freq_factor")
    if low >= high:
        scaling.refuse("high_freq_factor", "must be above low_freq_factor", low)
    return Llama3Scaling(
        factor=scaling.number("factor"),
        low_freq_factor=low,
        high_freq_factor=high,
        original_context=scaling.size("original_max_position_embeddings", limit=MAX_CONTEXT, default=model_context),
    )


def _read_yarn(scaling: Config, model_context: int) -> YarnScaling:
    original = scaling.size("original_max_position_embeddings", limit=MAX_CONTEXT, default=model_context)
    factor = scaling.number("factor", model_context / original)
    return YarnScaling(
        factor=factor,
        original_context=original,
        beta_fast=scaling.number("beta_fast", 32.0),
        beta_slow=scaling.number("beta_slow", 1.0),
        attention_factor=_yarn_attention_factor(scaling, factor),
        has_whole_bounds=scaling.flag("truncate", default=True),
    )


def _yarn_attention_factor(scaling: Config, factor: float) -> float:
    mscale, mscale_all_dim = scaling.optional_number("mscale"), scaling.optional_number("mscale_all_dim")
    given = scaling.optional_number("attention_factor")
    if given is not None:
        return given
    if mscale is not None and mscale_all_dim is not None:
        return _yarn_warmth(factor, mscale) / _yarn_warmth(factor, mscale_all_dim)
    return _yarn_warmth(factor, 1.0)


def _yarn_warmth(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0
