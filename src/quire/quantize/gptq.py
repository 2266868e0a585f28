"""GPTQ (Frantar et al. 2022): rounds a matrix one input after another, and lets the rest make up for each error.

    H = X^T X                     of the inputs X [T, K] that the matrix will be multiplied with
    H^-1 = U^T U                  U upper triangular
    for each input k: round w[:, k]; what was lost, divided by U[k, k], times U[k, k+1:], is taken from the inputs after it

The matrix is held as [K, N] here, so that an input's weights lie side by side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from quire.arrays import Float32Array, Float64Array
from quire.quantize.grid import Codes, Grid, search_steps

DAMPING = 0.01
"""Added to the diagonal of H, as a share of its mean: without it, few tokens leave H singular."""
_BLOCK = 128  # inputs whose errors are collected before they reach the rest of the matrix
_LEAF = 256  # a triangle of this size is inverted at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounded:
    """A matrix on its grid: codes [N, K], and scales and zero points [N, K / group], float32 that 16 bits and bytes hold."""

    codes: Codes
    scales: Float32Array
    zeros: Codes

    def values(self, group: int) -> Float32Array:
        """Returns the matrix, float32 [N, K]."""
        values = self.codes.astype(np.float32)
        values -= np.repeat(self.zeros, group, axis=1)
        values *= np.repeat(self.scales, group, axis=1)
        return values


@dataclass(frozen=True, slots=True, kw_only=True)
class Curvature:
    """What the inputs of a matrix say about its errors: their mean squares [K], and U [K, K] of the damped H."""

    importance: Float32Array
    upper: Float32Array


def curvature_of(squares: Float64Array, num_tokens: int) -> Curvature:
    """Returns the curvature for the sums X^T X [K, K] over so many tokens; an input that never occurs gets the mean's share."""
    mean = squares / num_tokens
    diagonal = mean.diagonal().copy()
    level = float(diagonal.mean()) or 1.0
    mean[np.diag_indices_from(mean)] += DAMPING * level
    flipped = np.linalg.cholesky(mean[::-1, ::-1])
    upper = _inverse_upper(np.ascontiguousarray(flipped[::-1, ::-1]))
    return Curvature(importance=(diagonal + DAMPING * level).astype(np.float32), upper=upper.astype(np.float32))


def _inverse_upper(triangle: Float64Array) -> Float64Array:
    """Returns the inverse of an upper triangular matrix, by halves."""
    size = len(triangle)
    if size <= _LEAF:
        return np.triu(np.linalg.inv(triangle))
    half = size // 2
    first, last = _inverse_upper(triangle[:half, :half]), _inverse_upper(triangle[half:, half:])
    inverse = np.zeros_like(triangle)
    inverse[:half, :half], inverse[half:, half:] = first, last
    inverse[:half, half:] = -first @ triangle[:half, half:] @ last
    return inverse


def round_matrix(matrix: Float32Array, curvature: Curvature, grid: Grid) -> Rounded:
    """Returns a matrix [N, K] rounded; the group divides K."""
    rest = np.ascontiguousarray(matrix.T, np.float32)
    num_in, num_out = rest.shape
    codes = np.empty((num_in, num_out), np.uint8)
    scales = np.empty((num_in // grid.group, num_out), np.float32)
    zeros = np.empty_like(scales)
    block = grid.group * max(1, _BLOCK // grid.group)
    for start in range(0, num_in, block):
        stop = min(start + block, num_in)
        errors = np.empty((stop - start, num_out), np.float32)
        for first in range(start, stop, grid.group):
            group = slice(first, first + grid.group)
            steps = search_steps(rest[group], curvature.importance[group], grid)
            scales[first // grid.group], zeros[first // grid.group] = steps.scales, steps.zeros
            for k in range(group.start, group.stop):
                chosen = steps.codes(rest[k], grid)
                codes[k] = chosen
                lost = (rest[k] - steps.values(chosen)) / curvature.upper[k, k]
                rest[k + 1 : stop] -= curvature.upper[k, k + 1 : stop, None] * lost
                errors[k - start] = lost
        rest[stop:] -= curvature.upper[start:stop, stop:].T @ errors
    contiguous = np.ascontiguousarray
    return Rounded(codes=contiguous(codes.T), scales=contiguous(scales.T), zeros=contiguous(zeros.T.astype(np.uint8)))


def round_nearest(matrix: Float32Array, grid: Grid) -> Rounded:
    """Returns a matrix [N, K] with every weight rounded by itself, for which nothing need be known of the inputs."""
    columns = np.ascontiguousarray(matrix.T, np.float32)
    ones = np.ones(grid.group, np.float32)
    codes = np.empty(columns.shape, np.uint8)
    groups = []
    for first in range(0, len(columns), grid.group):
        part = slice(first, first + grid.group)
        groups.append(search_steps(columns[part], ones, grid))
        codes[part] = groups[-1].codes(columns[part], grid)
    return Rounded(
        codes=np.ascontiguousarray(codes.T),
        scales=np.stack([steps.scales for steps in groups], axis=1),
        zeros=np.stack([steps.zeros for steps in groups], axis=1).astype(np.uint8),
    )
