"""OLMo 2: norms after each part instead of before, and one RMS norm over the whole query and key projections."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from quire.models.config_file import Config
from quire.models.families.llama_like import NAMES, LlamaNames, decoder_spec, gated_ffn, mapped_sources, same_layers
from quire.models.families.rope_fields import read_rope
from quire.models.families.sizes import read_sizes
from quire.models.source import TensorSource
from quire.models.spec import ModelSpec, NormPlacement, QKNorm

_POST_NORMS = {"attn_post_norm": "post_attention_layernorm", "ffn_post_norm": "post_feedforward_layernorm"}


@dataclass(frozen=True, slots=True)
class Olmo2(LlamaNames):
    """OLMo team 2025."""

    name: str = "olmo2"
    architectures: tuple[str, ...] = ("Olmo2ForCausalLM",)

    def build_spec(self, config: Config, max_context: int | None) -> ModelSpec:
        """Returns the spec."""
        sizes = read_sizes(config)
        has_bias = config.flag("attention_bias")
        rotation = read_rope(config, sizes, max_context)
        layers = same_layers(sizes.num_layers, gated_ffn(config, sizes), rotation.rope)
        return replace(
            decoder_spec(config, self.name, sizes, layers, rotation.context),
            norm_placement=NormPlacement.POST,
            qk_norm=QKNorm.WHOLE,
            has_qkv_bias=has_bias,
            has_attention_out_bias=has_bias,
        )

    def sources(self, spec: ModelSpec) -> Mapping[str, TensorSource]:
        """Returns where each tensor lies."""
        return mapped_sources(spec, {**NAMES, **_POST_NORMS})
