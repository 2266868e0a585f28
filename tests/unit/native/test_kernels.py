"""Each kernel against its NumPy twin, on every instruction set this machine can run.

Tolerances: a float32 sum of K products in K order errs by at most K * 2^-24 of the sum of magnitudes; the elementary
functions promise 2e-7 absolute (exp: 2 ulp), which the activations scale by |x|.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from quire.executors.native import available_isas
from quire.models.weights import round_to_bfloat16

core: Any = pytest.importorskip("quire.native._core", reason="the native core is not compiled here")

Float32Array = npt.NDArray[np.float32]
SHAPES = [(1, 1, 1), (1, 64, 2), (2, 65, 7), (5, 130, 33), (6, 63, 128), (7, 200, 257), (13, 64, 96)]


@pytest.fixture(params=available_isas())
def isa(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def random(shape: tuple[int, ...], seed: int = 0) -> Float32Array:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def widen(bits: npt.NDArray[np.uint16]) -> Float32Array:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def multiply_float32(isa: str, weight: Float32Array, a: Float32Array) -> Float32Array:
    out = np.empty((len(a), len(weight)), np.float32)
    core.multiply(isa, core.Element.F32, weight, np.ascontiguousarray(a), out)
    return out


def multiply_bfloat16(isa: str, weight: Float32Array, a: Float32Array) -> Float32Array:
    rows, width = a.shape
    padded = np.zeros((rows, -(-width // 32) * 32), np.float32)
    padded[:, :width] = a
    out = np.empty((rows, len(weight)), np.float32)
    core.multiply(isa, core.Element.BF16, weight, round_to_bfloat16(padded), out)
    return out


@pytest.mark.parametrize(("rows", "columns", "k"), SHAPES)
def test_float32_product_equals_numpy(isa: str, rows: int, columns: int, k: int) -> None:
    weight, a = random((columns, k)), random((rows, k), 1)
    bound = k * 2.0**-23 * (np.abs(a) @ np.abs(weight).T) + 1e-12
    assert (np.abs(multiply_float32(isa, weight, a) - a.astype(np.float64) @ weight.T) <= bound).all()


@pytest.mark.parametrize(("rows", "columns", "k"), SHAPES)
def test_bfloat16_product_equals_numpy_on_rounded_inputs(isa: str, rows: int, columns: int, k: int) -> None:
    weight, a = random((columns, k)), random((rows, k), 1)
    exact = widen(round_to_bfloat16(a)).astype(np.float64) @ widen(round_to_bfloat16(weight)).T
    bound = k * 2.0**-22 * (np.abs(a) @ np.abs(weight).T) + 1e-12
    assert (np.abs(multiply_bfloat16(isa, weight, a) - exact) <= bound).all()


@pytest.mark.parametrize("multiply", [multiply_float32, multiply_bfloat16])
def test_a_row_of_a_product_does_not_depend_on_the_rows_beside_it(isa: str, multiply: Any) -> None:
    weight, a = random((130, 77)), random((23, 77), 1)
    together = multiply(isa, weight, a)
    for rows in (1, 2, 3, 4, 5, 6, 11):
        pieces = [multiply(isa, weight, a[start : start + rows]) for start in range(0, len(a), rows)]
        assert np.concatenate(pieces).tobytes() == together.tobytes()


def test_weights_pack_the_same_from_any_strides(isa: str) -> None:
    weight, a = random((70, 40)), random((3, 40), 1)
    transposed = np.ascontiguousarray(weight.T).T
    assert multiply_float32(isa, transposed, a).tobytes() == multiply_float32(isa, weight, a).tobytes()


def test_infinity_and_nan_stay_in_their_own_row(isa: str) -> None:
    weight, a = random((64, 32)), random((7, 32), 1)
    clean = multiply_float32(isa, weight, a)
    a[3, 5] = np.nan
    spoiled = multiply_float32(isa, weight, a)
    assert np.isnan(spoiled[3]).all()
    assert np.delete(spoiled, 3, axis=0).tobytes() == np.delete(clean, 3, axis=0).tobytes()


def gelu(x: float) -> float:
    return 0.5 * x * (1 + math.erf(x / math.sqrt(2)))


def gelu_tanh(x: float) -> float:
    return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def silu(x: float) -> float:
    return x / (1 + math.exp(-x))


TWINS = {"GELU": gelu, "GELU_TANH": gelu_tanh, "SILU": silu, "RELU": lambda x: max(x, 0.0)}


@pytest.mark.parametrize("name", sorted(TWINS))
def test_activation_equals_its_twin(isa: str, name: str) -> None:
    x = np.concatenate([np.linspace(-30, 30, 4001), random((500,)) * 1e-3]).astype(np.float32)
    y = x.copy()
    core.activate(isa, core.Activation[name], y)
    expected = np.array([TWINS[name](float(value)) for value in x])
    assert (np.abs(y - expected) <= 4e-7 * (1 + np.abs(x))).all()


@pytest.mark.parametrize("name", sorted(TWINS))
def test_activation_of_a_tail_has_the_bits_of_a_whole_vector(isa: str, name: str) -> None:
    x = random((64,)) * 4
    whole = x.copy()
    core.activate(isa, core.Activation[name], whole)
    for length in range(1, 40):
        part = x[:length].copy()
        core.activate(isa, core.Activation[name], part)
        assert part.tobytes() == whole[:length].tobytes()


def test_activations_keep_nan_and_survive_extremes(isa: str) -> None:
    for name in TWINS:
        x = np.array([np.nan, 1e30, -1e30, 0.0], np.float32)
        core.activate(isa, core.Activation[name], x)
        assert x[1] == np.float32(1e30)
        assert x[2] == 0.0
        assert x[3] == 0.0
        assert np.isnan(x[0])


def test_softcap_bounds_and_equals_its_twin(isa: str) -> None:
    x = np.linspace(-500, 500, 1001).astype(np.float32)
    y = x.copy()
    core.softcap(isa, y, 50.0)
    assert np.abs(y - 50 * np.tanh(x.astype(np.float64) / 50)).max() <= 2e-5


def test_an_unknown_instruction_set_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match="generic"):
        core.activate("mmx", core.Activation.SILU, np.zeros(1, np.float32))
