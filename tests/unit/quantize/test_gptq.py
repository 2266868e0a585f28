"""Rounding a matrix: what GPTQ gains over the nearest codes, and the grid that both keep to."""

from __future__ import annotations

import numpy as np
import pytest

from quire.models.weights import SourceDType
from quire.quantize.gptq import DAMPING, Rounded, curvature_of, round_matrix, round_nearest
from quire.quantize.grid import Grid, search_steps

NUM_TOKENS, NUM_OUT, NUM_IN = 400, 48, 192


def grid_of(bits: int = 4, group: int = 32, dtype: SourceDType = SourceDType.BFLOAT16) -> Grid:
    return Grid(bits=bits, group=group, scale_dtype=dtype)


@pytest.fixture(scope="module")
def inputs() -> np.ndarray:
    """Correlated inputs, of which a few are far larger than the rest, as in language models."""
    generator = np.random.default_rng(5)
    mixed = generator.standard_normal((NUM_TOKENS, 24)) @ generator.standard_normal((24, NUM_IN))
    values = mixed + 0.3 * generator.standard_normal((NUM_TOKENS, NUM_IN))
    values[:, ::31] *= 20
    return values.astype(np.float32)


@pytest.fixture(scope="module")
def matrix() -> np.ndarray:
    return np.random.default_rng(6).standard_normal((NUM_OUT, NUM_IN)).astype(np.float32)


def lost(matrix: np.ndarray, found: Rounded, inputs: np.ndarray, group: int = 32) -> float:
    """Returns the squared error of the product, as a share of its squares."""
    return float(np.square((found.values(group) - matrix) @ inputs.T).sum() / np.square(matrix @ inputs.T).sum())


@pytest.mark.parametrize(("bits", "group"), [(4, 32), (4, 64), (8, 32), (4, 96)])
def test_codes_and_zero_points_lie_on_the_grid_and_scales_in_16_bits(
    matrix: np.ndarray, inputs: np.ndarray, bits: int, group: int
) -> None:
    grid = grid_of(bits, group)
    for found in (round_matrix(matrix, curvature_of(inputs.T @ inputs, NUM_TOKENS), grid), round_nearest(matrix, grid)):
        assert found.codes.shape == matrix.shape
        assert found.scales.shape == found.zeros.shape == (NUM_OUT, NUM_IN // group)
        assert max(found.codes.max(), found.zeros.max()) < 1 << bits
        assert not (found.scales.view(np.uint32) & 0xFFFF).any()
        assert (found.scales > 0).all()


def test_gptq_loses_less_than_half_of_what_the_nearest_codes_lose(matrix: np.ndarray, inputs: np.ndarray) -> None:
    grid = grid_of()
    found = round_matrix(matrix, curvature_of((inputs.T @ inputs).astype(np.float64), NUM_TOKENS), grid)
    assert lost(matrix, found, inputs) < 0.5 * lost(matrix, round_nearest(matrix, grid), inputs)


def test_eight_bits_are_nearly_exact(matrix: np.ndarray, inputs: np.ndarray) -> None:
    assert lost(matrix, round_nearest(matrix, grid_of(8)), inputs) < 1e-4


def test_a_matrix_on_the_grid_stays_as_it_is(inputs: np.ndarray) -> None:
    generator = np.random.default_rng(7)
    codes = generator.integers(0, 16, (NUM_OUT, NUM_IN // 32, 32)).astype(np.float32)
    codes[:, :, 0], codes[:, :, 1] = 0, 15
    values = ((codes - 6) * np.float32(0.125)).reshape(NUM_OUT, NUM_IN)
    grid = grid_of()
    for found in (round_nearest(values, grid), round_matrix(values, curvature_of(inputs.T @ inputs, NUM_TOKENS), grid)):
        np.testing.assert_array_equal(found.values(32), values)


def test_the_curvature_is_the_triangle_of_the_damped_inverse(inputs: np.ndarray) -> None:
    squares = (inputs.T @ inputs).astype(np.float64)
    found = curvature_of(squares, NUM_TOKENS)
    mean = squares / NUM_TOKENS
    damped = mean + DAMPING * mean.diagonal().mean() * np.eye(NUM_IN)
    upper = found.upper.astype(np.float64)
    assert not np.tril(upper, -1).any()
    np.testing.assert_allclose(upper.T @ upper @ damped, np.eye(NUM_IN), atol=2e-3)


@pytest.mark.parametrize("squares", [np.zeros((64, 64)), np.diag([1.0, *[0.0] * 63])])
def test_inputs_that_never_occur_are_rounded_to_the_nearest(squares: np.ndarray) -> None:
    values = np.random.default_rng(8).standard_normal((8, 64)).astype(np.float32)
    found = round_matrix(values, curvature_of(squares, 10), grid_of())
    assert float(np.square(found.values(32) - values).mean()) < 0.02


@pytest.mark.parametrize("value", [0.0, 1e-30, -3.5, 1e4])
def test_a_group_of_equal_values_is_held(value: float) -> None:
    values = np.full((32, 3), value, np.float32)
    steps = search_steps(values, np.ones(32, np.float32), grid_of())
    found = steps.values(steps.codes(values, grid_of()))
    np.testing.assert_allclose(found, values, rtol=5e-3, atol=1e-29)


def test_the_search_heeds_the_importance() -> None:
    values = np.random.default_rng(9).standard_normal((32, 64)).astype(np.float32)
    importance = np.ones(32, np.float32)
    importance[:4] = 1000
    grid = grid_of()

    def error_of_important(weights: np.ndarray) -> float:
        steps = search_steps(values, weights, grid)
        return float(np.square(steps.values(steps.codes(values, grid)) - values)[:4].sum())

    assert error_of_important(importance) < 0.8 * error_of_important(np.ones(32, np.float32))
