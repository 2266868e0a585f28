"""Keys or values of one layer in a KV format: what a token leaves behind, by definition.

int8      a token of a head has one scale                          code * scale
int4      n numbers share a scale and a minimum                    minimum + code * scale
          keys: a channel of the 32 tokens of a tile, after rotation; values: a group of channels of a token

Scales are bfloat16, rounded up so that no code overflows; minimums are rounded down. All arithmetic is float32, in the order
written here: the compiled core finds the same bits.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import numpy.typing as npt

from quire.arrays import Float32Array
from quire.config import KERNEL_TILE_TOKENS, KVFormat
from quire.kv.layout import KEY_BITS, VALUE_BITS, VALUE_GROUP, KVLayout
from quire.models.weights import round_to_bfloat16

Array = npt.NDArray[Any]
Slots = npt.NDArray[np.integer[Any]]

_SMALLEST = np.float32(2.0**-100)
"""A smaller spread is none: its inverse would not be finite."""

_MAX_ROTATED = 128


class PagedPart(ABC):
    """Keys or values of one layer: arrays whose first axis counts slots, or tiles."""

    def __init__(self, *arrays: Array) -> None:
        self.arrays = arrays

    @abstractmethod
    def write(self, slots: Slots, x: Array) -> None:
        """Writes x [n, K, D] into slots; of int4 keys whole tiles."""

    @abstractmethod
    def read(self, slots: Slots) -> Array:
        """Returns what slots hold as [n, K, D]."""

    def rounded(self, x: Array) -> Array:
        """Returns x [n, K, D] as an own tile holds it."""
        return _as_bfloat16(x.astype(np.float32))

    def turned_back(self, x: Array) -> Array:
        """Returns tokens of an own tile as the model meant them."""
        return x


class _Floats(PagedPart):
    def write(self, slots: Slots, x: Array) -> None:
        self.arrays[0][slots] = x

    def read(self, slots: Slots) -> Array:
        values: Array = self.arrays[0][slots]
        return values


class _BFloat16s(PagedPart):
    def write(self, slots: Slots, x: Array) -> None:
        self.arrays[0][slots] = round_to_bfloat16(x.astype(np.float32))

    def read(self, slots: Slots) -> Array:
        return widened(self.arrays[0][slots])


class _Int8s(PagedPart):
    """Codes [slots, K, D] and scales [slots, K]."""

    def write(self, slots: Slots, x: Array) -> None:
        codes, scales = self.arrays
        codes[slots], scales[slots] = int8_codes(x.astype(np.float32))

    def read(self, slots: Slots) -> Array:
        codes, scales = self.arrays
        return codes[slots].astype(np.float32) * widened(scales[slots])[..., None]


class _Int4Values(PagedPart):
    """Nibbles [slots, K, D / 2], and of every group of channels scales and minimums [slots, K, G]."""

    def __init__(self, *arrays: Array, group: int) -> None:
        super().__init__(*arrays)
        self._group = group

    def write(self, slots: Slots, x: Array) -> None:
        codes = np.empty(x.shape, np.uint8)
        nibbles, scales, minimums = self.arrays
        for index, start in enumerate(range(0, x.shape[-1], self._group)):
            part = slice(start, start + self._group)
            codes[..., part], scales[slots, :, index], minimums[slots, :, index] = int4_codes(x[..., part].astype(np.float32))
        nibbles[slots] = packed(codes)

    def read(self, slots: Slots) -> Array:
        nibbles, scales, minimums = self.arrays
        codes = unpacked(nibbles[slots])
        scale, minimum = (self._by_channel(widened(each[slots]), codes.shape[-1]) for each in (scales, minimums))
        return minimum + codes.astype(np.float32) * scale

    def _by_channel(self, groups: Array, head_dim: int) -> Array:
        return np.repeat(groups, self._group, axis=-1)[..., :head_dim]


class _Int4Keys(PagedPart):
    """Nibbles [slots, K, D / 2] of rotated keys, and of every channel of a tile scales and minimums [tiles, K, D]."""

    def write(self, slots: Slots, x: Array) -> None:
        nibbles, scales, minimums = self.arrays
        tiles = slots[::KERNEL_TILE_TOKENS] // KERNEL_TILE_TOKENS
        by_channel = x.astype(np.float32).reshape(len(tiles), KERNEL_TILE_TOKENS, *x.shape[1:]).transpose(0, 2, 3, 1)
        codes, scales[tiles], minimums[tiles] = int4_codes(by_channel)
        nibbles[slots] = packed(codes.transpose(0, 3, 1, 2).reshape(x.shape))

    def read(self, slots: Slots) -> Array:
        nibbles, scales, minimums = self.arrays
        tiles = slots // KERNEL_TILE_TOKENS
        return rotated(widened(minimums[tiles]) + unpacked(nibbles[slots]).astype(np.float32) * widened(scales[tiles]))

    def rounded(self, x: Array) -> Array:
        return _as_bfloat16(rotated(x.astype(np.float32)))

    def turned_back(self, x: Array) -> Array:
        return rotated(x)


def key_part(layout: KVLayout, layer: int, num_slots: int, float_type: type[np.floating[Any]]) -> PagedPart:
    """Returns room for the keys of a layer; float32 ones are held in `float_type`."""
    kv_format = KVFormat.BFLOAT16 if layer in layout.exact_key_layers else layout.format
    shape = num_slots, layout.num_kv_heads, layout.head_dim
    if KEY_BITS[kv_format] == 4:
        by_tile = num_slots // KERNEL_TILE_TOKENS, *shape[1:]
        return _Int4Keys(_nibbles(shape), np.zeros(by_tile, np.uint16), np.zeros(by_tile, np.uint16))
    return _wide_part(shape, KEY_BITS[kv_format], float_type)


def value_part(layout: KVLayout, num_slots: int, float_type: type[np.floating[Any]]) -> PagedPart:
    """Returns room for the values of a layer."""
    shape = num_slots, layout.num_kv_heads, layout.head_dim
    if VALUE_BITS[layout.format] == 4:
        group = VALUE_GROUP[layout.format]
        by_group = *shape[:-1], -(-layout.head_dim // group)
        return _Int4Values(_nibbles(shape), np.zeros(by_group, np.uint16), np.zeros(by_group, np.uint16), group=group)
    return _wide_part(shape, VALUE_BITS[layout.format], float_type)


def _wide_part(shape: tuple[int, int, int], bits: int, float_type: type[np.floating[Any]]) -> PagedPart:
    if bits == 8:
        return _Int8s(np.zeros(shape, np.int8), np.zeros(shape[:-1], np.uint16))
    if bits == 16:
        return _BFloat16s(np.zeros(shape, np.uint16))
    return _Floats(np.zeros(shape, float_type))


def _nibbles(shape: tuple[int, int, int]) -> Array:
    return np.zeros((*shape[:-1], shape[-1] // 2), np.uint8)


def int8_codes(x: Float32Array) -> tuple[Array, Array]:
    """Returns codes int8 [..., n] and the scale [...] of every n numbers, as bits of bfloat16; a NaN where one is not finite."""
    most = np.abs(x).max(axis=-1)
    bits, inverse = _scales(most / np.float32(127), most)
    return _codes(x, inverse, -127, 127).astype(np.int8), bits


def int4_codes(x: Float32Array) -> tuple[Array, Array, Array]:
    """Returns codes uint8 [..., n], scales [...] and minimums [...] of every n numbers, both as bits of bfloat16."""
    minimum_bits = round_down(x.min(axis=-1))
    minimum = widened(minimum_bits)
    with _quiet():
        spread, above = x.max(axis=-1) - minimum, x - minimum[..., None]
    bits, inverse = _scales(spread / np.float32(15), spread)
    return _codes(above, inverse, 0, 15).astype(np.uint8), bits, minimum_bits


def _quiet() -> AbstractContextManager[None]:
    """Returns a context without warnings of numbers that are not finite: the scale tells."""
    return np.errstate(invalid="ignore", over="ignore")


def _codes(x: Float32Array, inverse: Float32Array, low: int, high: int) -> Float32Array:
    with _quiet():
        codes: Float32Array = np.nan_to_num(np.clip(np.rint(x * inverse[..., None]), low, high))
    return codes


def _scales(scale: Float32Array, spread: Float32Array) -> tuple[Array, Float32Array]:
    """Returns the bits of scales rounded up to bfloat16, and their inverses: 0 where there is no spread."""
    bits = round_up(scale)
    bits[spread < _SMALLEST] = 0
    bits[~np.isfinite(spread)] = _NAN
    rounded = widened(bits)
    inverse = np.zeros_like(rounded)
    np.divide(np.float32(1), rounded, out=inverse, where=rounded > 0)
    return bits, inverse


_NAN = np.uint16(0x7FC0)


def round_up(x: Float32Array) -> npt.NDArray[np.uint16]:
    """Returns bits of the smallest bfloat16 numbers that are not below x, which is not negative."""
    return ((x.view(np.uint32) + np.uint32(0xFFFF)) >> 16).astype(np.uint16)


def round_down(x: Float32Array) -> npt.NDArray[np.uint16]:
    """Returns bits of the largest bfloat16 numbers that are not above x."""
    bits = x.view(np.uint32)
    return ((bits + np.where(x < 0, np.uint32(0xFFFF), np.uint32(0))) >> 16).astype(np.uint16)


def packed(codes: Array) -> Array:
    """Returns codes [..., n] of 4 bits as bytes [..., n / 2], the first in the low half."""
    both: Array = codes[..., ::2] | codes[..., 1::2] << 4
    return both


def unpacked(nibbles: Array) -> Array:
    """Returns the codes [..., n] of bytes [..., n / 2]."""
    return np.stack([nibbles & 15, nibbles >> 4], axis=-1).reshape(*nibbles.shape[:-1], 2 * nibbles.shape[-1])


def rotated(x: Float32Array) -> Float32Array:
    """Returns x [..., D] times a Hadamard matrix over the largest power of two that divides D, of length 1; its own inverse."""
    size = math.gcd(x.shape[-1], _MAX_ROTATED)
    groups = np.ascontiguousarray(x).reshape(*x.shape[:-1], x.shape[-1] // size, size)
    stride = 1
    while stride < size:
        pairs = groups.reshape(*groups.shape[:-1], size // (2 * stride), 2, stride)
        low, high = pairs[..., 0, :], pairs[..., 1, :]
        groups = np.stack([low + high, low - high], axis=-2).reshape(groups.shape)
        stride *= 2
    return (groups * np.float32(1 / math.sqrt(size))).reshape(x.shape)


def widened(bits: Array) -> Float32Array:
    """Returns bfloat16 bits as float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _as_bfloat16(x: Float32Array) -> Float32Array:
    return widened(round_to_bfloat16(x))
