"""What llama and its descendants share: the spec they all start from, the names of their tensors, and layer windows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from quire.models.config_file import Config
from quire.models.families.sizes import ACTIVATIONS, MAX_CONTEXT, Sizes
from quire.models.source import TensorSource
from quire.models.spec import (
    Attention,
    DenseFfn,
    FfnKind,
    FullAttention,
    LayerSpec,
    ModelSpec,
    NormKind,
    NormPlacement,
    QKNorm,
    RopeSpec,
    WindowAttention,
)

NAMES: Mapping[str, str] = MappingProxyType(
    {
        "embed": "embed_tokens",
        "final_norm": "norm",
        "head": "lm_head",
        "attn_norm": "input_layernorm",
        "attn.q": "self_attn.q_proj",
        "attn.k": "self_attn.k_proj",
        "attn.v": "self_attn.v_proj",
        "attn.q_norm": "self_attn.q_norm",
        "attn.k_norm": "self_attn.k_norm",
        "attn.out": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "ffn.gate": "mlp.gate_proj",
        "ffn.up": "mlp.up_proj",
        "ffn.down": "mlp.down_proj",
    }
)

_LAYER_TYPES: Mapping[str, bool] = MappingProxyType({"full_attention": False, "sliding_attention": True})
_DERIVED = re.compile(r"(?:.*\.)?rotary_emb\.(?:inv_freq|cos_cached|sin_cached)")


def decoder_spec(config: Config, family: str, sizes: Sizes, layers: tuple[LayerSpec, ...], context: int) -> ModelSpec:
    """Returns the plain descendant of llama: RMS norms before each part, no biases.

    `context` is the one to serve. Families `dataclasses.replace` what they do differently.
    """
    return ModelSpec(
        family=family,
        hidden_size=sizes.hidden_size,
        num_heads=sizes.num_heads,
        num_kv_heads=sizes.num_kv_heads,
        head_dim=sizes.head_dim,
        vocab_size=sizes.vocab_size,
        max_context=context,
        layers=layers,
        norm=NormKind.RMS,
        norm_eps=config.number("rms_norm_eps"),
        norm_placement=NormPlacement.PRE,
        qk_norm=QKNorm.NONE,
        has_qkv_bias=False,
        has_attention_out_bias=False,
        is_head_tied=config.flag("tie_word_embeddings"),
        has_learned_positions=False,
        attention_scale=sizes.head_dim**-0.5,
    )


@dataclass(frozen=True, slots=True)
class LlamaNames:
    """Where a descendant of llama keeps its tensors: the part of a family that most of them do not change."""

    prefixes: tuple[str, ...] = ("model.", "")

    def sources(self, spec: ModelSpec) -> Mapping[str, TensorSource]:
        """Returns where each tensor lies."""
        return mapped_sources(spec, NAMES)

    def is_ignored(self, tensor_name: str) -> bool:
        """Whether a tensor repeats what the config says: rotary tables of old files."""
        return _DERIVED.fullmatch(tensor_name) is not None


def gated_ffn(config: Config, sizes: Sizes) -> DenseFfn:
    """Returns the feed-forward of llama: gated, without biases."""
    activation = config.choice("hidden_act", ACTIVATIONS, "silu")
    return DenseFfn(kind=FfnKind.GATED, activation=activation, size=sizes.ffn_size, has_bias=False)


def attention_of(window: int | None) -> Attention:
    """Returns the attention of a layer with this window, or of one that sees everything."""
    return FullAttention() if window is None else WindowAttention(window)


def same_layers(num_layers: int, ffn: DenseFfn, rope: RopeSpec, window: int | None = None) -> tuple[LayerSpec, ...]:
    """Returns layers that do not differ."""
    return (LayerSpec(attention=attention_of(window), ffn=ffn, rope=rope),) * num_layers


def read_sliding(config: Config, num_layers: int, default: Sequence[bool]) -> tuple[bool, ...]:
    """Returns which layers see only a window: from `layer_types`, or where that is absent as `default` says."""
    types = config.texts("layer_types")
    if types is None:
        return tuple(default)
    if len(types) != num_layers or not set(types) <= _LAYER_TYPES.keys():
        config.refuse("layer_types", "must name every layer's attention", f"{num_layers} of {', '.join(_LAYER_TYPES)}")
    return tuple(_LAYER_TYPES[name] for name in types)


def read_window(config: Config) -> int | None:
    """Returns the window of the layers that have one, in tokens."""
    return config.optional_size("sliding_window", limit=MAX_CONTEXT)


def mapped_sources(spec: ModelSpec, names: Mapping[str, str], layer_prefix: str = "layers") -> dict[str, TensorSource]:
    """Returns the source of every canonical tensor, given the file's name of each canonical module."""
    sources = {}
    for canonical in spec.tensor_shapes():
        layer, module, leaf = _split(canonical)
        prefix = "" if layer is None else f"{layer_prefix}.{layer}."
        sources[canonical] = TensorSource(name=f"{prefix}{names[module]}.{leaf}")
    return sources


def _split(canonical: str) -> tuple[str | None, str, str]:
    path, leaf = canonical.rsplit(".", 1)
    if not path.startswith("layers."):
        return None, path, leaf
    _, layer, module = path.split(".", 2)
    return layer, module, leaf
