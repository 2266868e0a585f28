"""The grid that weights are rounded to: codes with a scale and a zero point per row and group of inputs.

    w = (code - zero) * scale        code in [0, 2^bits), zero a whole number in the same range

A scale is held in 16 bits, and is rounded before codes are chosen, so that codes fit the scale that is stored.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quire.arrays import Float32Array
from quire.models.quantized.arithmetic import rounded
from quire.models.weights import SourceDType

Codes = npt.NDArray[np.uint8]

_SHRINKS = np.linspace(1.0, 0.6, 17, dtype=np.float32)
"""Widths of the range that are tried, as shares of the whole: a narrower one cuts off extremes and makes steps finer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A number of bits, and the inputs that share a scale; `scale_dtype` is a format of 16 bits.

    Up to 4 bits, ranges need not be symmetric about 0; with 8 there is little to gain, and vLLM's kernels have no zero points.
    """

    bits: int
    group: int
    scale_dtype: SourceDType

    @property
    def is_symmetric(self) -> bool:
        """Whether every zero point is the center."""
        return self.bits == 8

    @property
    def center(self) -> int:
        return 1 << (self.bits - 1)

    @property
    def last_code(self) -> int:
        return (1 << self.bits) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """Scales and zero points of one group, both float32 [N]; the scales are multiples that 16 bits hold."""

    scales: Float32Array
    zeros: Float32Array

    def codes(self, values: Float32Array, grid: Grid) -> Float32Array:
        """Returns the nearest codes, whole float32, of values [..., N]."""
        codes: Float32Array = np.clip(np.rint(values / self.scales) + self.zeros, 0, grid.last_code)
        return codes

    def values(self, codes: Float32Array) -> Float32Array:
        """Returns what codes [..., N] stand for."""
        return (codes - self.zeros) * self.scales


def search_steps(values: Float32Array, importance: Float32Array, grid: Grid) -> Steps:
    """Returns the steps of a group of values [G, N] that make the error, weighed by `importance` [G], small.

    Of ranges from the whole one down to 0.6 of it, each as it is and with its scale refitted to its codes by least squares, the
    best for each row.
    """
    low = np.minimum(values.min(axis=0), 0)
    high = np.maximum(values.max(axis=0), 0)
    best = _steps_of(low, high, grid)
    found = best, _error(values, importance, best, grid)
    for shrink in _SHRINKS:
        steps = _steps_of(low * shrink, high * shrink, grid)
        for candidate in (steps, _refitted(steps, values, importance, grid)):
            found = _better(values, importance, found, candidate, grid)
    return found[0]


def _refitted(steps: Steps, values: Float32Array, importance: Float32Array, grid: Grid) -> Steps:
    """Returns the steps with the scales that suit their codes best."""
    codes = steps.codes(values, grid) - steps.zeros
    weights = importance[:, None] * codes
    squares = (weights * codes).sum(axis=0)
    scales = np.divide((weights * values).sum(axis=0), squares, out=steps.scales.copy(), where=squares > 0)
    return Steps(scales=_held(np.where(scales > 0, scales, steps.scales), grid), zeros=steps.zeros)


def _better(
    values: Float32Array, importance: Float32Array, best: tuple[Steps, Float32Array], other: Steps, grid: Grid
) -> tuple[Steps, Float32Array]:
    """Returns row by row the steps with the smaller error, the earlier ones where it is the same."""
    steps, error = best
    other_error = _error(values, importance, other, grid)
    is_better = other_error < error
    chosen = Steps(scales=np.where(is_better, other.scales, steps.scales), zeros=np.where(is_better, other.zeros, steps.zeros))
    return chosen, np.minimum(error, other_error)


def _steps_of(low: Float32Array, high: Float32Array, grid: Grid) -> Steps:
    if grid.is_symmetric:
        bound = np.maximum(-low, high)
        scales = _held(np.where(bound > 0, bound / np.float32(grid.center - 1), 1), grid)
        return Steps(scales=scales, zeros=np.full_like(scales, grid.center))
    span = high - low
    scales = _held(np.where(span > 0, span / np.float32(grid.last_code), 1), grid)
    return Steps(scales=scales, zeros=np.clip(np.rint(-low / scales), 0, grid.last_code))


def _held(scales: Float32Array, grid: Grid) -> Float32Array:
    """Returns scales as 16 bits hold them; what would vanish there becomes 1, for its values are zero in any grid."""
    held = rounded(scales.astype(np.float32), grid.scale_dtype).to_float32()
    return np.where(held > 0, held, np.float32(1))


def _error(values: Float32Array, importance: Float32Array, steps: Steps, grid: Grid) -> Float32Array:
    difference = steps.values(steps.codes(values, grid)) - values
    error: Float32Array = (importance[:, None] * difference * difference).sum(axis=0)
    return error
