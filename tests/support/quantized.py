"""Quantized weights as other libraries write them: packed here bit by bit, and widened by their own formulas in torch.

Nothing of `quire.models.quantized` is used: codes go into Python integers, and values come from whole tensors of codes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from support.safetensors_writer import Typed

Arrays = dict[str, np.ndarray]
TORCH = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """A weight's stored parts by leaf name, and its values [N, K]."""

    parts: Arrays
    values: torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Method:
    """A method with its options: what config.json says, and how a weight [N, K] is made and stored."""

    name: str
    config: dict[str, Any]
    pack: Callable[[np.random.Generator, int, int], Packed]
    section: str = "quantization_config"
    description: str = ""
    divisor: int = 32
    others: dict[str, Any] = field(default_factory=dict)


def stream(rows: np.ndarray, bits: int) -> np.ndarray:
    """Returns rows of codes as rows of uint32 words, the lowest bits first."""
    num_words = -(-rows.shape[1] * bits // 32)
    packed = [sum(int(code) << (bits * place) for place, code in enumerate(row)) for row in rows]
    return np.array([[(number >> (32 * word)) & 0xFFFFFFFF for word in range(num_words)] for number in packed], np.uint32)


def as_stored(values: torch.Tensor) -> np.ndarray:
    """Returns a tensor as the array that stands for it in files."""
    if values.dtype is torch.bfloat16:
        return values.contiguous().view(torch.uint16).numpy()
    return values.contiguous().numpy()


def random_scales(rng: np.random.Generator, shape: tuple[int, ...], dtype: str = "F16") -> torch.Tensor:
    return torch.from_numpy(rng.normal(0, 0.02, shape).astype(np.float32)).to(TORCH[dtype])


def codes_of(rng: np.random.Generator, shape: tuple[int, int], bits: int) -> np.ndarray:
    """Returns random codes among which every code occurs wherever there is room."""
    codes = rng.integers(0, 1 << bits, shape)
    every = np.arange(1 << bits)[: codes.size]
    codes.reshape(-1)[: every.size] = every
    return codes


def spread(per_group: torch.Tensor, groups: np.ndarray) -> torch.Tensor:
    return per_group[:, torch.from_numpy(groups)]


# -- GPTQ --------------------------------------------------------------------------


def pack_gptq(
    bits: int, group: int, *, minus_one: bool = True, is_sorted: bool = False, dtype: str = "F16"
) -> Callable[..., Packed]:
    def pack(rng: np.random.Generator, num_out: int, num_in: int) -> Packed:
        size = num_in if group == -1 else group
        num_groups = -(-num_in // size)
        codes = codes_of(rng, (num_out, num_in), bits)
        zeros = rng.integers(1 if minus_one else 0, 1 << bits, (num_groups, num_out))
        scales = random_scales(rng, (num_groups, num_out), dtype)
        groups = np.arange(num_in) // size
        if is_sorted:
            groups = rng.permutation(groups)
        stored_zeros = stream(zeros - 1 if minus_one else zeros, bits)
        parts = {
            "qweight": np.ascontiguousarray(stream(codes, bits).T).view(np.int32),
            "qzeros": stored_zeros.view(np.int32),
            "scales": as_stored(scales),
            "g_idx": groups.astype(np.int32),
        }
        difference = torch.from_numpy(codes - zeros.T[:, groups]).to(torch.int16)
        return Packed(parts=parts, values=spread(scales.T, groups) * difference)

    return pack


# -- AWQ ---------------------------------------------------------------------------

_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # AutoAWQ: the output in each place of a word


def _awq_words(codes: np.ndarray) -> np.ndarray:
    num_rows, num_out = codes.shape
    words = np.zeros((num_rows, num_out // 8), np.uint32)
    for word in range(num_out // 8):
        for place, output in enumerate(_AWQ_ORDER):
            words[:, word] |= codes[:, 8 * word + output].astype(np.uint32) << np.uint32(4 * place)
    return words.view(np.int32)


def pack_awq(group: int, dtype: str = "F16") -> Callable[..., Packed]:
    def pack(rng: np.random.Generator, num_out: int, num_in: int) -> Packed:
        size = num_in if group == -1 else group
        codes, zeros = codes_of(rng, (num_in, num_out), 4), rng.integers(0, 16, (num_in // size, num_out))
        scales = random_scales(rng, zeros.shape, dtype)
        parts = {"qweight": _awq_words(codes), "qzeros": _awq_words(zeros), "scales": as_stored(scales)}
        groups = np.arange(num_in) // size
        difference = torch.from_numpy((codes - zeros[groups]).T.copy()).to(torch.int8)
        return Packed(parts=parts, values=difference * spread(scales.T, groups))

    return pack


# -- compressed-tensors ------------------------------------------------------------


def _dequantize(codes: np.ndarray, zeros: torch.Tensor | None, scales: torch.Tensor) -> torch.Tensor:
    """Returns what `_dequantize` of compressed_tensors computes from tensors of the weight's own shape."""
    values = torch.from_numpy(codes).to(scales.dtype)
    if zeros is not None:
        values = values - zeros.to(scales.dtype)
    return values * scales


def pack_compressed(
    bits: int, group: int | None, *, symmetric: bool = True, dtype: str = "BF16", is_sorted: bool = False
) -> Callable[..., Packed]:
    def pack(rng: np.random.Generator, num_out: int, num_in: int) -> Packed:
        size, low = num_in if group is None else group, -(1 << (bits - 1))
        groups = np.arange(num_in) // size
        if is_sorted:
            groups = rng.permutation(groups)
        codes = codes_of(rng, (num_out, num_in), bits) + low
        scales = random_scales(rng, (num_out, num_in // size), dtype)
        zeros = None if symmetric else rng.integers(low, -low, (num_out, num_in // size))
        parts = {
            "weight_packed": stream(codes - low, bits).view(np.int32),
            "weight_scale": as_stored(scales),
            "weight_shape": np.array([num_out, num_in], np.int64),
        }
        if zeros is not None:
            parts["weight_zero_point"] = np.ascontiguousarray(stream((zeros - low).T, bits).T).view(np.int32)
        if is_sorted:
            parts["weight_g_idx"] = groups.astype(np.int32)
        zero = None if zeros is None else spread(torch.from_numpy(zeros), groups)
        return Packed(parts=parts, values=_dequantize(codes, zero, spread(scales, groups)))

    return pack


def pack_bytes(sharing: str, *, symmetric: bool = True, dtype: str = "BF16") -> Callable[..., Packed]:
    def pack(rng: np.random.Generator, num_out: int, num_in: int) -> Packed:
        codes = (codes_of(rng, (num_out, num_in), 8) - 128).astype(np.int8)
        shape = {"tensor": (1,), "channel": (num_out, 1), "group": (num_out, num_in // 16)}[sharing]
        scales = random_scales(rng, shape, dtype)
        zeros = None if symmetric else rng.integers(-128, 128, shape).astype(np.int8)
        parts = {"weight": codes, "weight_scale": as_stored(scales)}
        if zeros is not None:
            parts["weight_zero_point"] = zeros
        repeats = 16 if sharing == "group" else 1
        zero = None if zeros is None else torch.from_numpy(zeros).repeat_interleave(repeats, -1)
        return Packed(
            parts=parts, values=_dequantize(codes, zero, scales.repeat_interleave(repeats, -1)).reshape(num_out, num_in)
        )

    return pack


# -- FP8 ---------------------------------------------------------------------------

_FLOAT8 = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}


def fp8_codes(rng: np.random.Generator, num_out: int, num_in: int) -> np.ndarray:
    """Returns every finite code and random ones; the largest of both formats are left out, for they are not finite."""
    codes = codes_of(rng, (num_out, num_in), 8).astype(np.uint8)
    return np.where(codes & 0x7F >= 0x7C, codes & 0xF8, codes).astype(np.uint8)


def pack_fp8(
    word: str, sharing: str, *, leaf: str = "weight_scale", scale_dtype: str = "F32", target: str = "BF16"
) -> Callable[..., Packed]:
    """`sharing` is tensor, channel or the size of a square block."""

    def pack(rng: np.random.Generator, num_out: int, num_in: int) -> Packed:
        codes = fp8_codes(rng, num_out, num_in)
        if word == "F8_E5M2":
            codes = np.where(codes & 0x7F >= 0x7C, codes & 0x83, codes).astype(np.uint8)
        if sharing in ("tensor", "channel"):
            shape = (1,) if sharing == "tensor" else (num_out, 1)
            rows = columns = 1
        else:
            rows = columns = int(sharing)
            shape = (-(-num_out // rows), -(-num_in // columns))
        scales = random_scales(rng, shape, scale_dtype)
        whole = scales.repeat_interleave(rows, 0)[:num_out] if len(shape) == 2 else scales
        whole = whole.repeat_interleave(columns, -1)[..., :num_in]
        values = torch.from_numpy(codes).view(_FLOAT8[word]).to(torch.float32) * whole.to(torch.float32)
        return Packed(parts={"weight": Typed.of(codes, word), leaf: as_stored(scales)}, values=values.to(TORCH[target]))

    return pack


def pack_float_quantized(sharing: str, dtype: str = "BF16") -> Callable[..., Packed]:
    """compressed-tensors multiplies in the format of the scales."""

    def pack(rng: np.random.Generator, num_out: int, num_in: int) -> Packed:
        codes = fp8_codes(rng, num_out, num_in)
        scales = random_scales(rng, (1,) if sharing == "tensor" else (num_out, 1), dtype)
        values = torch.from_numpy(codes).view(torch.float8_e4m3fn).to(scales.dtype) * scales
        return Packed(parts={"weight": Typed.of(codes, "F8_E4M3"), "weight_scale": as_stored(scales)}, values=values)

    return pack


# -- MXFP4 -------------------------------------------------------------------------

_FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def _fp4_value(code: int, exponent: int) -> float:
    return float((-1.0 if code & 8 else 1.0) * _FP4[code & 7] * 2.0 ** (exponent - 127))


def pack_mxfp4(layout: str) -> Callable[..., Packed]:
    """`layout` is weight (Quark) or packed (compressed-tensors)."""

    def pack(rng: np.random.Generator, num_out: int, num_in: int) -> Packed:
        codes = codes_of(rng, (num_out, num_in), 4)
        exponents = rng.integers(118, 124, (num_out, num_in // 32))
        values = [[_fp4_value(int(codes[n, k]), int(exponents[n, k // 32])) for k in range(num_in)] for n in range(num_out)]
        data = (codes[:, 0::2] | (codes[:, 1::2] << 4)).astype(np.uint8)
        scales = exponents.astype(np.uint8)
        parts = {
            "weight": {"weight": data, "weight_scale": scales},
            "packed": {"weight_packed": data, "weight_scale": scales},
        }[layout]
        return Packed(parts=parts, values=torch.tensor(values, dtype=torch.float32).to(torch.bfloat16))

    return pack


# -- MLX ---------------------------------------------------------------------------


def pack_mlx(bits: int, group: int, dtype: str = "F16") -> Callable[..., Packed]:
    def pack(rng: np.random.Generator, num_out: int, num_in: int) -> Packed:
        codes = codes_of(rng, (num_out, num_in), bits)
        scales, biases = (random_scales(rng, (num_out, num_in // group), dtype) for _ in range(2))
        parts = {"weight": stream(codes, bits), "scales": as_stored(scales), "biases": as_stored(biases)}
        groups = np.arange(num_in) // group
        product = torch.from_numpy(codes).to(torch.float32) * spread(scales.to(torch.float32), groups)
        return Packed(parts=parts, values=(product + spread(biases.to(torch.float32), groups)).to(scales.dtype))

    return pack
