"""`ModelSpec`: what a decoder-only model *is*, in one frozen value that every executor interprets.

The formulas: embed, then for each layer attention and feed-forward around a residual stream, then a
final norm and the head. Families differ only in the fields below.

    PRE       x = x + attn(norm(x));               x = x + ffn(norm(x))                 llama, gpt2, qwen ...
    POST      x = x + norm(attn(x));               x = x + norm(ffn(x))                 olmo2
    SANDWICH  x = x + post(attn(norm(x)));         x = x + post(ffn(norm(x)))           gemma3
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class NormKind(Enum):
    """RMS: x / rms(x) * w.  LAYER: (x - mean) / std * w + b."""

    RMS = "rms"
    LAYER = "layer"


class NormPlacement(Enum):
    PRE = "pre"
    POST = "post"
    SANDWICH = "sandwich"


class QKNorm(Enum):
    """RMS norm on queries and keys before rotation: none, per head (weight [D]), or over the whole projection."""

    NONE = "none"
    PER_HEAD = "per_head"
    WHOLE = "whole"


class FfnKind(Enum):
    """GATED: down(act(gate(x)) * up(x)).  PLAIN: down(act(up(x)))."""

    GATED = "gated"
    PLAIN = "plain"


class Activation(Enum):
    SILU = "silu"
    GELU = "gelu"  # exact, with erf
    GELU_TANH = "gelu_tanh"
    RELU = "relu"


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeSpec:
    """Rotary positions. angle = float32(position) * inv_freq[i]; cos and sin are multiplied by `attention_factor`.

    `inv_freq` holds float32 values, one per rotated pair. Of the first R = 2 * len(inv_freq) elements of a head, i rotates with
    i + R/2, as Hugging Face llama does; the rest pass through. Scaling (linear, llama3, yarn, longrope) is already inside:
    frequencies never depend on length.
    """

    inv_freq: tuple[float, ...]
    attention_factor: float = 1.0

    @property
    def rotary_dim(self) -> int:
        return 2 * len(self.inv_freq)


@dataclass(frozen=True, slots=True)
class FullAttention:
    """A query sees every key up to its own position."""


@dataclass(frozen=True, slots=True)
class WindowAttention:
    """The query at position p sees keys in (p - size, p]."""

    size: int


Attention = FullAttention | WindowAttention


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseFfn:
    """One feed-forward of `size` units, through which every token passes."""

    kind: FfnKind
    activation: Activation
    size: int
    has_bias: bool

    def tensor_shapes(self, hidden_size: int) -> dict[str, tuple[int, ...]]:
        """Returns the shapes of its tensors by name within the layer."""
        shapes: dict[str, tuple[int, ...]] = {}
        for name in ("gate", "up") if self.kind is FfnKind.GATED else ("up",):
            shapes |= _linear(f"ffn.{name}", self.size, hidden_size, self.has_bias)
        return shapes | _linear("ffn.down", hidden_size, self.size, self.has_bias)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSpec:
    """What may differ from layer to layer: what queries see, the feed-forward, and the rotation.

    `rope` None: nothing rotates, because positions are learned, or because the layer knows none (NoPE).
    """

    attention: Attention
    ffn: DenseFfn
    rope: RopeSpec | None

    @property
    def sliding_window(self) -> int | None:
        """How many keys up to its own a query sees at most; None where it sees all."""
        return self.attention.size if isinstance(self.attention, WindowAttention) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """One decoder-only transformer. Linear layers are y = W x + b with W [out, in]; norms carry float32 weights."""

    family: str
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_context: int
    layers: tuple[LayerSpec, ...]
    norm: NormKind
    norm_eps: float
    norm_placement: NormPlacement
    qk_norm: QKNorm
    has_qkv_bias: bool
    has_attention_out_bias: bool
    is_head_tied: bool
    has_learned_positions: bool
    attention_scale: float
    embedding_scale: float | None = None
    attention_softcap: float | None = None
    logit_softcap: float | None = None

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @property
    def ffn_size(self) -> int:
        """Units of the widest feed-forward."""
        return max(layer.ffn.size for layer in self.layers)

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns the canonical name and shape of every tensor this model has, in the order of the forward pass."""
        shapes: dict[str, tuple[int, ...]] = {"embed.weight": (self.vocab_size, self.hidden_size)}
        if self.has_learned_positions:
            shapes["position.weight"] = (self.max_context, self.hidden_size)
        for index, layer in enumerate(self.layers):
            shapes |= {f"layers.{index}.{name}": shape for name, shape in self._layer_shapes(layer).items()}
        shapes |= self._norm_shapes("final_norm", self.hidden_size)
        if not self.is_head_tied:
            shapes["head.weight"] = (self.vocab_size, self.hidden_size)
        return shapes

    def _layer_shapes(self, layer: LayerSpec) -> dict[str, tuple[int, ...]]:
        hidden, query, kv = self.hidden_size, self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        has_pre = self.norm_placement is not NormPlacement.POST
        has_post = self.norm_placement is not NormPlacement.PRE
        shapes = self._norm_shapes("attn_norm", hidden) if has_pre else {}
        for name, size in (("q", query), ("k", kv), ("v", kv)):
            shapes |= _linear(f"attn.{name}", size, hidden, self.has_qkv_bias)
        if self.qk_norm is not QKNorm.NONE:
            per_head = self.qk_norm is QKNorm.PER_HEAD
            shapes["attn.q_norm.weight"] = (self.head_dim if per_head else query,)
            shapes["attn.k_norm.weight"] = (self.head_dim if per_head else kv,)
        shapes |= _linear("attn.out", hidden, query, self.has_attention_out_bias)
        shapes |= self._norm_shapes("attn_post_norm", hidden) if has_post else {}
        shapes |= self._norm_shapes("ffn_norm", hidden) if has_pre else {}
        shapes |= layer.ffn.tensor_shapes(hidden)
        return shapes | (self._norm_shapes("ffn_post_norm", hidden) if has_post else {})

    def _norm_shapes(self, name: str, size: int) -> dict[str, tuple[int, ...]]:
        weight: dict[str, tuple[int, ...]] = {f"{name}.weight": (size,)}
        return weight | {f"{name}.bias": (size,)} if self.norm is NormKind.LAYER else weight


def _linear(name: str, num_out: int, num_in: int, has_bias: bool) -> dict[str, tuple[int, ...]]:
    weight: dict[str, tuple[int, ...]] = {f"{name}.weight": (num_out, num_in)}
    return weight | {f"{name}.bias": (num_out,)} if has_bias else weight
