"""Gemma 3, text only: mostly local layers with their own rotary base, norms on both sides of each part, 1 + w norms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from quire.models.config_file import Config
from quire.models.families.llama_like import (
    NAMES,
    LlamaNames,
    attention_of,
    decoder_spec,
    gated_ffn,
    mapped_sources,
    read_sliding,
    read_window,
)
from quire.models.families.rope_fields import RopeFields, context_bound, read_kind, read_theta, rope_of
from quire.models.families.sizes import ACTIVATIONS, MAX_LAYERS, Sizes, choose_context, read_sizes
from quire.models.source import TensorSource
from quire.models.spec import FullAttention, LayerSpec, ModelSpec, NormPlacement, QKNorm, RopeSpec

_GLOBAL_THETA, _LOCAL_THETA = 1_000_000.0, 10_000.0
_NORMS = {
    "attn_post_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "ffn_post_norm": "post_feedforward_layernorm",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ropes:
    """The rotation of layers with full attention and of those with a window, and the context that is served."""

    everywhere: RopeSpec
    nearby: RopeSpec
    context: int


@dataclass(frozen=True, slots=True)
class Gemma3(LlamaNames):
    """Gemma team 2025."""

    name: str = "gemma3_text"
    architectures: tuple[str, ...] = ("Gemma3ForCausalLM",)

    def build_spec(self, config: Config, max_context: int | None) -> ModelSpec:
        """Returns the spec. Soft-capping of attention is refused: `transformers` reads that field and then ignores it."""
        sizes = read_sizes(config)
        ropes = _read_ropes(config, sizes, max_context)
        config.require("use_bidirectional_attention", False)
        if config.has("attn_logit_softcapping"):
            config.refuse("attn_logit_softcapping", "is not defined for Gemma 3", "null")
        has_bias = config.flag("attention_bias")
        return replace(
            decoder_spec(config, self.name, sizes, _read_layers(config, sizes, ropes), ropes.context),
            norm_placement=NormPlacement.SANDWICH,
            qk_norm=QKNorm.PER_HEAD,
            has_qkv_bias=has_bias,
            has_attention_out_bias=has_bias,
            is_head_tied=config.flag("tie_word_embeddings"),
            attention_scale=config.number("query_pre_attn_scalar") ** -0.5,
            embedding_scale=sizes.hidden_size**0.5,
            logit_softcap=config.optional_number("final_logit_softcapping"),
        )

    def sources(self, spec: ModelSpec) -> Mapping[str, TensorSource]:
        """Returns where each tensor lies; a norm stores w and means 1 + w."""
        sources = mapped_sources(spec, {**NAMES, **_NORMS})
        return {name: replace(source, offset=1.0) if name.endswith("norm.weight") else source for name, source in sources.items()}


def _read_layers(config: Config, sizes: Sizes, ropes: _Ropes) -> tuple[LayerSpec, ...]:
    """Returns the layers: every `sliding_window_pattern`-th sees everything, the others a window."""
    period = config.optional_size("sliding_window_pattern", limit=MAX_LAYERS)
    if period is None and not config.has("layer_types"):
        config.refuse("sliding_window_pattern", "must not be null without layer_types")
    is_local = read_sliding(config, sizes.num_layers, [bool((i + 1) % (period or 1)) for i in range(sizes.num_layers)])
    window = read_window(config)
    if window is None and any(is_local):
        config.refuse("sliding_window", "is null, but some layers are local")
    ffn = replace(gated_ffn(config, sizes), activation=config.choice("hidden_activation", ACTIVATIONS))
    local_layer = LayerSpec(attention=attention_of(window), ffn=ffn, rope=ropes.nearby)
    global_layer = LayerSpec(attention=FullAttention(), ffn=ffn, rope=ropes.everywhere)
    return tuple(local_layer if local else global_layer for local in is_local)


def _read_ropes(config: Config, sizes: Sizes, max_context: int | None) -> _Ropes:
    """Returns the rotations, from one object per layer type or from the older flat fields.

    `max_position_embeddings` already is the context that scaling gives.
    """
    parameters, scaling = config.section("rope_parameters"), config.section("rope_scaling")
    if parameters is not None and scaling is not None:
        config.refuse("rope_scaling", "is given together with rope_parameters", "one of the two")
    if parameters is None:
        everywhere, nearby = scaling, None
    else:
        everywhere, nearby = parameters.section("full_attention"), parameters.section("sliding_attention")
    global_fields = _fields(config, everywhere, "rope_theta", _GLOBAL_THETA)
    local_fields = _fields(config, nearby, "rope_local_base_freq", _LOCAL_THETA)
    bound = context_bound(global_fields) or context_bound(local_fields)
    context = choose_context(sizes.max_positions, max_context, bound)
    return _Ropes(
        everywhere=rope_of(global_fields, sizes.head_dim, sizes.max_positions, context),
        nearby=rope_of(local_fields, sizes.head_dim, sizes.max_positions, context),
        context=context,
    )


def _fields(config: Config, section: Config | None, theta_name: str, default_theta: float) -> RopeFields:
    if section is not None:
        section.require("partial_rotary_factor", 1.0)
    return RopeFields(theta=read_theta(config, section, theta_name, default_theta), kind=read_kind(section), scaling=section)
