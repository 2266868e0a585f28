"""Phi-3 and Phi-4-mini: llama with fused qkv and gate/up matrices, partly rotated heads, and longrope."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from quire.models.config_file import Config
from quire.models.families.llama_like import (
    NAMES,
    LlamaNames,
    decoder_spec,
    gated_ffn,
    mapped_sources,
    read_window,
    same_layers,
)
from quire.models.families.rope_fields import read_rope_fields, rotate
from quire.models.families.sizes import MAX_CONTEXT, read_sizes
from quire.models.source import TensorSource
from quire.models.spec import ModelSpec

_FUSED: Mapping[str, str] = MappingProxyType(
    dict.fromkeys(("attn.q", "attn.k", "attn.v"), "self_attn.qkv_proj")
    | dict.fromkeys(("ffn.gate", "ffn.up"), "mlp.gate_up_proj")
)
_KINDS: Mapping[str, str] = MappingProxyType(
    {"default": "default"} | dict.fromkeys(("longrope", "su", "yarn"), "longrope")  # early files say "su" or "yarn"
)


@dataclass(frozen=True, slots=True)
class Phi3(LlamaNames):
    """Abdin et al. 2024. The divisors of longrope are chosen once, from the context that will be served."""

    name: str = "phi3"
    architectures: tuple[str, ...] = ("Phi3ForCausalLM",)

    def build_spec(self, config: Config, max_context: int | None) -> ModelSpec:
        """Returns the spec; `max_context` above the original context selects longrope's long divisors for every request."""
        sizes = read_sizes(config)
        for name, only in (("attention_bias", False), ("mlp_bias", False), ("full_attn_mod", 1), ("interpolate_factor", 1)):
            config.require(name, only)
        original = config.size("original_max_position_embeddings", limit=MAX_CONTEXT)
        fields = replace(read_rope_fields(config, _KINDS), original_context=original)
        rotation = rotate(fields, _read_rotary_dim(config, fields.scaling, sizes.head_dim), sizes.max_positions, max_context)
        layers = same_layers(sizes.num_layers, gated_ffn(config, sizes), rotation.rope, read_window(config))
        return decoder_spec(config, self.name, sizes, layers, rotation.context)

    def sources(self, spec: ModelSpec) -> Mapping[str, TensorSource]:
        """Returns where each tensor lies: q, k and v are rows of one matrix, gate and up of another."""
        query, kv = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
        attention_rows = {"attn.q": (0, query), "attn.k": (query, query + kv), "attn.v": (query + kv, query + 2 * kv)}
        sources = mapped_sources(spec, {**NAMES, **_FUSED})
        for index, layer in enumerate(spec.layers):
            ffn_rows = {"ffn.gate": (0, layer.ffn.size), "ffn.up": (layer.ffn.size, 2 * layer.ffn.size)}
            for module, part in (attention_rows | ffn_rows).items():
                name = f"layers.{index}.{module}.weight"
                sources[name] = replace(sources[name], rows=part)
        return sources


def _read_rotary_dim(config: Config, scaling: Config | None, head_dim: int) -> int:
    sources = [source for source in (scaling, config) if source is not None and source.is_given("partial_rotary_factor")]
    shares = {source.number("partial_rotary_factor") for source in sources} or {1.0}
    rotary_dim = int(head_dim * min(shares))
    if len(shares) > 1 or max(shares) > 1 or rotary_dim < 2 or rotary_dim % 2:
        config.refuse("partial_rotary_factor", "must rotate an even, positive part of each head", f"head_dim {head_dim}")
    return rotary_dim
