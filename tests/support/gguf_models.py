"""Small checkpoints of every family as llama.cpp's converter would write them, from the files of the same Hugging Face model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from support.configs import CONFIGS
from support.gguf_writer import Stored, gguf_bytes, stored
from support.safetensors_writer import safetensors_bytes
from support.stored import Tensors

ARCHITECTURES = {name: name for name in CONFIGS} | {"mistral": "llama", "gemma3_text": "gemma3"}
_TOP = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}
_LAYER = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.qkv_proj": "attn_qkv",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_SANDWICH = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_GPT2_TOP = {"wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm", "lm_head": "output"}
_GPT2_LAYER = {
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
    "ln_1": "attn_norm",
    "ln_2": "ffn_norm",
}

Store = Callable[[str, np.ndarray], Stored]


def write_both(directory: Path, family: str, config: Mapping[str, Any], tensors: Tensors, store: Store | None = None) -> Path:
    """Writes a Hugging Face directory `hub` and the GGUF file of the same model, whose path is returned.

    `store` chooses the kind of each tensor by its name in the GGUF file; float32 without it.
    """
    hub = directory / "hub"
    hub.mkdir()
    (hub / "config.json").write_text(json.dumps(config))
    (hub / "model.safetensors").write_bytes(safetensors_bytes(tensors))
    path = directory / f"{family}.gguf"
    path.write_bytes(gguf_bytes(metadata_of(family, config), converted(family, config, tensors, store)))
    return path


def metadata_of(family: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields that describe the model."""
    arch = ARCHITECTURES[family]
    if family == "gpt2":
        own = {
            "context_length": config["n_positions"],
            "embedding_length": config["n_embd"],
            "block_count": config["n_layer"],
            "attention.head_count": config["n_head"],
            "feed_forward_length": 4 * config["n_embd"],
            "attention.layer_norm_epsilon": config["layer_norm_epsilon"],
        }
    else:
        own = _decoder_fields(arch, config)
    return {"general.architecture": arch, "general.type": "model"} | {f"{arch}.{name}": value for name, value in own.items()}


def _decoder_fields(arch: str, config: Mapping[str, Any]) -> dict[str, Any]:
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    own = {
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "block_count": config["num_hidden_layers"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "rope.freq_base": float(config.get("rope_theta", 10_000.0)),
        "rope.dimension_count": int(head_dim * config.get("partial_rotary_factor", 1.0)),
        "vocab_size": config["vocab_size"],
    }
    if arch == "llama":
        own["tensor_data_layout"] = "Meta AI original pth"
    if config.get("sliding_window"):
        own["attention.sliding_window"] = config["sliding_window"]
    if "original_max_position_embeddings" in config:
        own["rope.scaling.original_context_length"] = config["original_max_position_embeddings"]
    if arch == "gemma3":
        own["attention.sliding_window_pattern"] = config["sliding_window_pattern"]
    return own


def converted(family: str, config: Mapping[str, Any], tensors: Tensors, store: Store | None = None) -> dict[str, Stored]:
    """Returns the tensors under llama.cpp's names, arranged as llama.cpp keeps them."""
    keep = store or (lambda _, values: stored(values))
    found = {}
    for name, values in tensors.items():
        renamed = _name(family, name)
        found[renamed] = keep(renamed, _arranged(family, config, renamed, values))
    scaling = config.get("rope_scaling") or {}
    for name in scaling.keys() & {"long_factor", "short_factor"}:
        found[f"rope_factors_{name.removesuffix('_factor')}.weight"] = stored(np.array(scaling[name], np.float32))
    return found


def _name(family: str, name: str) -> str:
    path, leaf = name.removeprefix("transformer.").removeprefix("model.").rsplit(".", 1)
    top, layer, start = (_GPT2_TOP, _GPT2_LAYER, "h.") if family == "gpt2" else (_TOP, _LAYER, "layers.")
    if family in ("gemma3_text", "olmo2"):
        layer = layer | _SANDWICH
    if not path.startswith(start):
        return f"{top[path]}.{leaf}"
    _, index, module = path.split(".", 2)
    return f"blk.{index}.{layer[module]}.{leaf}"


def _arranged(family: str, config: Mapping[str, Any], name: str, values: np.ndarray) -> np.ndarray:
    if family == "gpt2" and name.startswith("blk.") and values.ndim == 2:
        return values.T
    if family == "gemma3_text" and "norm" in name:
        return values + np.float32(1)
    part = name.split(".")[-2]
    if ARCHITECTURES[family] == "llama" and part in ("attn_q", "attn_k"):
        heads = config["num_attention_heads" if part == "attn_q" else "num_key_value_heads"]
        return values.reshape(heads, 2, -1, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
    return values
