"""Metadata to `ModelSpec`: an architecture's fields become those of config.json, which its family reads as usual.

So a GGUF file and the Hugging Face checkpoint that it was made from are the same model by construction, and every limit that
a family checks holds for both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from quire.errors import UnknownArchitectureError, UnsupportedConfigError
from quire.models.config_file import Config
from quire.models.families import build_spec
from quire.models.families.sizes import MAX_CONTEXT, MAX_FFN, MAX_HEAD_DIM, MAX_HEADS, MAX_HIDDEN, MAX_LAYERS
from quire.models.gguf.fields import Fields
from quire.models.gguf.rope import FACTOR_TENSORS, add_rope, optional_factor
from quire.models.gguf.splits import Gguf
from quire.models.spec import ModelSpec

_Add = Callable[[Fields, Gguf, dict[str, Any]], None]
_EMBEDDING, _HEAD = "token_embd.weight", "output.weight"
_LAYERS_OF_GEMMA3_27B = 62


def config_of(gguf: Gguf) -> Config:
    """Returns the metadata as a config.json; raises UnknownArchitectureError, and UnsupportedConfigError with the field."""
    fields = Fields(gguf.name, gguf.metadata)
    fields.require("general.type", "model")
    add = ARCHITECTURES.get(fields.architecture)
    if add is None:
        raise UnknownArchitectureError(
            f"{gguf.name}: no family maps the architecture of this file",
            given=fields.architecture[:120],
            limit=", ".join(ARCHITECTURES),
            next_step="Use a model of one of the architectures above.",
        )
    config: dict[str, Any] = {}
    add(fields, gguf, config)
    fields.refuse_unread(f"{fields.architecture}.")
    return Config(config)


def spec_of(file_name: str, config: Config, max_context: int | None = None) -> ModelSpec:
    """Returns the spec of a file's config, for serving `max_context` tokens (None: the model's own context).

    Raises UnsupportedConfigError with the field, and ConfigError for a longer context than the model's.
    """
    try:
        return build_spec(config, max_context)
    except UnsupportedConfigError as error:
        raise UnsupportedConfigError(
            f"{file_name}: the metadata, as fields of config.json: {error.problem.removeprefix('config.json: ')}",
            given=error.given,
            limit=error.limit,
            next_step="Use a file that a current converter of llama.cpp wrote for a supported model.",
        ) from error


# -- architectures -------------------------------------------------------------------


def _add_llama(fields: Fields, gguf: Gguf, config: dict[str, Any]) -> None:
    """Llama and what converters store as llama: Mistral, SmolLM, Yi, Falcon 3."""
    _add_decoder(fields, gguf, config)
    fields.require(fields.own("tensor_data_layout"), "Meta AI original pth")  # what all of these files have, said or not
    window = fields.optional_size(fields.own("attention.sliding_window"), MAX_CONTEXT)
    if window is not None:
        config |= {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": window}
        return
    has_biases = {"attention_bias": "attn_q.bias", "mlp_bias": "ffn_up.bias"}
    config |= {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    config |= {field: f"blk.0.{tensor}" in gguf.placement for field, tensor in has_biases.items()}


def _add_qwen2(fields: Fields, gguf: Gguf, config: dict[str, Any]) -> None:
    _add_decoder(fields, gguf, config)
    config |= {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "use_sliding_window": False}


def _add_qwen3(fields: Fields, gguf: Gguf, config: dict[str, Any]) -> None:
    _add_decoder(fields, gguf, config)
    config |= {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "use_sliding_window": False}


def _add_olmo2(fields: Fields, gguf: Gguf, config: dict[str, Any]) -> None:
    """OLMo 2; OLMo 3, which converters store under the same name, has windows, and the unread field is refused."""
    _add_decoder(fields, gguf, config)
    config |= {"model_type": "olmo2", "architectures": ["Olmo2ForCausalLM"]}


def _add_phi3(fields: Fields, gguf: Gguf, config: dict[str, Any]) -> None:
    _add_decoder(fields, gguf, config)
    window = fields.optional_size(fields.own("attention.sliding_window"), MAX_CONTEXT)
    config |= {"model_type": "phi3", "architectures": ["Phi3ForCausalLM"], "sliding_window": window}
    original = fields.optional_size(fields.own("rope.scaling.original_context_length"), MAX_CONTEXT)
    config["original_max_position_embeddings"] = original or config["max_position_embeddings"]


def _add_gemma3(fields: Fields, gguf: Gguf, config: dict[str, Any]) -> None:
    """Gemma 3. The query scale is not in the metadata: the 27B model alone divides by the root of hidden size / heads."""
    _add_decoder(fields, gguf, config)
    scalar = config["head_dim"]
    if config["num_hidden_layers"] == _LAYERS_OF_GEMMA3_27B:
        scalar = config["hidden_size"] // config["num_attention_heads"]
    config |= {
        "model_type": "gemma3_text",
        "architectures": ["Gemma3ForCausalLM"],
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": scalar,
        "sliding_window": fields.size(fields.own("attention.sliding_window"), MAX_CONTEXT),
        "sliding_window_pattern": fields.optional_size(fields.own("attention.sliding_window_pattern"), MAX_LAYERS) or 6,
        "rope_local_base_freq": optional_factor(fields, "rope.freq_base_swa") or 10_000.0,
        "final_logit_softcapping": fields.optional_number(fields.own("final_logit_softcapping")),
    }
    config.pop("hidden_act")


def _add_gpt2(fields: Fields, gguf: Gguf, config: dict[str, Any]) -> None:
    """GPT-2; converters transpose its matrices, so that none is left to transpose."""
    own = fields.own
    config |= {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": _vocab_size(fields, gguf),
        "n_positions": fields.size(own("context_length"), MAX_CONTEXT),
        "n_embd": fields.size(own("embedding_length"), MAX_HIDDEN),
        "n_layer": fields.size(own("block_count"), MAX_LAYERS),
        "n_head": fields.size(own("attention.head_count"), MAX_HEADS),
        "n_inner": fields.size(own("feed_forward_length"), MAX_FFN),
        "layer_norm_epsilon": fields.number(own("attention.layer_norm_epsilon")),
        "tie_word_embeddings": _HEAD not in gguf.placement,
    }
    fields.require(own("attention.head_count_kv"), config["n_head"])


ARCHITECTURES: Mapping[str, _Add] = MappingProxyType(
    {
        "llama": _add_llama,
        "qwen2": _add_qwen2,
        "qwen3": _add_qwen3,
        "gemma3": _add_gemma3,
        "phi3": _add_phi3,
        "olmo2": _add_olmo2,
        "gpt2": _add_gpt2,
    }
)
"""The values of `general.architecture` that Quire reads."""


# -- what they share -----------------------------------------------------------------


def _add_decoder(fields: Fields, gguf: Gguf, config: dict[str, Any]) -> None:
    """Adds what llama and its descendants have: sizes, norms, rotation, and whether the head is the embedding."""
    own = fields.own
    heads = fields.size(own("attention.head_count"), MAX_HEADS)
    config |= {
        "hidden_size": fields.size(own("embedding_length"), MAX_HIDDEN),
        "num_hidden_layers": fields.size(own("block_count"), MAX_LAYERS),
        "num_attention_heads": heads,
        "num_key_value_heads": fields.optional_size(own("attention.head_count_kv"), MAX_HEADS) or heads,
        "intermediate_size": fields.size(own("feed_forward_length"), MAX_FFN),
        "max_position_embeddings": fields.size(own("context_length"), MAX_CONTEXT),
        "rms_norm_eps": fields.number(own("attention.layer_norm_rms_epsilon")),
        "vocab_size": _vocab_size(fields, gguf),
        "hidden_act": "silu",
        "tie_word_embeddings": _HEAD not in gguf.placement,
    }
    config["head_dim"] = _head_dim(fields, config["hidden_size"], heads)
    fields.require(own("expert_count"), 0)
    fields.require(own("expert_used_count"), 0)
    fields.require(own("attention.causal"), True)
    add_rope(fields, gguf, config)


def _head_dim(fields: Fields, hidden_size: int, num_heads: int) -> int:
    """Returns the elements of a head, the same for keys and values."""
    key = fields.optional_size(fields.own("attention.key_length"), MAX_HEAD_DIM)
    if key is None and hidden_size % num_heads:
        fields.refuse(fields.own("attention.head_count"), "does not divide the embedding length", hidden_size)
    head_dim = key or hidden_size // num_heads
    fields.require(fields.own("attention.value_length"), head_dim)
    return head_dim


def _vocab_size(fields: Fields, gguf: Gguf) -> int:
    """Returns the rows of the embedding, which decide; the metadata may say fewer, or nothing."""
    if _EMBEDDING not in gguf.placement:
        fields.refuse(_EMBEDDING, "is missing among the tensors")
    num_rows = math.prod(gguf.info(_EMBEDDING).shape[:-1])
    fields.optional_size(fields.own("vocab_size"), num_rows)
    return num_rows


def is_derived(tensor_name: str) -> bool:
    """Whether a tensor is no weight: the rotation has read it."""
    return tensor_name in FACTOR_TENSORS
