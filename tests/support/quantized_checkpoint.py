"""A tiny llama twice: its linear layers quantized by a method, and the same values stored as they are."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from support.configs import CONFIGS
from support.quantized import Arrays, Method, as_stored
from support.safetensors_writer import safetensors_bytes

_SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 32,
}
_OUT_AND_IN = {
    "self_attn.q_proj": (64, 64),
    "self_attn.k_proj": (32, 64),
    "self_attn.v_proj": (32, 64),
    "self_attn.o_proj": (64, 64),
    "mlp.gate_proj": (96, 64),
    "mlp.up_proj": (96, 64),
    "mlp.down_proj": (64, 96),
}
MODULES = {f"model.layers.{layer}.{name}": shape for layer in range(2) for name, shape in _OUT_AND_IN.items()}


def config_of(**changes: Any) -> dict[str, Any]:
    return {**CONFIGS["llama"], **_SIZES, **changes}


def plain_tensors(rng: np.random.Generator) -> Arrays:
    """Returns what is not quantized: embedding, head and norms."""
    tensors = {name: rng.normal(0, 0.5, (32, 64)).astype(np.float32) for name in ("model.embed_tokens.weight", "lm_head.weight")}
    norms = [f"model.layers.{layer}.{name}" for layer in range(2) for name in ("input_layernorm", "post_attention_layernorm")]
    return tensors | {f"{name}.weight": rng.normal(1, 0.1, 64).astype(np.float32) for name in (*norms, "model.norm")}


def packed_tensors(method: Method, seed: int = 0) -> tuple[Arrays, Arrays]:
    """Returns the tensors of the quantized checkpoint, and those of its twin."""
    packed, twin = _made(method, seed)
    return dict(packed), dict(twin)


@cache
def _made(method: Method, seed: int) -> tuple[Arrays, Arrays]:
    rng = np.random.default_rng(seed)
    plain = plain_tensors(rng)
    packed, twin = dict(plain), dict(plain)
    for module, (num_out, num_in) in MODULES.items():
        made = method.pack(rng, num_out, num_in)
        packed |= {f"{module}.{leaf}": part for leaf, part in made.parts.items()}
        twin[f"{module}.weight"] = as_stored(made.values)
    return packed, twin


def write_model(directory: Path, tensors: Arrays, **changes: Any) -> Path:
    """Writes a model directory without a tokenizer."""
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config_of(**changes)))
    (directory / "model.safetensors").write_bytes(safetensors_bytes(tensors))
    return directory


def write_changed(directory: Path, method: Method, changes: Arrays, *, without: tuple[str, ...] = (), **config: Any) -> Path:
    """Writes the quantized checkpoint with other tensors, without some, or with other fields of its quantization."""
    packed, _ = packed_tensors(method)
    tensors = {key: value for key, value in {**packed, **changes}.items() if key not in without}
    return write_model(directory, tensors, **{method.section: {**method.config, **config}})


def write_pair(directory: Path, method: Method) -> tuple[Path, Path]:
    """Writes both checkpoints; returns their directories, the quantized one first."""
    packed, twin = packed_tensors(method)
    quantized = write_model(directory / "quantized", packed, **{method.section: method.config, **method.others})
    return quantized, write_model(directory / "plain", twin)
