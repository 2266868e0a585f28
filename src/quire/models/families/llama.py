"""Llama 1 to 3.x: the plain decoder with rotary positions; also what many other checkpoints call themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from quire.models.config_file import Config
from quire.models.families.llama_like import NAMES, PREFIXES, decoder_spec, is_derived, mapped_sources, same_layers
from quire.models.families.rope_fields import read_rope
from quire.models.families.sizes import read_sizes
from quire.models.source import TensorSource
from quire.models.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class Llama:
    """Touvron et al. 2023; Grattafiori et al. 2024 (llama3 rope scaling)."""

    name: str = "llama"
    architectures: tuple[str, ...] = ("LlamaForCausalLM",)
    prefixes: tuple[str, ...] = PREFIXES

    def build_spec(self, config: Config, max_context: int | None) -> ModelSpec:
        """Returns the spec; `attention_bias` covers q, k, v and the output, `mlp_bias` the feed-forward."""
        sizes = read_sizes(config)
        config.require("pretraining_tp", 1)
        has_attention_bias = config.flag("attention_bias", default=False)
        layers = same_layers(sizes.num_layers, read_rope(config, sizes))
        return replace(
            decoder_spec(config, self.name, sizes, layers, max_context),
            has_qkv_bias=has_attention_bias,
            has_attention_out_bias=has_attention_bias,
            has_ffn_bias=config.flag("mlp_bias", default=False),
        )

    def sources(self, spec: ModelSpec) -> Mapping[str, TensorSource]:
        """Returns where each tensor lies."""
        return mapped_sources(spec, NAMES)

    def is_ignored(self, tensor_name: str) -> bool:
        """Whether a tensor of the file repeats other information."""
        return is_derived(tensor_name)
