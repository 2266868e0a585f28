"""The arithmetic of quantized KV formats in NumPy, float32, value by value: what `read_kv` must return bit for bit."""

from __future__ import annotations

import numpy as np

from quire.arrays import Float32Array
from quire.config import KVFormat
from quire.kv.layout import KEY_BITS, VALUE_BITS, VALUE_GROUP

TILE = 32
_LEAST_RANGE = np.float32(2.0**-100)


def to_bfloat16(x: Float32Array) -> Float32Array:
    """Returns the nearest bfloat16 values, ties to even."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)).view(np.float32)


def scale_of(spread: Float32Array, num_steps: int) -> Float32Array:
    """Returns spread / num_steps rounded up to bfloat16; 0 for a spread that is next to nothing."""
    bits = (spread / np.float32(num_steps)).astype(np.float32).view(np.uint32)
    scale = ((bits + np.uint32(0xFFFF)) & np.uint32(0xFFFF0000)).view(np.float32)
    return np.where(spread < _LEAST_RANGE, np.float32(0), scale)


def inverse_of(scale: Float32Array) -> Float32Array:
    return np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)


def int8_values(x: Float32Array) -> Float32Array:
    """Returns heads [..., D] as 8 bits with a scale per head hold them."""
    scale = scale_of(np.abs(x).max(axis=-1, keepdims=True), 127)
    return scale * np.clip(np.rint(x * inverse_of(scale)), -127, 127)


def int4_values(x: Float32Array, axis: int) -> Float32Array:
    """Returns bfloat16 values as 4 bits hold them, with a scale and a minimum for all along `axis`."""
    least = x.min(axis=axis, keepdims=True)
    scale = scale_of(x.max(axis=axis, keepdims=True) - least, 15)
    return least + scale * np.clip(np.rint((x - least) * inverse_of(scale)), 0, 15)


def rotated(x: Float32Array) -> Float32Array:
    """Returns heads [..., D] times a Hadamard matrix over groups, of the largest power of two up to 128 that divides D."""
    head_dim = x.shape[-1]
    size = min(128, head_dim & -head_dim)
    groups = x.reshape(-1, size)
    stride = 1
    while stride < size:
        pairs = groups.reshape(len(groups), -1, 2, stride)
        low, high = pairs[:, :, 0], pairs[:, :, 1]
        groups = np.stack((low + high, low - high), axis=2).reshape(len(groups), size)
        stride *= 2
    return (groups * np.float32(1 / np.sqrt(size))).reshape(x.shape)


def stored_keys(keys: Float32Array, kv_format: KVFormat, *, is_exact: bool = False) -> Float32Array:
    """Returns keys [T, K, D] of positions 0 to T as a layer of this format holds them; NaN in a tile that is not yet full."""
    if is_exact:
        return _of_full_tiles(to_bfloat16(keys), kv_format)
    if KEY_BITS[kv_format] == 4:
        tiles, rest = _tiles(to_bfloat16(rotated(keys)))
        return rotated(_joined(int4_values(tiles, axis=1), rest))
    if kv_format.has_own_tiles:
        return _of_full_tiles(int8_values(to_bfloat16(keys)), kv_format)
    return int8_values(keys)


def stored_values(values: Float32Array, kv_format: KVFormat) -> Float32Array:
    """Returns values [T, K, D] of positions 0 to T as this format holds them; NaN in a tile that is not yet full."""
    if VALUE_BITS[kv_format] == 8:
        return int8_values(values)
    starts = range(0, values.shape[-1], VALUE_GROUP[kv_format])
    groups = np.split(to_bfloat16(values), list(starts)[1:], axis=-1)
    return _of_full_tiles(np.concatenate([int4_values(group, axis=-1) for group in groups], axis=-1), kv_format)


def own_tile_keys(keys: Float32Array, kv_format: KVFormat, *, is_exact: bool = False) -> Float32Array:
    """Returns keys as an own tile holds them, turned back where they are rotated."""
    if KEY_BITS[kv_format] == 4 and not is_exact:
        return rotated(to_bfloat16(rotated(keys)))
    return to_bfloat16(keys)


def _of_full_tiles(x: Float32Array, kv_format: KVFormat) -> Float32Array:
    if not kv_format.has_own_tiles:
        return x
    tiles, rest = _tiles(x)
    return _joined(tiles, rest)


def _tiles(x: Float32Array) -> tuple[Float32Array, int]:
    """Returns full tiles [tiles, 32, K, D], and how many tokens are left."""
    num_full = len(x) // TILE
    return x[: num_full * TILE].reshape(num_full, TILE, *x.shape[1:]), len(x) - num_full * TILE


def _joined(tiles: Float32Array, num_missing: int) -> Float32Array:
    whole = tiles.reshape(-1, *tiles.shape[2:])
    return np.concatenate([whole, np.full((num_missing, *whole.shape[1:]), np.nan, np.float32)])
