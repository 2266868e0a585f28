"""GPT-2: learned positions, layer norms, biases everywhere, one fused qkv matrix, matrices stored [in, out]."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from quire.models.config_file import Config
from quire.models.families.llama_like import mapped_sources
from quire.models.families.sizes import (
    ACTIVATIONS,
    MAX_CONTEXT,
    MAX_FFN,
    MAX_HEADS,
    MAX_HIDDEN,
    MAX_LAYERS,
    MAX_VOCAB,
    check_head_dim,
    choose_context,
    divide_heads,
)
from quire.models.source import TensorSource
from quire.models.spec import DenseFfn, FfnKind, FullAttention, LayerSpec, ModelSpec, NormKind, NormPlacement, QKNorm

_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "embed": "wte",
        "position": "wpe",
        "final_norm": "ln_f",
        "head": "lm_head",
        "attn_norm": "ln_1",
        "attn.q": "attn.c_attn",
        "attn.k": "attn.c_attn",
        "attn.v": "attn.c_attn",
        "attn.out": "attn.c_proj",
        "ffn_norm": "ln_2",
        "ffn.up": "mlp.c_fc",
        "ffn.down": "mlp.c_proj",
    }
)
_QKV_PARTS = ("q", "k", "v")
_IGNORED = re.compile(r"(?:.*\.)?h\.\d+\.attn\.(?:bias|masked_bias)")  # causal masks


@dataclass(frozen=True, slots=True)
class Gpt2:
    """Radford et al. 2019. The position table has one row per position of the model."""

    name: str = "gpt2"
    architectures: tuple[str, ...] = ("GPT2LMHeadModel",)
    prefixes: tuple[str, ...] = ("transformer.", "")

    def build_spec(self, config: Config, max_context: int | None) -> ModelSpec:
        """Returns the spec. `max_context` is only checked: the table keeps all rows, and the engine limits requests."""
        hidden = config.size("n_embd", limit=MAX_HIDDEN)
        heads = config.size("n_head", limit=MAX_HEADS)
        head_dim = check_head_dim(divide_heads(hidden, heads))
        model_context = config.size("n_positions", limit=MAX_CONTEXT)
        choose_context(model_context, max_context)
        config.require("n_ctx", model_context)
        if config.flag("scale_attn_by_inverse_layer_idx"):
            config.refuse("scale_attn_by_inverse_layer_idx", "has a value that Quire does not honor", "false")
        return ModelSpec(
            family=self.name,
            hidden_size=hidden,
            num_heads=heads,
            num_kv_heads=heads,
            head_dim=head_dim,
            vocab_size=config.size("vocab_size", limit=MAX_VOCAB),
            max_context=model_context,
            layers=(_read_layer(config, hidden),) * config.size("n_layer", limit=MAX_LAYERS),
            norm=NormKind.LAYER,
            norm_eps=config.number("layer_norm_epsilon"),
            norm_placement=NormPlacement.PRE,
            qk_norm=QKNorm.NONE,
            has_qkv_bias=True,
            has_attention_out_bias=True,
            is_head_tied=config.flag("tie_word_embeddings"),
            has_learned_positions=True,
            attention_scale=head_dim**-0.5 if config.flag("scale_attn_weights") else 1.0,
        )

    def sources(self, spec: ModelSpec) -> Mapping[str, TensorSource]:
        """Returns where each tensor lies: linear layers of the blocks are transposed, q, k and v are parts of one matrix."""
        return {name: _place(name, source, spec.hidden_size) for name, source in mapped_sources(spec, _NAMES, "h").items()}

    def is_ignored(self, tensor_name: str) -> bool:
        """Whether a tensor of the file is a causal mask."""
        return _IGNORED.fullmatch(tensor_name) is not None


def _read_layer(config: Config, hidden_size: int) -> LayerSpec:
    ffn = DenseFfn(
        kind=FfnKind.PLAIN,
        activation=config.choice("activation_function", ACTIVATIONS),
        size=config.optional_size("n_inner", limit=MAX_FFN) or 4 * hidden_size,
        has_bias=True,
    )
    return LayerSpec(attention=FullAttention(), ffn=ffn, rope=None)


def _place(canonical: str, source: TensorSource, hidden_size: int) -> TensorSource:
    module, leaf = canonical.rsplit(".", 1)
    kind, part = module.split(".")[-2:] if "." in module else ("", "")
    if kind not in ("attn", "ffn"):
        return source
    rows = None
    if part in _QKV_PARTS:
        start = _QKV_PARTS.index(part) * hidden_size
        rows = (start, start + hidden_size)
    return replace(source, is_transposed=leaf == "weight", rows=rows)
