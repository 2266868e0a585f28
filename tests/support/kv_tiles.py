"""K/V tiles of integers as bytes, and what they stand for: written in NumPy after the layouts in csrc/kv_layouts.h.

A tile is 32 tokens of one KV head: keys [32, D], values [32, D], which are bfloat16. The functions that pack a tile return its
bytes and the values that a reader takes them for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quire.arrays import Float32Array
from quire.models.weights import round_to_bfloat16

Bytes = npt.NDArray[np.uint8]
TOKENS = 32
LEAST = np.float32(2.0**-100)
NAN_BITS = 0xFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class TileFormat:
    """Bits of keys and of values; `group` channels of a token's values share a scale where these have 4 bits."""

    key_bits: int
    value_bits: int
    group: int = 0

    @property
    def has_own_tiles(self) -> bool:
        return self.value_bits == 4

    def pack_keys(self, keys: Float32Array) -> tuple[Bytes, Float32Array]:
        return {16: _pack_bfloat16_keys, 8: _pack_int8_keys, 4: _pack_int4_keys}[self.key_bits](keys)

    def pack_values(self, values: Float32Array) -> tuple[Bytes, Float32Array]:
        return _pack_int8_values(values) if self.value_bits == 8 else _pack_int4_values(values, self.group)

    def key_factors(self, keys: Float32Array) -> tuple[Float32Array, Float32Array]:
        """Returns minimums and scales [1, D] of keys with 4 bits."""
        _, scales, minimums = _int4_codes(keys, 0)
        return minimums, scales

    def spoil(self, keys: Bytes, values: Bytes, head_dim: int, tokens: slice) -> None:
        """Makes tokens of a packed tile NaN, except keys of 4 bits, whose scales are shared by all tokens of the tile."""
        if self.key_bits == 16:
            keys.view(np.uint16).reshape(-1, TOKENS, 2)[:, tokens] = NAN_BITS
        if self.key_bits == 8:
            keys[-2 * TOKENS :].view(np.uint16)[tokens] = NAN_BITS
        num_factors = 1 if self.value_bits == 8 else 2 * -(-head_dim // self.group)
        values[-2 * TOKENS * num_factors :].view(np.uint16).reshape(-1, TOKENS)[:, tokens] = NAN_BITS


def rounded(x: Float32Array) -> Float32Array:
    """Returns the nearest bfloat16 values."""
    return (round_to_bfloat16(x).astype(np.uint32) << 16).view(np.float32)


def bits_of(x: Float32Array) -> npt.NDArray[np.uint16]:
    """Returns the bfloat16 bits of values that are bfloat16."""
    return (np.ascontiguousarray(x, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def own_tile(keys: Float32Array, values: Float32Array) -> Bytes:
    """Returns a tile of bfloat16 K and V."""
    pairs = bits_of(values).reshape(TOKENS // 2, 2, -1).transpose(0, 2, 1)
    return np.concatenate([_pack_bfloat16_keys(keys)[0], _as_bytes(pairs)])


def _as_bytes(x: npt.NDArray[np.generic]) -> Bytes:
    flat = np.ascontiguousarray(x).reshape(-1).view(np.uint8)
    return np.pad(flat, (0, -len(flat) % 64))


def _rounded_up(x: Float32Array) -> Float32Array:
    """Returns positive values rounded up to bfloat16."""
    return ((x.view(np.uint32) + np.uint32(0xFFFF)) & np.uint32(0xFFFF0000)).view(np.float32)


def _rounded_down(x: Float32Array) -> Float32Array:
    nearest = rounded(x)
    below = np.where(nearest > 0, nearest.view(np.uint32) - np.uint32(0x10000), nearest.view(np.uint32) + np.uint32(0x10000))
    return np.where(nearest > x, below.astype(np.uint32).view(np.float32), nearest)


def _pack_bfloat16_keys(keys: Float32Array) -> tuple[Bytes, Float32Array]:
    pairs = bits_of(keys).reshape(TOKENS, -1, 2).transpose(1, 0, 2)
    return _as_bytes(pairs), keys


def _int8_codes(x: Float32Array) -> tuple[npt.NDArray[np.int8], Float32Array]:
    """Returns codes [32, D] and scales [32, 1]."""
    top = np.abs(x).max(axis=1, keepdims=True)
    scales = np.where(top < LEAST, np.float32(0), _rounded_up(np.maximum(top, LEAST) / np.float32(127)))
    inverse = np.where(scales > 0, 1 / np.where(scales > 0, scales, 1), np.float32(0)).astype(np.float32)
    return np.clip(np.rint(x * inverse), -127, 127).astype(np.int8), scales.astype(np.float32)


def _int4_codes(x: Float32Array, axis: int) -> tuple[npt.NDArray[np.uint8], Float32Array, Float32Array]:
    """Returns codes, scales and minimums, along an axis."""
    low = x.min(axis=axis, keepdims=True)
    minimums = _rounded_down(low)
    span = x.max(axis=axis, keepdims=True) - minimums
    scales = np.where(span < LEAST, np.float32(0), _rounded_up(np.maximum(span, LEAST) / np.float32(15))).astype(np.float32)
    inverse = np.where(scales > 0, 1 / np.where(scales > 0, scales, 1), np.float32(0)).astype(np.float32)
    return np.clip(np.rint((x - minimums) * inverse), 0, 15).astype(np.uint8), scales, minimums


def _pack_int8_keys(keys: Float32Array) -> tuple[Bytes, Float32Array]:
    codes, scales = _int8_codes(keys)
    quads = codes.reshape(TOKENS, -1, 4).transpose(1, 0, 2)
    return np.concatenate([_as_bytes(quads), _as_bytes(bits_of(scales))]), codes * scales


def _pack_int8_values(values: Float32Array) -> tuple[Bytes, Float32Array]:
    codes, scales = _int8_codes(values)
    quads = codes.reshape(TOKENS // 4, 4, -1).transpose(0, 2, 1)
    return np.concatenate([_as_bytes(quads), _as_bytes(bits_of(scales))]), codes * scales


def _pack_int4_keys(keys: Float32Array) -> tuple[Bytes, Float32Array]:
    codes, scales, minimums = _int4_codes(keys, 0)
    halves = codes.reshape(TOKENS, -1, 2, 4).transpose(1, 0, 2, 3)
    words = halves[:, :, 0] | halves[:, :, 1] << 4
    parts = [_as_bytes(words), _as_bytes(bits_of(scales)), _as_bytes(bits_of(minimums))]
    return np.concatenate(parts), minimums + codes * scales


def _pack_int4_values(values: Float32Array, group: int) -> tuple[Bytes, Float32Array]:
    size = values.shape[1]
    spans = [slice(begin, min(begin + group, size)) for begin in range(0, size, group)]
    parts = [_int4_codes(values[:, span], 1) for span in spans]
    codes = np.concatenate([each[0] for each in parts], axis=1)
    packed = np.zeros((TOKENS, -(-size // 16) * 16), np.uint8)
    packed[:, :size] = codes
    halves = packed.reshape(TOKENS // 4, 4, -1, 2, 8).transpose(0, 2, 3, 4, 1)  # quad, 16 channels, half, channel, token
    words = halves[:, :, 0] | halves[:, :, 1] << 4
    scales, minimums = (np.stack([each[i][:, 0] for each in parts]) for i in (1, 2))
    found = np.concatenate([each[2] + each[0] * each[1] for each in parts], axis=1)
    return np.concatenate([_as_bytes(words), _as_bytes(bits_of(scales)), _as_bytes(bits_of(minimums))]), found
