"""Group formats by their definition, in NumPy: random weights of a format, their values, and exact products with activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from quire.arrays import Float32Array
from quire.executors.reference_quantize import IntegerRows
from quire.units import cdiv

ByteArray = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A group format of the core; see csrc/weight_format.h."""

    bits: int
    group: int
    scales: str
    offset: str

    @property
    def section(self) -> int:
        """Elements of K under one header."""
        return 256 if self.scales == "TWO_LEVEL" else self.group

    def __str__(self) -> str:
        return f"{self.bits}-{self.group}-{self.scales}-{self.offset}".lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupWeights:
    """64 columns of a format: codes [64, K], and per section or group of it the parts of the header."""

    kind: Kind
    codes: ByteArray
    scales: npt.NDArray[np.uint16]
    minimums: npt.NDArray[np.uint16]
    zero_points: ByteArray
    multipliers: npt.NDArray[np.int8]
    minimum_multipliers: ByteArray

    @classmethod
    def random(cls, kind: Kind, *, k: int, seed: int) -> GroupWeights:
        generator = np.random.default_rng(seed)
        sections, per_section = cdiv(k, kind.section), kind.section // kind.group
        codes = generator.permuted(np.resize(np.arange(1 << kind.bits, dtype=np.uint8), (64, k)), axis=1)
        return cls(
            kind=kind,
            codes=codes,
            scales=_halves(generator, (64, sections), kind),
            minimums=_halves(generator, (64, sections), kind),
            zero_points=generator.integers(0, 1 << kind.bits, (64, sections), np.uint8),
            multipliers=generator.integers(-128, 128, (64, sections * per_section), np.int8),
            minimum_multipliers=generator.integers(0, 256, (64, sections * per_section), np.uint8),
        )

    @property
    def k(self) -> int:
        return self.codes.shape[1]

    @property
    def num_sections(self) -> int:
        return self.scales.shape[1]

    def section(self, index: int) -> list[npt.NDArray[Any]]:
        """Returns what the core's set_section takes."""
        kind = self.kind
        width = min(kind.section, cdiv(self.k, 32) * 32 - index * kind.section)
        codes = self.codes[:, index * kind.section : index * kind.section + width]
        per_section = kind.section // kind.group
        groups = slice(index * per_section, (index + 1) * per_section)
        is_two_level = kind.scales == "TWO_LEVEL"
        parts = [
            np.pad(codes, ((0, 0), (0, width - codes.shape[1]))),
            self.scales[:, index],
            self.minimums[:, index],
            self.zero_points[:, index],
            self.multipliers[:, groups].T if is_two_level else self.multipliers[:0],
            self.minimum_multipliers[:, groups].T if is_two_level and kind.group == 32 else self.minimum_multipliers[:0],
        ]
        return [np.ascontiguousarray(part) for part in parts]

    def group_scales(self) -> Float32Array:
        """Returns the scale of each group, [64, groups]."""
        scales = _widened(self.scales, self.kind)
        if self.kind.scales != "TWO_LEVEL":
            return scales
        return np.repeat(scales, self.kind.section // self.kind.group, axis=1) * self.multipliers.astype(np.float32)

    def group_minimums(self) -> Float32Array:
        """Returns what is added to scale * code in each group, [64, groups]."""
        if self.kind.offset == "ZERO_POINT":
            return -(self.group_scales() * self.zero_points.astype(np.float32))
        minimums = _widened(self.minimums, self.kind)
        if self.kind.scales != "TWO_LEVEL":
            return minimums
        return -(np.repeat(minimums, self.kind.section // self.kind.group, axis=1) * self.minimum_multipliers.astype(np.float32))

    def values(self) -> Float32Array:
        """Returns the weights [64, K]; every step rounds once."""
        kind = self.kind
        scales = _per_element(self.group_scales(), kind.group, self.k)
        codes = self.codes.astype(np.float32)
        if kind.offset == "CENTER":
            return scales * (codes - np.float32(1 << (kind.bits - 1)))
        if kind.offset == "ZERO_POINT":
            return scales * (codes - _per_element(self.zero_points.astype(np.float32), kind.group, self.k))
        return scales * codes + _per_element(self.group_minimums(), kind.group, self.k)


def quantized_activations(rows: Float32Array) -> IntegerRows:
    return IntegerRows.of(rows)


def product(weights: GroupWeights, rows: IntegerRows, *, is_fused: bool) -> Float32Array:
    """Returns rows [T, K] times the weights transposed, [T, 64], in the core's order: groups, and minimums after their group."""
    kind, size = weights.kind, min(weights.kind.group, 32)
    center = 1 << (kind.bits - 1) if kind.offset == "CENTER" else 0
    codes = _grouped(weights.codes.astype(np.int64) - center, size)
    integers = _grouped(rows.integers.astype(np.int64), 32).reshape(len(rows.integers), -1, size)[:, : codes.shape[1]]
    sums = np.einsum("ngk,tgk->gtn", codes, integers).astype(np.float32)
    scales, minimums = weights.group_scales(), weights.group_minimums()
    y: Float32Array = np.zeros((len(rows.integers), 64), np.float32)
    for index, of_group in enumerate(sums):
        block, group = index * size // 32, index * size // kind.group
        y = _multiply_add(of_group, scales[:, group] * rows.scales[:, block, None], y, is_fused)
        if kind.offset != "CENTER":
            y = _multiply_add(minimums[:, group][None], rows.scaled_sums[:, block, None], y, is_fused)
    return y


def _multiply_add(a: Float32Array, b: Float32Array, c: Float32Array, is_fused: bool) -> Float32Array:
    if not is_fused:
        return a * b + c
    return _fused(a, b, c)


def _fused(a: Float32Array, b: Float32Array, c: Float32Array) -> Float32Array:
    """Returns a * b + c rounded once. The product is exact in float64; the sum's own rounding is undone where it hides a tie."""
    exact, addend = a.astype(np.float64) * b.astype(np.float64), c.astype(np.float64)
    total = exact + addend
    part = total - exact
    error = (exact - (total - part)) + (addend - part)
    is_tie = (total.view(np.int64) & 0x1FFFFFFF) == 0x10000000
    nudged = np.where(is_tie & (error != 0), np.nextafter(total, np.where(error > 0, np.inf, -np.inf)), total)
    return nudged.astype(np.float32)


def _halves(generator: np.random.Generator, shape: tuple[int, int], kind: Kind) -> npt.NDArray[np.uint16]:
    """Returns scales of both signs, some of them subnormal in float16."""
    values = generator.standard_normal(shape) * np.exp2(generator.integers(-20, 1, shape))
    if kind.scales == "BF16":
        return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(np.float16).view(np.uint16)


def _widened(bits: npt.NDArray[np.uint16], kind: Kind) -> Float32Array:
    if kind.scales == "BF16":
        return (bits.astype(np.uint32) << 16).view(np.float32)
    return bits.view(np.float16).astype(np.float32)


def _per_element(groups: Float32Array, size: int, k: int) -> Float32Array:
    return np.repeat(groups, size, axis=1)[:, :k]


def _grouped(values: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    """Returns [R, K / size, size], filled up with zeros."""
    rows, k = values.shape
    groups = cdiv(k, size)
    return np.pad(values, ((0, 0), (0, groups * size - k))).reshape(rows, groups, size)
