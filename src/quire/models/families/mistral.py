"""Mistral: llama with grouped kv heads and, in its first version, one sliding window for all layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from quire.models.config_file import Config
from quire.models.families.llama_like import (
    NAMES,
    PREFIXES,
    decoder_spec,
    is_derived,
    mapped_sources,
    read_sliding,
    read_window,
    same_layers,
)
from quire.models.families.rope_fields import read_rope
from quire.models.families.sizes import read_sizes
from quire.models.source import TensorSource
from quire.models.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class Mistral:
    """Jiang et al. 2023. `sliding_window` null means that every layer sees everything."""

    name: str = "mistral"
    architectures: tuple[str, ...] = ("MistralForCausalLM",)
    prefixes: tuple[str, ...] = PREFIXES

    def build_spec(self, config: Config, max_context: int | None) -> ModelSpec:
        """Returns the spec."""
        sizes = read_sizes(config)
        config.require("attention_bias", False)
        config.require("mlp_bias", False)
        window = read_window(config)
        all_alike = (window is not None,) * sizes.num_layers
        if read_sliding(config, sizes.num_layers, all_alike) != all_alike:
            config.refuse("layer_types", "contradicts sliding_window", "the same attention in all layers")
        layers = same_layers(sizes.num_layers, read_rope(config, sizes), window)
        return decoder_spec(config, self.name, sizes, layers, max_context)

    def sources(self, spec: ModelSpec) -> Mapping[str, TensorSource]:
        """Returns where each tensor lies."""
        return mapped_sources(spec, NAMES)

    def is_ignored(self, tensor_name: str) -> bool:
        """Whether a tensor of the file repeats other information."""
        return is_derived(tensor_name)
