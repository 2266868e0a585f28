"""Llama 1 to 3.x: the plain decoder with rotary positions; many other checkpoints use its architecture name."""

from __future__ import annotations

from dataclasses import dataclass, replace

from quire.models.config_file import Config
from quire.models.families.llama_like import LlamaNames, decoder_spec, gated_ffn, same_layers
from quire.models.families.rope_fields import read_rope
from quire.models.families.sizes import read_sizes
from quire.models.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class Llama(LlamaNames):
    """Touvron et al. 2023; Grattafiori et al. 2024 (llama3 rope scaling)."""

    name: str = "llama"
    architectures: tuple[str, ...] = ("LlamaForCausalLM", "LLaMAForCausalLM")  # the second: before transformers had it

    def build_spec(self, config: Config, max_context: int | None) -> ModelSpec:
        """Returns the spec; `attention_bias` covers q, k, v and the output, `mlp_bias` the feed-forward."""
        sizes = read_sizes(config)
        has_attention_bias = config.flag("attention_bias")
        rotation = read_rope(config, sizes, max_context)
        ffn = replace(gated_ffn(config, sizes), has_bias=config.flag("mlp_bias"))
        layers = same_layers(sizes.num_layers, ffn, rotation.rope)
        return replace(
            decoder_spec(config, self.name, sizes, layers, rotation.context),
            has_qkv_bias=has_attention_bias,
            has_attention_out_bias=has_attention_bias,
        )
