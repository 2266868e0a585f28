"""Integer formats as the native core computes them, in NumPy: what a matrix or a row of activations becomes.

32 elements of K share a scale:

    weight        w ~ scale * q    q in [-128, 127], a bfloat16 scale; two levels with minimums: see reference_two_level.py
    activations   a ~ scale * q    q in [-127, 127], a float32 scale, chosen for each row

int8 in the AMX layout, where 256 elements of K share a scale:

    weight        w ~ scale * q    q in [-128, 127], a bfloat16 scale
    activations   a ~ scale * q    q in [-32512, 32512], a float32 scale

Every step is a single rounded float32 operation in the order of `pack_quantize.h`, `pack_amx.h` and
`quantize_activations.h`, so weights equal the core's bit by bit, and rows do up to ties.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quire.arrays import Float32Array
from quire.executors.packing import Encoding, PanelFormat
from quire.executors.reference_two_level import two_level_weights
from quire.executors.rotation import input_factors, rotated_inputs, rotated_weights
from quire.models.group_format import GroupCodes, ScaleType, values_of
from quire.models.weights import SourceTensor, round_to_bfloat16
from quire.units import cdiv

GROUP = 32
WIDE_GROUP = 256
_SMALLEST = np.float32(1e-30)
_TRIES = 10


def quantized_weights(weight: Float32Array, panel_format: PanelFormat, importance: Float32Array | None = None) -> Float32Array:
    """Returns a matrix [N, K] as products multiply with it after packing: integers times their scales.

    `importance` [K] is the mean square of each input, None where it is not known. Rotated weights stay rotated, and are
    [N, K in whole groups].
    """
    groups = panel_format.groups
    if panel_format.encoding is Encoding.ROTATED:
        rotated = rotated_weights(weight, factors_of(importance, weight.shape[1]))
        return quantized_bytes(rotated).reshape(len(weight), -1)
    if groups is not None and groups.scales is ScaleType.TWO_LEVEL:
        return two_level_weights(weight, groups.bits, importance)
    size = WIDE_GROUP if panel_format.encoding is Encoding.INT8_AMX else GROUP
    return _ungrouped(quantized_bytes(_grouped(weight, size)), weight.shape[1])


def factors_of(importance: Float32Array | None, num_columns: int) -> Float32Array:
    """Returns what inputs are multiplied by before they are rotated, [K]."""
    return np.ones(num_columns, np.float32) if importance is None else input_factors(importance)


def quantized_bytes(groups: Float32Array) -> Float32Array:
    """Returns groups in 8 bits, with the best of several scales for 32 values; of 256, the largest value is -128 steps."""
    extreme = _extremes(groups)
    is_zero = np.abs(extreme) < _SMALLEST
    divisor = np.where(is_zero, np.float32(1), extreme)
    wanted = _best_scales(groups, divisor) if groups.shape[-1] == GROUP else divisor / np.float32(-128)
    scale = _rounded(np.where(is_zero, np.float32(0), wanted))
    inverse = np.where(is_zero, np.float32(0), np.float32(1) / np.where(is_zero, np.float32(1), scale))
    values: Float32Array = np.rint(np.clip(groups * inverse[..., None], -128, 127)) * scale[..., None]
    return values


def stored_values(tensor: SourceTensor, panel_format: PanelFormat) -> Float32Array:
    """Returns a matrix [N, K] as its group format holds what the checkpoint does."""
    groups = tensor.to_groups()
    if isinstance(groups, GroupCodes) and panel_format.groups is not None:
        return values_of(groups, panel_format.groups)
    return tensor.to_float32()


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegerRows:
    """Activations as products with group formats read them: 32 columns share a scale, and a ~ scale * q.

    `integers` int8 [T, K]; `scales` and `scaled_sums`, the scale times the sum of its integers, float32 [T, K / 32].
    """

    integers: npt.NDArray[np.int8]
    scales: Float32Array
    scaled_sums: Float32Array

    @classmethod
    def of(cls, rows: Float32Array) -> IntegerRows:
        groups = _grouped(rows, GROUP)
        integers, scales = _integers_of_rows(groups, np.float32(127))
        return cls(
            integers=_ungrouped(integers, rows.shape[1]).astype(np.int8),
            scales=scales,
            scaled_sums=scales * integers.sum(axis=-1),
        )


def quantized_rows(rows: Float32Array, encoding: Encoding, factors: Float32Array | None = None) -> Float32Array:
    """Returns activations [T, K] as a product with integer weights sees them; `factors` [K] belong to rotated weights."""
    if encoding is Encoding.ROTATED:
        groups = rotated_inputs(rows, np.ones(rows.shape[1], np.float32) if factors is None else factors)
        integers, scales = _integers_of_rows(groups, np.float32(127))
        return _ungrouped(integers * scales[..., None], groups.shape[1] * GROUP)
    size = WIDE_GROUP if encoding is Encoding.INT8_AMX else GROUP
    integers, scales = _integers_of_rows(_grouped(rows, size), np.float32(32512 if size == WIDE_GROUP else 127))
    return _ungrouped(integers * scales[..., None], rows.shape[1])


def _integers_of_rows(groups: Float32Array, most: np.float32) -> tuple[Float32Array, Float32Array]:
    """Returns integers of at most `most` and, for each group, the scale that the largest magnitude asks for."""
    highest = np.abs(groups).max(axis=-1)
    is_zero = highest <= _SMALLEST
    inverse = np.where(is_zero, np.float32(0), most / np.where(is_zero, np.float32(1), highest))
    return np.rint(groups * inverse[..., None]), highest * (np.float32(1) / most)


def _best_scales(groups: Float32Array, extreme: Float32Array) -> Float32Array:
    """Returns, of steps of several sizes, the scale of least squares that leaves the least error."""
    units = groups * (np.float32(1) / extreme)[..., None]
    best, most = np.full_like(extreme, np.float32(1) / np.float32(127)), np.full_like(extreme, -1)
    for index in range(_TRIES):
        steps = np.float32(127) / (np.float32(1.01) - np.float32(0.01) * np.float32(index))
        integers = np.rint(np.clip(units * steps, -128, 127))
        dot, square = _sum_of_group(units * integers), _sum_of_group(integers * integers)
        is_better = (square > 0) & (dot * dot > most * square)
        some = np.where(is_better, square, np.float32(1))
        most, best = np.where(is_better, dot * dot / some, most), np.where(is_better, dot / some, best)
    return best * extreme


def _sum_of_group(values: Float32Array) -> Float32Array:
    """Returns sums over the last axis: eight lanes, each in order, then the lanes in pairs."""
    lanes = values.reshape(*values.shape[:-1], 4, 8)
    sums: Float32Array = np.zeros_like(lanes[..., 0, :])
    for part in range(4):
        sums = sums + lanes[..., part, :]
    halves = sums[..., :4] + sums[..., 4:]
    result: Float32Array = (halves[..., 0] + halves[..., 2]) + (halves[..., 1] + halves[..., 3])
    return result


def _extremes(groups: Float32Array) -> Float32Array:
    """Returns the value of largest magnitude of each group, with its sign; the positive one of a tie."""
    high, low = groups.max(axis=-1), groups.min(axis=-1)
    extremes: Float32Array = np.where(-low > high, low, high)
    return extremes


def _rounded(values: Float32Array) -> Float32Array:
    bits = round_to_bfloat16(values).astype(np.uint32) << 16
    return bits.view(np.float32)


def _grouped(values: Float32Array, size: int) -> Float32Array:
    """Returns [R, K / size, size], filled up with zeros; R may be 0."""
    num_rows, num_columns = values.shape
    num_groups = cdiv(num_columns, size)
    return np.pad(values, ((0, 0), (0, num_groups * size - num_columns))).reshape(num_rows, num_groups, size)


def _ungrouped(groups: Float32Array, size: int) -> Float32Array:
    """Returns [R, K] of groups [R, ...]; R may be 0."""
    flat = groups.reshape(len(groups), math.prod(groups.shape[1:]))
    return np.ascontiguousarray(flat[:, :size], dtype=np.float32)
