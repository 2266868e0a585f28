"""Where each canonical tensor lies in a GGUF file, whatever the architecture.

llama.cpp joins some matrices (`attn_qkv`; `ffn_up` with the gate before it), keeps q and k of llama with the two halves of each
head interleaved, and adds the 1 of Gemma's norms (1 + w) when it converts: what is stored is what multiplies.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from quire.models.gguf.kinds import KINDS
from quire.models.gguf.tensors import BlockTensor
from quire.models.source import TensorSource
from quire.models.spec import DenseFfn, FfnKind, ModelSpec
from quire.models.weights import SourceTensor

INTERLEAVED = frozenset({"llama"})
"""Architectures whose q and k are stored for rotating neighbors."""

_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "embed": "token_embd",
        "position": "position_embd",
        "final_norm": "output_norm",
        "head": "output",
        "attn_norm": "attn_norm",
        "attn.q": "attn_q",
        "attn.k": "attn_k",
        "attn.v": "attn_v",
        "attn.q_norm": "attn_q_norm",
        "attn.k_norm": "attn_k_norm",
        "attn.out": "attn_output",
        "attn_post_norm": "post_attention_norm",
        "ffn_norm": "ffn_norm",
        "ffn.gate": "ffn_gate",
        "ffn.up": "ffn_up",
        "ffn.down": "ffn_down",
        "ffn_post_norm": "post_ffw_norm",
    }
)
_ATTENTION, _GATED = frozenset({"attn.q", "attn.k", "attn.v"}), frozenset({"ffn.gate", "ffn.up"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A source, and the heads whose rows must be put back in order (0: none)."""

    source: TensorSource
    num_heads: int = 0


def place(spec: ModelSpec, architecture: str, stored: Container[str]) -> dict[str, Placed]:
    """Returns where each tensor of the spec lies, given the names in the file."""
    heads = {"attn.q": spec.num_heads, "attn.k": spec.num_kv_heads} if architecture in INTERLEAVED else {}
    placed = {}
    for canonical in spec.tensor_shapes():
        path, leaf = canonical.rsplit(".", 1)
        if not path.startswith("layers."):
            placed[canonical] = Placed(source=TensorSource(name=f"{_NAMES[path]}.{leaf}"))
            continue
        _, layer, module = path.split(".", 2)
        source = TensorSource(name=f"blk.{layer}.{_NAMES[module]}.{leaf}")
        ffn = spec.layers[int(layer)].ffn
        if _is_joined(module, source.name, ffn, stored):
            name, rows = _joined(spec, ffn.size)[module]
            source = TensorSource(name=f"blk.{layer}.{name}.{leaf}", rows=rows)
        placed[canonical] = Placed(source=source, num_heads=heads.get(module, 0))
    return placed


def _is_joined(module: str, name: str, ffn: DenseFfn, stored: Container[str]) -> bool:
    """Whether the layer of a tensor, given by its own name, holds it as rows of a larger matrix."""
    path, leaf = name.rsplit(".", 1)
    prefix = path.removesuffix(_NAMES[module])
    if module in _ATTENTION:
        return f"{prefix}attn_qkv.{leaf}" in stored
    return module in _GATED and ffn.kind is FfnKind.GATED and f"{prefix}ffn_gate.{leaf}" not in stored


def _joined(spec: ModelSpec, ffn_size: int) -> dict[str, tuple[str, tuple[int, int]]]:
    """Returns the matrix and the rows of each module that may be joined."""
    query, kv = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
    return {
        "attn.q": ("attn_qkv", (0, query)),
        "attn.k": ("attn_qkv", (query, query + kv)),
        "attn.v": ("attn_qkv", (query + kv, query + 2 * kv)),
        "ffn.gate": ("ffn_up", (0, ffn_size)),
        "ffn.up": ("ffn_up", (ffn_size, 2 * ffn_size)),
    }


def arrange(tensor: SourceTensor, placed: Placed) -> SourceTensor:
    """Returns the part of a stored tensor that a source names, its rows in our order: a view wherever possible."""
    rows = placed.source.rows
    if isinstance(tensor, BlockTensor):
        bits = tensor.bits if rows is None else tensor.bits[rows[0] : rows[1]]
        return _with_halves(replace(tensor, bits=bits, num_rows=len(bits)), placed.num_heads)
    if rows is not None:
        tensor = replace(tensor, bits=tensor.bits[rows[0] : rows[1]])
    if not placed.num_heads:
        return tensor
    if tensor.bits.ndim == 1:
        return replace(tensor, bits=tensor.bits.reshape(placed.num_heads, -1, 2).swapaxes(1, 2).reshape(-1))
    return _with_halves(_as_blocks(tensor), placed.num_heads)


def _with_halves(tensor: BlockTensor, num_heads: int) -> BlockTensor:
    """Returns the rows of each head as first half, second half, where the file has them interleaved."""
    if not num_heads:
        return tensor
    return replace(tensor, bits=tensor.bits.reshape(num_heads, -1, 2, tensor.bits.shape[-1]).swapaxes(1, 2))


def _as_blocks(tensor: SourceTensor) -> BlockTensor:
    """Returns an unquantized matrix as blocks of one element, so that a view can put its rows in order."""
    kind = next(kind for kind in KINDS.values() if kind.dtype is tensor.dtype)
    rows = np.ascontiguousarray(tensor.bits).view(np.uint8)
    return BlockTensor(dtype=tensor.dtype, bits=rows, kind=kind, num_rows=len(rows))
