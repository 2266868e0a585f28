"""Rotated inputs of integer products, as `rotate.h` computes them: no outlier takes the whole scale of its group.

Of every 32 columns, inputs become H (x * factors) and weights H (w / factors) / 32, H the Hadamard matrix: H H = 32, so products
stay the same. Factors are powers of two, so only the sums and differences round. Source: QuaRot (arXiv 2404.00456) rotates whole
rows; 32 at a time cost nothing per product, and take most of what 8-bit activations lose.
"""

from __future__ import annotations

import numpy as np

from quire.arrays import Float32Array
from quire.units import cdiv

GROUP = 32
_MOST_EXPONENT = 6


def input_factors(importance: Float32Array) -> Float32Array:
    """Returns what inputs [K] are multiplied by, powers of two: their sizes (root mean squares) become about square roots."""
    sizes = np.sqrt(np.maximum(importance.astype(np.float64), 1e-12))
    middle = np.sort(sizes)[(len(sizes) - 1) // 2]
    exponents = np.clip(np.rint(0.5 * np.log2(sizes / middle)), -_MOST_EXPONENT, _MOST_EXPONENT)
    factors: Float32Array = np.exp2(-exponents).astype(np.float32)
    return factors


def rotated_inputs(rows: Float32Array, factors: Float32Array) -> Float32Array:
    """Returns inputs [T, K] as [T, K / 32, 32]."""
    return _rotated(_grouped(rows) * _factor_groups(factors))


def rotated_weights(weight: Float32Array, factors: Float32Array) -> Float32Array:
    """Returns weights [N, K] as [N, K / 32, 32]."""
    return _rotated(_grouped(weight) * (np.float32(1) / (np.float32(GROUP) * _factor_groups(factors))))


def turned_back(groups: Float32Array, factors: Float32Array) -> Float32Array:
    """Returns weights [N, K] of rotated ones [N, K / 32, 32]."""
    rows = (_rotated(groups) * _factor_groups(factors)).reshape(len(groups), groups.shape[1] * GROUP)
    return np.ascontiguousarray(rows[:, : len(factors)])


def _rotated(groups: Float32Array) -> Float32Array:
    """Returns H times each group: sums and differences of elements 1, 2, 4, 8 and 16 apart."""
    rotated = groups
    for stride in (1, 2, 4, 8, 16):
        pairs = rotated.reshape(*groups.shape[:-1], GROUP // (2 * stride), 2, stride)
        low, high = pairs[..., 0, :], pairs[..., 1, :]
        rotated = np.stack([low + high, low - high], axis=-2).reshape(groups.shape)
    return rotated


def _grouped(rows: Float32Array) -> Float32Array:
    num_columns = rows.shape[1]
    padded = np.pad(rows, ((0, 0), (0, cdiv(num_columns, GROUP) * GROUP - num_columns)))
    return padded.reshape(len(rows), padded.shape[1] // GROUP, GROUP)


def _factor_groups(factors: Float32Array) -> Float32Array:
    padding = cdiv(len(factors), GROUP) * GROUP - len(factors)
    return np.pad(factors, (0, padding), constant_values=1).reshape(-1, GROUP)
