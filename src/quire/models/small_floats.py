"""Floating point of 8 and 4 bits, and powers of two in a byte (OCP's E8M0), as files of several formats hold them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from quire.arrays import Float32Array

DOUBLED_E2M1 = np.array((0, 1, 2, 3, 4, 6, 8, 12, -0.0, -1, -2, -3, -4, -6, -8, -12), np.float32)
"""Twice the values of FP4, by code: whole numbers, to be multiplied by half of their power of two."""


def decode_fp8(bits: npt.NDArray[np.uint8], dtype: str) -> Float32Array:
    """Returns the values of F8_E4M3 (without infinities) or F8_E5M2."""
    return _FP8[dtype][bits]


def decode_exponents(bits: npt.NDArray[np.uint8], dtype: str) -> Float32Array:
    """Returns 2 ** (byte - 127); 255 is NaN in F8_E8M0, and infinity where the bytes are plain U8, as in transformers."""
    return _POWERS[dtype][bits]


def decode_half_exponents(bits: npt.NDArray[np.uint8], dtype: str) -> Float32Array:
    """Returns 2 ** (byte - 128), which is finite for every byte of U8; 255 is NaN in F8_E8M0."""
    return _HALF_POWERS[dtype][bits]


def _e4m3_values() -> Float32Array:
    codes = np.arange(256)
    exponent, mantissa = (codes >> 3) & 15, codes & 7
    normal = np.ldexp((8 + mantissa) / 8, exponent - 7)
    values = np.where(exponent == 0, np.ldexp(mantissa / 8, -6), normal).astype(np.float32)
    values[codes & 127 == 127] = np.nan
    return np.where(codes >= 128, -values, values)


def _e5m2_values() -> Float32Array:
    """Upper halves of float16. Widening its signaling NaNs is an invalid operation, which processors of aarch64 report."""
    with np.errstate(invalid="ignore"):
        return (np.arange(256, dtype=np.uint16) << 8).view(np.float16).astype(np.float32)


_FINITE = np.ldexp(np.float32(1), np.arange(-128, 128))
_HALF_POWERS = {"U8": _FINITE, "F8_E8M0": np.append(_FINITE[:-1], np.float32(np.nan))}
_POWERS = {
    "U8": np.append(_FINITE[1:], np.float32(np.inf)),
    "F8_E8M0": np.append(_FINITE[1:], np.float32(np.nan)),
}
_FP8 = {
    "F8_E4M3": _e4m3_values(),
    "F8_E5M2": _e5m2_values(),
}
