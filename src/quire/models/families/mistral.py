"""Mistral: llama with grouped kv heads and, in its first version, one sliding window for all layers."""

from __future__ import annotations

from dataclasses import dataclass

from quire.models.config_file import Config
from quire.models.families.llama_like import (
    LlamaNames,
    decoder_spec,
    gated_ffn,
    read_sliding,
    read_window,
    same_layers,
)
from quire.models.families.rope_fields import read_rope
from quire.models.families.sizes import read_sizes
from quire.models.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class Mistral(LlamaNames):
    """Jiang et al. 2023. `sliding_window` null means that every layer sees everything."""

    name: str = "mistral"
    architectures: tuple[str, ...] = ("MistralForCausalLM",)

    def build_spec(self, config: Config, max_context: int | None) -> ModelSpec:
        """Returns the spec."""
        sizes = read_sizes(config)
        config.require("attention_bias", False)
        config.require("mlp_bias", False)
        window = read_window(config)
        all_alike = (window is not None,) * sizes.num_layers
        if read_sliding(config, sizes.num_layers, all_alike) != all_alike:
            config.refuse("layer_types", "contradicts sliding_window", "the same attention in all layers")
        rotation = read_rope(config, sizes, max_context)
        layers = same_layers(sizes.num_layers, gated_ffn(config, sizes), rotation.rope, window)
        return decoder_spec(config, self.name, sizes, layers, rotation.context)
