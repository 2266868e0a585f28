"""Gemma 3, text only: mostly local layers with their own rotary base, norms on both sides of each part, 1 + w norms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from quire.models.config_file import Config
from quire.models.families.llama_like import (
    NAMES,
    LlamaNames,
    decoder_spec,
    mapped_sources,
    read_sliding,
    read_window,
)
from quire.models.families.rope_fields import RopeFields, read_rope_fields, read_theta, scaled_rope
from quire.models.families.sizes import ACTIVATIONS, MAX_LAYERS, Sizes, read_sizes
from quire.models.source import TensorSource
from quire.models.spec import LayerSpec, ModelSpec, NormPlacement, QKNorm, RopeSpec

_GLOBAL_THETA, _LOCAL_THETA = 1_000_000.0, 10_000.0
_NORMS = {
    "attn_post_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "ffn_post_norm": "post_feedforward_layernorm",
}


@dataclass(frozen=True, slots=True)
class Gemma3(LlamaNames):
    """Gemma team 2025."""

    name: str = "gemma3_text"
    architectures: tuple[str, ...] = ("Gemma3ForCausalLM",)

    def build_spec(self, config: Config, max_context: int | None) -> ModelSpec:
        """Returns the spec. Soft-capping of attention is refused: `transformers` reads that field and then ignores it."""
        sizes = read_sizes(config, default_head_dim=256)
        config.require("use_bidirectional_attention", False)
        if config.has("attn_logit_softcapping"):
            config.refuse("attn_logit_softcapping", "is not defined for Gemma 3", "null")
        has_bias = config.flag("attention_bias", default=False)
        return replace(
            decoder_spec(config, self.name, sizes, _read_layers(config, sizes), max_context),
            norm_placement=NormPlacement.SANDWICH,
            qk_norm=QKNorm.PER_HEAD,
            activation=config.choice("hidden_activation", ACTIVATIONS, "gelu_pytorch_tanh"),
            has_qkv_bias=has_bias,
            has_attention_out_bias=has_bias,
            is_head_tied=config.flag("tie_word_embeddings", default=True),
            attention_scale=config.number("query_pre_attn_scalar", 256.0) ** -0.5,
            embedding_scale=sizes.hidden_size**0.5,
            logit_softcap=config.optional_number("final_logit_softcapping"),
        )

    def sources(self, spec: ModelSpec) -> Mapping[str, TensorSource]:
        """Returns where each tensor lies; a norm stores w and means 1 + w."""
        sources = mapped_sources(spec, {**NAMES, **_NORMS})
        return {name: replace(source, offset=1.0) if name.endswith("norm.weight") else source for name, source in sources.items()}


def _read_layers(config: Config, sizes: Sizes) -> tuple[LayerSpec, ...]:
    """Returns the layers: every `sliding_window_pattern`-th sees everything, the others a window."""
    periods = [config.size(name, limit=MAX_LAYERS, default=6) for name in ("sliding_window_pattern", "_sliding_window_pattern")]
    period = periods[0] if config.has("sliding_window_pattern") else periods[1]
    is_local = read_sliding(config, sizes.num_layers, [(i + 1) % period != 0 for i in range(sizes.num_layers)])
    window = read_window(config)
    if window is None and any(is_local):
        config.refuse("sliding_window", "is missing, but some layers are local")
    everywhere, nearby = _read_ropes(config, sizes)
    local_layer, global_layer = LayerSpec(rope=nearby, sliding_window=window), LayerSpec(rope=everywhere)
    return tuple(local_layer if local else global_layer for local in is_local)


def _read_ropes(config: Config, sizes: Sizes) -> tuple[RopeSpec, RopeSpec]:
    """Returns the rotation of global and of local layers, from one object per layer type or from the older flat fields."""
    parameters = config.section("rope_parameters")
    if parameters is not None:
        fields = [
            RopeFields(theta=theta if section is None else read_theta(section, "rope_theta", theta), scaling=section)
            for section, theta in (
                (parameters.section("full_attention"), _GLOBAL_THETA),
                (parameters.section("sliding_attention"), _LOCAL_THETA),
            )
        ]
        return scaled_rope(fields[0], sizes), scaled_rope(fields[1], sizes)
    everywhere = read_rope_fields(config, default_theta=_GLOBAL_THETA)
    nearby = RopeFields(theta=read_theta(config, "rope_local_base_freq", _LOCAL_THETA), scaling=None)
    return scaled_rope(everywhere, sizes), scaled_rope(nearby, sizes)
