"""Qwen3: llama with an explicit head size and an RMS norm on every query and key head."""

from __future__ import annotations

from dataclasses import dataclass, replace

from quire.models.config_file import Config
from quire.models.families.llama_like import LlamaNames, decoder_spec, gated_ffn
from quire.models.families.qwen2 import read_qwen_layers
from quire.models.families.rope_fields import read_rope
from quire.models.families.sizes import read_sizes
from quire.models.spec import ModelSpec, QKNorm


@dataclass(frozen=True, slots=True)
class Qwen3(LlamaNames):
    """Yang et al. 2025, the dense models."""

    name: str = "qwen3"
    architectures: tuple[str, ...] = ("Qwen3ForCausalLM",)

    def build_spec(self, config: Config, max_context: int | None) -> ModelSpec:
        """Returns the spec."""
        sizes = read_sizes(config)
        has_bias = config.flag("attention_bias")
        rotation = read_rope(config, sizes, max_context)
        layers = read_qwen_layers(config, sizes.num_layers, gated_ffn(config, sizes), rotation.rope)
        return replace(
            decoder_spec(config, self.name, sizes, layers, rotation.context),
            qk_norm=QKNorm.PER_HEAD,
            has_qkv_bias=has_bias,
            has_attention_out_bias=has_bias,
        )
