"""The formulas of a decoder, one function each, as they stand in the notes this project grew from.

    Attn(Q, K, V) = softmax(Q K^T / sqrt(d) - M) V            M: +inf where a query must not look, else 0

`attention(q, k_cache, v_cache)` is that formula for any number of queries. The queries are always the *last* Nq positions
of the context, and the cache already holds the keys and values of all Nk positions, theirs included:

    Nq = Nk        no cache at all, or the prefill of a whole prompt      Nk x Nk scores      O(L^2)
    1 < Nq < Nk    one chunk of a chunked prefill                         Nq x Nk scores
    Nq = 1         decode                                                 1 x Nk scores       O(L)

    keys      0 1 2 3 4 5        a chunk of Nq = 2 queries (positions 4 and 5) over Nk = 6 keys;
    query 4   x x x x x .        with a window of 3, query 5 sees keys 3 4 5 only
    query 5   x x x x x x

There is no second path, so the four ways to compute a prompt can only differ by rounding.

Arrays in glossary letters: T tokens, H query heads, K kv heads, G = H / K query heads a kv head, D head_dim, E hidden size.
All functions keep the floating type of their first argument.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from quire.arrays import Int32Array
from quire.models.spec import Activation, ModelSpec, RopeSpec

Array = npt.NDArray[Any]  # float32 or float64

_erf = np.vectorize(math.erf, otypes=[np.float64])  # NumPy has no erf; one Python call per element is fine for a definition


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """How a query weighs the keys of a layer.

    `scale` is usually 1 / sqrt(D). With a window of W the query at position p sees keys in (p - W, p]. `softcap` c squashes
    scores to c * tanh(score / c).
    """

    scale: float
    window: int | None = None
    softcap: float | None = None


def scoring_of(spec: ModelSpec, layer: int) -> Scoring:
    """Returns how the queries of a layer weigh its keys."""
    return Scoring(scale=spec.attention_scale, window=spec.layers[layer].sliding_window, softcap=spec.attention_softcap)


def attention(q: Array, k_cache: Array, v_cache: Array, scoring: Scoring) -> Array:
    """Returns [Nq, H, D]: each of the last Nq positions of a context, mixed from the values it may see.

    q is [Nq, H, D]; k_cache and v_cache are [Nk, K, D] with Nk >= Nq.
    """
    num_queries, num_heads, head_dim = q.shape
    num_keys, num_kv_heads, _ = k_cache.shape
    grouped = q.reshape(num_queries, num_kv_heads, -1, head_dim).transpose(1, 2, 0, 3)  # [K, G, Nq, D]
    scores = grouped @ k_cache.transpose(1, 2, 0)[:, None] * scoring.scale  # [K, G, Nq, Nk]
    if scoring.softcap is not None:
        scores = scoring.softcap * np.tanh(scores / scoring.softcap)
    scores = np.where(visible(num_queries, num_keys, scoring.window), scores, -np.inf)
    mixed = softmax(scores) @ v_cache.transpose(1, 0, 2)[:, None]  # [K, G, Nq, D]
    by_token: Array = mixed.transpose(2, 0, 1, 3)
    return by_token.reshape(num_queries, num_heads, head_dim)


def visible(num_queries: int, num_keys: int, window: int | None) -> npt.NDArray[np.bool_]:
    """Returns the causal mask [Nq, Nk]: True where the query at position Nk - Nq + row may see the key at position column."""
    position = np.arange(num_keys - num_queries, num_keys)[:, None]
    key = np.arange(num_keys)[None, :]
    is_past = key <= position
    return is_past if window is None else is_past & (key > position - window)


def softmax(scores: Array) -> Array:
    """Returns softmax over the last axis; the largest score is subtracted first so that nothing overflows."""
    weights: Array = np.exp(scores - scores.max(axis=-1, keepdims=True))
    total: Array = weights.sum(axis=-1, keepdims=True)
    return weights / total


def linear(x: Array, weight: Array, bias: Array | None) -> Array:
    """Returns x W^T + b for x [T, in], W [out, in], b [out]."""
    y: Array = x @ weight.T
    return y if bias is None else y + bias


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    """Returns x / rms(x) * w over the last axis (Zhang and Sennrich 2019)."""
    mean_square: Array = np.mean(x * x, axis=-1, keepdims=True)
    return x / np.sqrt(mean_square + eps) * weight


def layer_norm(x: Array, weight: Array, bias: Array, eps: float) -> Array:
    """Returns (x - mean) / std * w + b over the last axis (Ba et al. 2016)."""
    centered: Array = x - x.mean(axis=-1, keepdims=True)
    variance: Array = np.mean(centered * centered, axis=-1, keepdims=True)
    return centered / np.sqrt(variance + eps) * weight + bias


def rotate(x: Array, positions: Int32Array, rope: RopeSpec) -> Array:
    """Returns x [T, H, D] with pair (i, i + R/2) of every head turned by position * inv_freq[i] (Su et al. 2021).

    Only the first R = rope.rotary_dim elements turn. The angle is a float32 product whatever the type of x, because that is
    how models are trained.
    """
    angle = positions.astype(np.float32)[:, None] * np.asarray(rope.inv_freq, dtype=np.float32)  # [T, R/2]
    cos = (np.cos(angle.astype(x.dtype)) * rope.attention_factor)[:, None, :]
    sin = (np.sin(angle.astype(x.dtype)) * rope.attention_factor)[:, None, :]
    half = rope.rotary_dim // 2
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin, rest], axis=-1)


def activate(x: Array, activation: Activation) -> Array:
    """Returns the activation, element by element."""
    match activation:
        case Activation.RELU:
            return np.maximum(x, 0)
        case Activation.SILU:
            return x * sigmoid(x)
        case Activation.GELU:
            below: Array = (0.5 * (1.0 + _erf(x / math.sqrt(2.0)))).astype(x.dtype)  # share of a normal distribution below x
            return x * below
        case Activation.GELU_TANH:
            inner: Array = math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)
            return x * sigmoid(2.0 * inner)


def sigmoid(x: Array) -> Array:
    """Returns 1 / (1 + exp(-x)), written with tanh so that nothing overflows."""
    return 0.5 * (1.0 + np.tanh(0.5 * x))
