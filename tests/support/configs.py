"""Small, valid contents of `config.json`, one a family, as files on the Hub write them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from quire.models.config_file import parse_config
from quire.models.families import build_spec
from quire.models.spec import Activation, DenseFfn, FfnKind, ModelSpec, RopeSpec

_LLAMA_LIKE: dict[str, Any] = {
    "vocab_size": 251,
    "hidden_size": 56,
    "intermediate_size": 100,
    "num_hidden_layers": 4,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "torch_dtype": "bfloat16",
}
CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2": {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": 251,
        "n_embd": 56,
        "n_head": 7,
        "n_layer": 4,
        "n_positions": 512,
        "n_ctx": 512,
        "layer_norm_epsilon": 1e-5,
        "activation_function": "gelu_new",
    },
    "llama": {**_LLAMA_LIKE, "architectures": ["LlamaForCausalLM"], "model_type": "llama"},
    "mistral": {**_LLAMA_LIKE, "architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 64},
    "qwen2": {**_LLAMA_LIKE, "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"},
    "qwen3": {**_LLAMA_LIKE, "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 24},
    "phi3": {
        **_LLAMA_LIKE,
        "architectures": ["Phi3ForCausalLM"],
        "model_type": "phi3",
        "head_dim": 24,
        "original_max_position_embeddings": 128,
        "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 12, "long_factor": [2.0] * 12},
    },
    "gemma3_text": {
        **{name: value for name, value in _LLAMA_LIKE.items() if name != "hidden_act"},
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "head_dim": 24,
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 16,
        "sliding_window": 32,
        "sliding_window_pattern": 3,
        "rope_theta": 1_000_000.0,
        "rope_local_base_freq": 10_000.0,
        "rope_scaling": None,
        "cache_implementation": "hybrid",
    },
    "olmo2": {**_LLAMA_LIKE, "architectures": ["Olmo2ForCausalLM"], "model_type": "olmo2", "attention_bias": False},
}


def spec_of(family: str, max_context: int | None = None, /, **changes: Any) -> ModelSpec:
    """Returns the spec of a family's small config with some fields changed."""
    return build_spec(parse_config(json.dumps(CONFIGS[family] | changes).encode()), max_context)


def with_ffn(spec: ModelSpec, **changes: Any) -> ModelSpec:
    """Returns the spec with some fields of every layer's feed-forward changed."""
    return replace(spec, layers=tuple(replace(layer, ffn=replace(layer.ffn, **changes)) for layer in spec.layers))


def unusual_specs() -> dict[str, ModelSpec]:
    """Returns what specs allow and no family of today combines."""
    llama = spec_of("llama")
    first, *others = llama.layers
    partial = RopeSpec(inv_freq=(1.0,), attention_factor=1.3)
    plain = replace(first, ffn=DenseFfn(kind=FfnKind.PLAIN, activation=Activation.GELU, size=150, has_bias=True))
    return {
        "attention softcap and window": replace(
            spec_of("mistral", sliding_window=3), attention_softcap=2.0, logit_softcap=5.0, embedding_scale=1.7
        ),
        "half a head rotates": replace(llama, layers=tuple(replace(layer, rope=partial) for layer in llama.layers)),
        "one layer does not rotate": replace(llama, layers=(*others, replace(first, rope=None))),
        "no layer rotates": replace(llama, layers=tuple(replace(layer, rope=None) for layer in llama.layers)),
        "learned and rotated": replace(llama, has_learned_positions=True),
        "feed-forwards differ": replace(llama, layers=(plain, *others)),
        "relu": with_ffn(llama, activation=Activation.RELU),
        "whole qk norm with scale": replace(spec_of("olmo2"), attention_scale=0.9),
    }
