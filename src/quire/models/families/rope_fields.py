"""Rotary settings in `config.json`, old and new: flat `rope_theta` + `rope_scaling`, or one `rope_parameters` object.

With a scaling, `max_position_embeddings` is not always the context that can be served. As transformers and vLLM read them:

    default, llama3, longrope   max_position_embeddings
    linear                      max_position_embeddings * factor
    yarn                        original_max_position_embeddings * factor
    dynamic                     max_position_embeddings: up to there its frequencies are those of default; beyond it they
                                change with the length of the request, and keys that are cached already would be wrong
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from quire.models.config_file import Config
from quire.models.families.sizes import MAX_CONTEXT, Sizes, choose_context
from quire.models.rope import (
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    NoScaling,
    RopeScaling,
    YarnScaling,
    build_rope,
)
from quire.models.spec import RopeSpec

DEFAULT_THETA = 10_000.0
KINDS: Mapping[str, str] = MappingProxyType(
    {name: name for name in ("default", "linear", "dynamic", "llama3", "yarn", "longrope")} | {"su": "longrope"}
)
_ONLY_ELSEWHERE = ("attn_factor", "extrapolation_factor")  # other engines multiply with them, transformers does not


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeFields:
    """What the file says about rotation.

    `scaling` is the object that describes the scaling, None where there is none; `original_context` the context before
    scaling if it is given outside that object.
    """

    theta: float
    kind: str
    scaling: Config | None
    original_context: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """How queries and keys are rotated, and the context that is served with that."""

    rope: RopeSpec
    context: int


def read_rope(config: Config, sizes: Sizes, max_context: int | None) -> Rotation:
    """Returns the rotation of a family that rotates whole heads, for serving `max_context` tokens."""
    config.require("partial_rotary_factor", 1.0)
    fields = read_rope_fields(config)
    if fields.scaling is not None:
        fields.scaling.require("partial_rotary_factor", 1.0)
    return rotate(fields, sizes.head_dim, sizes.max_positions, max_context)


def read_rope_fields(config: Config, kinds: Mapping[str, str] = KINDS) -> RopeFields:
    """Returns the model-wide rotation fields; the same fact given twice must agree."""
    parameters, scaling = config.section("rope_parameters"), config.section("rope_scaling")
    if parameters is not None and scaling is not None:
        config.refuse("rope_scaling", "is given together with rope_parameters", "one of the two")
    nested = parameters or scaling
    return RopeFields(
        theta=read_theta(config, nested, "rope_theta", DEFAULT_THETA),
        kind=read_kind(nested, kinds),
        scaling=nested,
        original_context=config.optional_size("original_max_position_embeddings", limit=MAX_CONTEXT),
    )


def read_kind(scaling: Config | None, kinds: Mapping[str, str] = KINDS) -> str:
    """Returns the scaling's name; transformers has used the keys `rope_type` and `type` for it."""
    if scaling is None:
        return "default"
    names = {scaling.choice(key, kinds) for key in ("rope_type", "type") if scaling.has(key)}
    if len(names) > 1:
        scaling.refuse("type", "contradicts rope_type")
    return names.pop() if names else "default"


def read_theta(config: Config, nested: Config | None, name: str, default: float) -> float:
    """Returns the base: `rope_theta` of the nested object or `name` of the config. Above 1, so that frequencies fall."""
    thetas = {nested.number("rope_theta")} if nested is not None and nested.is_given("rope_theta") else set()
    if config.has(name) or (config.is_given(name) and not thetas):
        thetas.add(config.number(name))
    if len(thetas) > 1:
        config.refuse(name, "differs from the one in rope_parameters")
    theta = thetas.pop() if thetas else default
    if theta <= 1:
        config.refuse(name, "must be above 1")
    return theta


def rotate(fields: RopeFields, rotary_dim: int, max_positions: int, max_context: int | None) -> Rotation:
    """Returns the rotation of the first `rotary_dim` elements; raises ConfigError for a context beyond what scaling gives."""
    context = choose_context(_usable_context(fields, max_positions), max_context, context_bound(fields))
    return Rotation(rope=rope_of(fields, rotary_dim, max_positions, context), context=context)


def rope_of(fields: RopeFields, rotary_dim: int, max_positions: int, context: int) -> RopeSpec:
    """Returns the rotation with which `context` tokens are served."""
    scaling: RopeScaling = NoScaling()
    if fields.scaling is not None:
        scaling = _read_scaling(fields, fields.scaling, max_positions, context)
    if isinstance(scaling, LongRopeScaling) and len(scaling.divisors) != rotary_dim // 2 and fields.scaling is not None:
        fields.scaling.refuse("long_factor", "and short_factor must hold one number per rotated pair", rotary_dim // 2)
    return build_rope(rotary_dim, fields.theta, scaling)


def context_bound(fields: RopeFields) -> str | None:
    """Returns why a context beyond max_position_embeddings is refused although the file names a factor for it."""
    if fields.kind != "dynamic":
        return None
    return "beyond it, dynamic NTK rope scaling changes every frequency with the length of a request"


def _usable_context(fields: RopeFields, max_positions: int) -> int:
    if fields.scaling is not None and fields.kind == "linear":
        return _within_limit(max_positions * fields.scaling.number("factor"))
    if fields.scaling is not None and fields.kind == "yarn":
        original = _original_context(fields, fields.scaling, max_positions)
        return _within_limit(original * _read_yarn_factor(fields.scaling, max_positions / original))
    return max_positions


def _within_limit(num_tokens: float) -> int:
    return max(1, int(min(num_tokens, MAX_CONTEXT)))


def _read_scaling(fields: RopeFields, scaling: Config, max_positions: int, context: int) -> RopeScaling:
    match fields.kind:
        case "linear":
            return LinearScaling(factor=scaling.number("factor"))
        case "llama3":
            return _read_llama3(scaling, _original_context(fields, scaling, max_positions))
        case "yarn":
            return _read_yarn(scaling, _original_context(fields, scaling, max_positions), max_positions)
        case "longrope":
            return _read_longrope(scaling, _original_context(fields, scaling, max_positions), max_positions, context)
        case "dynamic":
            scaling.number("factor")
            scaling.warn("factor", f"is not used: dynamic NTK scaling changes nothing up to the {max_positions} tokens served")
        case _:
            scaling.require("factor", 1.0)
    return NoScaling()


def _original_context(fields: RopeFields, scaling: Config, max_positions: int) -> int:
    """Returns the context before scaling: given outside the scaling, inside, or else the model's."""
    inside = scaling.optional_size("original_max_position_embeddings", limit=MAX_CONTEXT)
    if fields.original_context is not None and inside not in (None, fields.original_context):
        scaling.refuse("original_max_position_embeddings", "differs from the one outside", fields.original_context)
    return fields.original_context or inside or max_positions


def _read_llama3(scaling: Config, original: int) -> Llama3Scaling:
    low, high = scaling.number("low_freq_factor"), scaling.number("high_freq_factor")
    if low >= high:
        scaling.refuse("high_freq_factor", "must be above low_freq_factor", low)
    return Llama3Scaling(factor=scaling.number("factor"), low_freq_factor=low, high_freq_factor=high, original_context=original)


def _read_longrope(scaling: Config, original: int, max_positions: int, context: int) -> LongRopeScaling:
    """Returns the long divisors for every request if the context exceeds the original one, else the short ones."""
    factor = scaling.optional_number("factor") or max_positions / original
    warmth = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(max(original, 2)))
    short, long = scaling.numbers("short_factor"), scaling.numbers("long_factor")
    if len(short) != len(long):
        scaling.refuse("long_factor", "and short_factor must be equally long", len(short))
    return LongRopeScaling(
        divisors=long if context > original else short,
        attention_factor=scaling.optional_number("attention_factor") or warmth,
    )


def _read_yarn(scaling: Config, original: int, max_positions: int) -> YarnScaling:
    for name in _ONLY_ELSEWHERE:
        if scaling.number(name, 1.0) != 1:
            scaling.warn(name, "is not used: transformers, whose numbers these are, does not read it")
    scaling.require("finetuned", True, False)
    factor = _read_yarn_factor(scaling, max_positions / original)
    return YarnScaling(
        factor=factor,
        original_context=original,
        beta_fast=scaling.optional_number("beta_fast") or 32.0,
        beta_slow=scaling.optional_number("beta_slow") or 1.0,
        attention_factor=_yarn_attention_factor(scaling, factor),
        has_whole_bounds=scaling.flag("truncate", default=True),
    )


def _read_yarn_factor(scaling: Config, ratio: float) -> float:
    """Returns the factor, which must be given; null means the ratio of the contexts after and before scaling."""
    is_null = scaling.is_given("factor") and not scaling.has("factor")
    return ratio if is_null else scaling.number("factor")


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
