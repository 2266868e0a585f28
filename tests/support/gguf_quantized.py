"""A small llama in a GGUF file whose matrices are random blocks: all of one kind, or of several in turn."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from support.configs import CONFIGS
from support.gguf_models import metadata_of
from support.gguf_writer import Stored, gguf_bytes, stored

WIDE: dict[str, Any] = CONFIGS["llama"] | {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
}
KINDS = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4")
_SCALES = {"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,), "Q4_1": (0, 2), "Q5_1": (0, 2), "Q4_K": (0, 2), "Q5_K": (0, 2)}
_MATRICES = {
    "token_embd": (96, 256),
    "blk.0.attn_q": (256, 256),
    "blk.0.attn_k": (128, 256),
    "blk.0.attn_v": (128, 256),
    "blk.0.attn_output": (256, 256),
    "blk.0.ffn_gate": (512, 256),
    "blk.0.ffn_up": (512, 256),
    "blk.0.ffn_down": (256, 512),
}
_NORMS = ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm")


def random_blocks(kind: str, shape: tuple[int, int], seed: int) -> Stored:
    """Returns a tensor of random codes with small scales."""
    number = gguf.GGMLQuantizationType[kind]
    num_elements, block_bytes = gguf.GGML_QUANT_SIZES[number]
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (shape[0] * shape[1] // num_elements, block_bytes), dtype=np.uint8)
    for start in _SCALES.get(kind, (0,)):
        blocks[:, start : start + 2] = np.float16(rng.uniform(0.001, 0.01, (len(blocks), 1))).view(np.uint8)
    if kind == "MXFP4":
        blocks[:, 0] = rng.integers(118, 124, len(blocks))
    return Stored(kind=int(number), shape=shape, content=blocks.tobytes())


def quantized_file(directory: Path, *kinds: str, floats: Sequence[str] = (), config: dict[str, Any] = WIDE) -> Path:
    """Writes a llama whose matrices take turns in the kinds; those that `floats` names are float32."""
    turns = cycle(kinds)
    tensors = {
        f"{name}.weight": _float_matrix(shape, seed) if name in floats else random_blocks(next(turns), shape, seed)
        for seed, (name, shape) in enumerate(_MATRICES.items())
    }
    tensors |= {f"{name}.weight": stored(np.linspace(0.5, 1.5, 256, dtype=np.float32)) for name in _NORMS}
    path = directory / f"{'-'.join(kinds)}.gguf"
    path.write_bytes(gguf_bytes(metadata_of("llama", config), tensors))
    return path


def _float_matrix(shape: tuple[int, int], seed: int) -> Stored:
    return stored(np.random.default_rng(seed).normal(0, 0.05, shape).astype(np.float32))
