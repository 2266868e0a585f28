"""Decodes blocks of quantized weights to float32. An argument is an array of records (`kinds.Kind.block`), one per block.

A weight is scale * code, or scale * code - minimum; K-kinds quantize scales and minimums too, in 4 or 6 bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from quire.arrays import Float32Array
from quire.models.small_floats import DOUBLED_E2M1, decode_half_exponents

Records = npt.NDArray[Any]
Codes = npt.NDArray[np.uint8]

_NONLINEAR = np.array((-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113), np.float32)
_DOUBLED_E2M1 = DOUBLED_E2M1 + np.float32(0)  # integers in ggml: zero has no sign
_PAIRS, _EIGHTHS = np.arange(0, 8, 2, dtype=np.uint8), np.arange(8, dtype=np.uint8)


def decode_float(records: Records) -> Float32Array:
    return records.astype(np.float32).reshape(-1, 1)


def decode_bfloat16(records: Records) -> Float32Array:
    return (records.astype(np.uint32) << 16).view(np.float32).reshape(-1, 1)


def decode_q4_0(records: Records) -> Float32Array:
    return _times(_nibbles(records["q"], 16), _scale(records), offset=8)


def decode_q4_1(records: Records) -> Float32Array:
    return _times(_nibbles(records["q"], 16), _scale(records)) + _minimum(records)


def decode_q5_0(records: Records) -> Float32Array:
    return _times(_five_bits(records), _scale(records), offset=16)


def decode_q5_1(records: Records) -> Float32Array:
    return _times(_five_bits(records), _scale(records)) + _minimum(records)


def decode_q8_0(records: Records) -> Float32Array:
    return _times(records["q"], _scale(records))


def decode_iq4_nl(records: Records) -> Float32Array:
    return _scale(records) * _NONLINEAR[_nibbles(records["q"], 16)]


def decode_mxfp4(records: Records) -> Float32Array:
    """The scale is 2 ** (e - 128), half of what the exponent says, for the codes stand for doubled values."""
    return decode_half_exponents(records["e"], "U8")[:, None] * _DOUBLED_E2M1[_nibbles(records["q"], 16)]


def decode_q2_k(records: Records) -> Float32Array:
    scales = records["scales"]
    steps = _scale(records) * (scales & 15).astype(np.float32)
    minimums = _minimum(records) * (scales >> 4).astype(np.float32)
    return _per_group(_shifted(records["q"], 32, _PAIRS, 3), steps, minimums=minimums)


def decode_q3_k(records: Records) -> Float32Array:
    """The third bit of a code is stored apart and inverted: where it is 0, four is taken off."""
    packed = records["scales"]
    low = np.concatenate([packed[:, :8] & 15, packed[:, :8] >> 4], axis=1)
    high = _shifted(packed[:, 8:], 4, _PAIRS, 3)
    scales = (low | (high << 4)).astype(np.float32) - np.float32(32)
    codes = _shifted(records["q"], 32, _PAIRS, 3) | (_shifted(records["high"], 32, _EIGHTHS, 1) << 2)
    return _per_group(codes, _scale(records) * scales, offset=4)


def decode_q4_k(records: Records) -> Float32Array:
    return _k_groups(records, _nibbles(records["q"], 32))


def decode_q5_k(records: Records) -> Float32Array:
    return _k_groups(records, _nibbles(records["q"], 32) | (_shifted(records["high"], 32, _EIGHTHS, 1) << np.uint8(4)))


def decode_q6_k(records: Records) -> Float32Array:
    codes = _nibbles(records["q"], 64) | (_shifted(records["high"], 32, _PAIRS, 3) << 4)
    return _per_group(codes, _scale(records) * records["scales"].astype(np.float32), offset=32)


def decode_iq4_xs(records: Records) -> Float32Array:
    low = _nibble_pairs(records["scales"])
    high = (records["high"][:, None] >> np.arange(0, 16, 2, dtype=np.uint16)).astype(np.uint8) & 3
    scales = (low | (high << 4)).astype(np.float32) - np.float32(32)
    return _per_group(_NONLINEAR[_nibbles(records["q"], 16)], _scale(records) * scales)


def _scale(records: Records) -> Float32Array:
    """Returns the scales as a column."""
    scales: Float32Array = records["d"].astype(np.float32)[:, None]
    return scales


def _minimum(records: Records) -> Float32Array:
    minimums: Float32Array = records["m"].astype(np.float32)[:, None]
    return minimums


def _nibbles(packed: Codes, width: int) -> Codes:
    """Returns 4-bit codes: each run of `width` bytes holds first the low halves, then the high ones."""
    runs = packed.reshape(len(packed), -1, 1, width)
    return np.concatenate([runs & 15, runs >> 4], axis=2).reshape(len(packed), -1)


def _nibble_pairs(packed: Codes) -> Codes:
    """Returns 4-bit codes of bytes that hold neighbors."""
    return np.stack([packed & 15, packed >> 4], axis=2).reshape(len(packed), -1)


def _shifted(packed: Codes, width: int, shifts: Codes, mask: int) -> Codes:
    """Returns codes of a few bits: each run of `width` bytes holds those of the first shift, then those of the next."""
    runs = packed.reshape(len(packed), -1, 1, width)
    return ((runs >> shifts[:, None]) & np.uint8(mask)).reshape(len(packed), -1)


def _five_bits(records: Records) -> Codes:
    high = np.unpackbits(np.ascontiguousarray(records["high"]), axis=1, bitorder="little")
    return _nibbles(records["q"], 16) | (high << np.uint8(4))


def _times(codes: npt.NDArray[Any], scales: Float32Array, *, offset: int = 0) -> Float32Array:
    """Returns (codes - offset) * scales, without intermediate arrays."""
    values: Float32Array = codes.astype(np.float32)
    if offset:
        values -= np.float32(offset)
    values *= scales
    return values


def _per_group(
    codes: npt.NDArray[Any], scales: Float32Array, *, offset: int = 0, minimums: Float32Array | None = None
) -> Float32Array:
    """Returns codes times the scale of their group, less its minimum; the groups of a block are equally long."""
    values = _times(codes.reshape(*scales.shape, -1), scales[:, :, None], offset=offset)
    if minimums is not None:
        values -= minimums[:, :, None]
    return values.reshape(len(codes), -1)


def _k_groups(records: Records, codes: Codes) -> Float32Array:
    """Returns the weights of Q4_K and Q5_K: eight groups, whose scales and minimums lie in 12 bytes, 6 bits each."""
    first, second, rest = (records["scales"][:, start : start + 4] for start in (0, 4, 8))
    scales = np.concatenate([first & 63, (rest & 15) | ((first >> 2) & 48)], axis=1)
    minimums = np.concatenate([second & 63, (rest >> 4) | ((second >> 2) & 48)], axis=1)
    offsets = _minimum(records) * minimums.astype(np.float32)
    steps = _scale(records) * scales.astype(np.float32)
    return _per_group(codes, steps, minimums=offsets)
