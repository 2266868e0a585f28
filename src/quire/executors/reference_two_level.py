"""Group formats with a minimum in two levels, in NumPy: what a matrix becomes that Quire quantizes itself.

    weight    w ~ (d * s) * code - dmin * m    float16 d and dmin per 256 elements of K; integers s <= 127 and m <= 255 per 32

Every step is a single rounded float32 operation in the order of `quantize_two_level.h`, so values equal the core's bit by bit.
Arrays are [N, sections, 8, 32]: rows, sections of 256 elements, groups, elements; or without the last axis, one per group.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quire.arrays import Float32Array
from quire.units import cdiv

BoolArray = npt.NDArray[np.bool_]

_SECTION, _GROUP = 256, 32
_STEP_SIZES = 8
_MOST_SCALE, _MOST_MINIMUM = np.float32(127), np.float32(255)
_ZERO, _ONE, _TWO = np.float32(0), np.float32(1), np.float32(2)


@dataclass(frozen=True, slots=True)
class _Groups:
    """Elements `x`, what a squared error `weight`s at each, the largest code, and sums that no code changes."""

    x: Float32Array
    weight: Float32Array
    most: np.float32
    w: Float32Array
    wx: Float32Array
    wxx: Float32Array

    def codes(self, minimum: Float32Array, inverse: Float32Array) -> Float32Array:
        codes: Float32Array = np.rint(np.clip((self.x - minimum[..., None]) * inverse[..., None], _ZERO, self.most))
        return codes


@dataclass(frozen=True, slots=True)
class _Line:
    """x ~ scale * code + minimum, where the minimum is not above zero."""

    scale: Float32Array
    minimum: Float32Array
    error: Float32Array

    def where(self, is_chosen: BoolArray, other: _Line) -> _Line:
        """Returns the other line where that was chosen, and this one elsewhere."""
        parts = ((self.scale, other.scale), (self.minimum, other.minimum), (self.error, other.error))
        return _Line(*(_choose(is_chosen, new, old) for old, new in parts))


def two_level_weights(weight: Float32Array, bits: int, importance: Float32Array | None = None) -> Float32Array:
    """Returns a matrix [N, K] of finite values as it is after packing; `importance` [K] is what a squared error weighs."""
    with np.errstate(all="ignore"):
        groups = _groups_of(weight, bits, importance)
        line = _best_line(groups)
        d, dmin = _unit(line.scale, _MOST_SCALE), _unit(line.minimum, _MOST_MINIMUM)
        stored = _best_stored(groups, line, d, dmin)
        codes = groups.codes(stored.minimum, _inverse(stored.scale))
        values = stored.scale[..., None] * codes + stored.minimum[..., None]
    return np.ascontiguousarray(values.reshape(len(weight), -1)[:, : weight.shape[1]])


def _groups_of(weight: Float32Array, bits: int, importance: Float32Array | None) -> _Groups:
    num_rows, num_columns = weight.shape
    padding = (0, cdiv(num_columns, _SECTION) * _SECTION - num_columns)
    shape = (-1, _SECTION // _GROUP, _GROUP)
    matters = np.ones(num_columns, np.float32) if importance is None else importance
    x, w = np.pad(weight, ((0, 0), padding)).reshape(num_rows, *shape), np.pad(matters, padding).reshape(shape)
    return _Groups(x=x, weight=w, most=np.float32((1 << bits) - 1), w=_sum(w), wx=_sum(w * x), wxx=_sum(w * x * x))


def _best_line(groups: _Groups) -> _Line:
    low = np.minimum(groups.x.min(axis=-1), _ZERO)
    extent = groups.x.max(axis=-1) - low
    best = _Line(_ratio(extent, np.full_like(extent, groups.most)), low, np.full_like(low, np.inf))
    for index in range(_STEP_SIZES):
        steps = groups.most + (np.float32(-1) + np.float32(0.25) * np.float32(index))
        line = _fitted(groups, low, steps * _inverse(extent))
        best = best.where((line.error < best.error) & (line.scale > 0), line)
    return best


def _fitted(groups: _Groups, minimum: Float32Array, inverse: Float32Array) -> _Line:
    """Returns the line of least squares through the codes of another one."""
    codes = groups.codes(minimum, inverse)
    weighted = groups.weight * codes
    q, qq, qx = _sum(weighted), _sum(weighted * codes), _sum(weighted * groups.x)
    determinant = groups.w * qq - q * q
    scale = _ratio(groups.w * qx - groups.wx * q, determinant)
    fitted = _ratio(qq * groups.wx - q * qx, determinant)
    scale = _choose(fitted > 0, _ratio(qx, qq), scale)
    fitted = np.minimum(fitted, _ZERO)
    squares = (groups.wxx + scale * scale * qq) + fitted * fitted * groups.w
    products = (scale * qx + fitted * groups.wx) - scale * fitted * q
    return _Line(scale, fitted, squares - _TWO * products)


def _best_stored(groups: _Groups, line: _Line, d: Float32Array, dmin: Float32Array) -> _Line:
    """Returns the lines in the section's units: the best of three scales, each with its best minimum."""
    nearest = np.rint(np.clip(line.scale * _inverse(d), _ZERO, _MOST_SCALE))
    best = _with_minimum(groups, d * nearest, line.minimum, dmin)
    for step in (np.float32(-1), _ONE):
        other = _with_minimum(groups, d * np.clip(nearest + step, _ZERO, _MOST_SCALE), line.minimum, dmin)
        best = best.where(other.error < best.error, other)
    return best


def _with_minimum(groups: _Groups, scale: Float32Array, minimum: Float32Array, dmin: Float32Array) -> _Line:
    inverse = _inverse(scale)
    q = _sum(groups.weight * groups.codes(minimum, inverse))
    wanted = _choose(groups.w > 0, _ratio(groups.wx - scale * q, groups.w), minimum)
    minimum = -(dmin * np.rint(np.clip(-wanted * _inverse(dmin), _ZERO, _MOST_MINIMUM)))
    left = groups.x - (scale[..., None] * groups.codes(minimum, inverse) + minimum[..., None])
    return _Line(scale, minimum, _sum(groups.weight * (left * left)))


def _unit(values: Float32Array, most: np.float32) -> Float32Array:
    """Returns the float16 in which the largest value of a section is `most`, as float32 [N, sections, 1]."""
    largest = np.abs(values).max(axis=-1, keepdims=True)
    units: Float32Array = (largest * (_ONE / most)).astype(np.float16).astype(np.float32)
    return units


def _inverse(values: Float32Array) -> Float32Array:
    return _choose(values > 0, _ratio(np.ones_like(values), values), np.zeros_like(values))


def _ratio(numerator: Float32Array, denominator: Float32Array) -> Float32Array:
    ratio: Float32Array = np.divide(numerator, denominator)
    return ratio


def _choose(condition: BoolArray, yes: Float32Array, no: Float32Array) -> Float32Array:
    chosen: Float32Array = np.where(condition, yes, no)
    return chosen


def _sum(values: Float32Array) -> Float32Array:
    """Returns sums over the elements of a group, added in order."""
    total = np.zeros(values.shape[:-1], np.float32)
    for index in range(_GROUP):
        total = total + values[..., index]
    return total
