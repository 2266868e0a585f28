"""The checkpoint's weights as a GGUF file, so that llama.cpp computes with the numbers that everybody else has.

Matrices get the asked format, all of them the same one (what `llama-quantize --pure` does); norms and biases stay float32.
llama.cpp rotates neighboring elements in its llama graph, where Hugging Face rotates halves: there, rows of q and k move.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gguf
import numpy as np

from quire.arrays import Float32Array
from quire.models.checkpoint import Checkpoint, load_checkpoint
from quire.models.spec import ModelSpec

from .protocol import ContestantError

_GRAPHS = MappingProxyType({"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gemma3_text": "gemma3", "gpt2": "gpt2"})
_TOP_NAMES = MappingProxyType({"embed": "token_embd", "position": "position_embd", "final_norm": "output_norm", "head": "output"})
_LAYER_NAMES = MappingProxyType(
    {
        "attn_norm": "attn_norm",
        "attn.q": "attn_q",
        "attn.k": "attn_k",
        "attn.v": "attn_v",
        "attn.q_norm": "attn_q_norm",
        "attn.k_norm": "attn_k_norm",
        "attn.out": "attn_output",
        "attn_post_norm": "post_attention_norm",
        "ffn_post_norm": "post_ffw_norm",
        "ffn_norm": "ffn_norm",
        "ffn.gate": "ffn_gate",
        "ffn.up": "ffn_up",
        "ffn.down": "ffn_down",
    }
)
_ROPE_TABLE = "rope_freqs.weight"


def write_gguf(model: Path, number_format: str) -> Path:
    """Writes `model-FORMAT.gguf` beside a checkpoint unless it is there, and returns it.

    `number_format` is a name of GGMLQuantizationType. Raises ContestantError for a family that has no graph here.
    """
    path = model / f"model-{number_format}.gguf"
    if path.exists():
        return path
    checkpoint = load_checkpoint(model)
    graph = _GRAPHS.get(checkpoint.spec.family)
    if graph is None:
        raise ContestantError(f"no GGUF is written for the family {checkpoint.spec.family}, only for {', '.join(_GRAPHS)}")
    unfinished = path.with_suffix(".unfinished")
    writer = gguf.GGUFWriter(unfinished, graph)
    _describe(writer, checkpoint.spec, json.loads((model / "config.json").read_bytes()))
    wanted = gguf.GGMLQuantizationType[number_format]
    for name, values in _tensors(checkpoint):
        is_matrix = values.ndim == 2 and not name.startswith("position_embd")
        number = wanted if is_matrix else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quants.quantize(values, number), raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return unfinished.replace(path)


def _describe(writer: gguf.GGUFWriter, spec: ModelSpec, config: Mapping[str, Any]) -> None:
    writer.add_context_length(spec.max_context)
    writer.add_embedding_length(spec.hidden_size)
    writer.add_block_count(spec.num_layers)
    writer.add_feed_forward_length(spec.ffn_size)
    writer.add_head_count(spec.num_heads)
    writer.add_vocab_size(spec.vocab_size)
    writer.add_tokenizer_model("none")
    if spec.has_learned_positions:
        writer.add_layer_norm_eps(spec.norm_eps)
        return
    writer.add_head_count_kv(spec.num_kv_heads)
    writer.add_key_length(spec.head_dim)
    writer.add_value_length(spec.head_dim)
    writer.add_rope_dimension_count(spec.head_dim)
    writer.add_rope_freq_base(rope_theta(config))
    writer.add_layer_norm_rms_eps(spec.norm_eps)
    windows = {layer.sliding_window for layer in spec.layers} - {None}
    if windows:
        writer.add_sliding_window(max(windows))


def rope_theta(config: Mapping[str, Any]) -> float:
    """Returns the rotary base of a config.json, old or new; of layers that see everything, where they have their own."""
    nested = config.get("rope_parameters") or {}
    nested = nested.get("full_attention", nested)
    return float(nested.get("rope_theta", config.get("rope_theta", 10_000.0)))


def _tensors(checkpoint: Checkpoint) -> Iterator[tuple[str, Float32Array]]:
    spec = checkpoint.spec
    for canonical, tensor in checkpoint.weights.items():
        path, leaf = canonical.rsplit(".", 1)
        if not path.startswith("layers."):
            yield f"{_TOP_NAMES[path]}.{leaf}", tensor.to_float32()
            continue
        _, layer, module = path.split(".", 2)
        if spec.family == "gpt2" and module in ("attn.q", "attn.k", "attn.v"):
            if module == "attn.q":
                yield f"blk.{layer}.attn_qkv.{leaf}", _joined(checkpoint, layer, leaf)
            continue
        values = tensor.to_float32()
        if spec.family == "llama" and module in ("attn.q", "attn.k"):
            values = interleaved(values, spec.head_dim)
        yield f"blk.{layer}.{_LAYER_NAMES[module]}.{leaf}", values
    yield from _rope_table(checkpoint)


def interleaved(values: Float32Array, head_dim: int) -> Float32Array:
    """Returns rows in llama.cpp's order: of each head, row i and row i + head_dim / 2 become neighbors."""
    halves = values.reshape(-1, 2, head_dim // 2, *values.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))


def _joined(checkpoint: Checkpoint, layer: str, leaf: str) -> Float32Array:
    parts = [checkpoint.weights[f"layers.{layer}.attn.{part}.{leaf}"].to_float32() for part in "qkv"]
    return np.concatenate(parts)


def _rope_table(checkpoint: Checkpoint) -> Iterator[tuple[str, Float32Array]]:
    """Yields the divisors of the rotary frequencies where the model scales them."""
    rope = checkpoint.spec.layers[0].rope
    if rope is None or checkpoint.spec.family == "gemma3_text":  # whose graph knows the base of each layer
        return
    config = json.loads((checkpoint.directory / "config.json").read_bytes())
    pairs = np.arange(0, rope.rotary_dim, 2) / rope.rotary_dim
    divisors = rope_theta(config) ** -pairs / np.array(rope.inv_freq)
    if not np.allclose(divisors, 1.0, rtol=1e-5):
        yield _ROPE_TABLE, divisors.astype(np.float32)


def file_bits(path: Path) -> dict[str, float]:
    """Returns bits per weight of all matrices of a GGUF file, and of those of its layers."""
    matrices = [each for each in gguf.GGUFReader(path).tensors if len(each.shape) == 2]
    layers = [each for each in matrices if each.name.startswith("blk.")]
    return {"everywhere": _bits(matrices), "layers": _bits(layers)}


def _bits(tensors: Sequence[Any]) -> float:
    return 8 * sum(int(each.n_bytes) for each in tensors) / sum(int(each.n_elements) for each in tensors)
