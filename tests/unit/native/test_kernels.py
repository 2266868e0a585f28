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

from quire.arrays import Float32Array
from quire.config import Quantize, WeightFormat
from quire.executors.native import available_isas
from quire.executors.native_shape import panel_format
from quire.executors.packing import Encoding, PackLayout, PanelFormat, panel_format_of
from quire.executors.reference_quantize import quantized_bytes, quantized_rows, quantized_weights
from quire.executors.rotation import rotated_weights, turned_back
from quire.models.group_format import GroupFormat, Offset, ScaleType
from quire.models.weights import round_to_bfloat16

core: Any = pytest.importorskip("quire.native._core", reason="the native core is not compiled here")

BYTES = GroupFormat(8, 32, ScaleType.BFLOAT16, Offset.CENTER)
SHAPES = [(1, 1, 1), (1, 64, 2), (2, 65, 7), (5, 130, 33), (6, 63, 128), (7, 200, 257), (13, 64, 96), (17, 64, 64), (50, 130, 96)]


@pytest.fixture(params=available_isas())
def isa(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def random(shape: tuple[int, ...], seed: int = 0) -> Float32Array:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def widen(bits: npt.NDArray[np.uint16]) -> Float32Array:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def layout_of(isa: str) -> PackLayout:
    return PackLayout.AMX if core.has_amx(isa) else PackLayout.VNNI


def format_of(isa: str, name: str) -> Any:
    return panel_format(core, panels_of(isa, name))


def panels_of(isa: str, name: str) -> PanelFormat:
    known = {"F32": WeightFormat.FLOAT32, "BF16": WeightFormat.BFLOAT16}
    return panel_format_of("layers.0.attn.q.weight", known.get(name) or WeightFormat[name], layout_of(isa))


def multiply(isa: str, weight_format: str, weight: Float32Array, a: Float32Array) -> Float32Array:
    out = np.empty((len(a), len(weight)), np.float32)
    core.multiply(isa, format_of(isa, weight_format), weight, np.ascontiguousarray(a), out)
    return out


@pytest.mark.parametrize(("rows", "columns", "k"), SHAPES)
def test_float32_product_equals_numpy(isa: str, rows: int, columns: int, k: int) -> None:
    weight, a = random((columns, k)), random((rows, k), 1)
    bound = k * 2.0**-23 * (np.abs(a) @ np.abs(weight).T) + 1e-12
    assert (np.abs(multiply(isa, "F32", weight, a) - a.astype(np.float64) @ weight.T) <= bound).all()


@pytest.mark.parametrize(("rows", "columns", "k"), SHAPES)
def test_bfloat16_product_equals_numpy_on_rounded_inputs(isa: str, rows: int, columns: int, k: int) -> None:
    weight, a = random((columns, k)), random((rows, k), 1)
    exact = widen(round_to_bfloat16(a)).astype(np.float64) @ widen(round_to_bfloat16(weight)).T
    bound = k * 2.0**-22 * (np.abs(a) @ np.abs(weight).T) + 1e-12
    assert (np.abs(multiply(isa, "BF16", weight, a) - exact) <= bound).all()


@pytest.mark.parametrize("quantize", [Quantize.INT8, Quantize.INT4], ids=lambda each: each.value)
@pytest.mark.parametrize(("rows", "columns", "k"), SHAPES)
def test_integer_product_equals_numpy_on_quantized_inputs(isa: str, quantize: Quantize, rows: int, columns: int, k: int) -> None:
    """Sums inside a group are exact; the float32 sum over groups, codes and minimums apart, errs as that of a product does."""
    weight, a = random((columns, k)), random((rows, k), 1)
    panels = panels_of(isa, quantize.name)
    inputs = quantized_rows(a, panels.encoding).astype(np.float64), quantized_weights(weight, panels)
    exact = inputs[0] @ inputs[1].T
    bound = (3 + k / 16) * 2.0**-23 * (np.abs(inputs[0]) @ (np.abs(inputs[1]) + 2 * np.abs(inputs[1]).max()).T) + 1e-12
    assert (np.abs(multiply(isa, quantize.name, weight, a) - exact) <= bound).all()


@pytest.mark.parametrize("encoding", [Encoding.GROUPS, Encoding.ROTATED, Encoding.INT8_AMX], ids=lambda each: each.value)
def test_packed_bytes_equal_numpy_bit_by_bit(isa: str, encoding: Encoding) -> None:
    if encoding is Encoding.INT8_AMX and not core.has_amx(isa):
        pytest.skip("this instruction set has no AMX")
    weight = random((130, 600)) * np.geomspace(1e-35, 1e30, 130, dtype=np.float32)[:, None]
    weight[3, :] = 0
    weight[4, 5:40] = np.linspace(-8, 7, 35)
    weight[5] *= np.geomspace(1e-6, 1, 600)
    weight[6, 64:128] = 0
    packed, panels = np.empty_like(weight), PanelFormat(encoding, None if encoding is Encoding.INT8_AMX else BYTES)
    core.packed_values(isa, panel_format(core, panels), weight, packed)
    expected = quantized_weights(weight, panels)
    if encoding is Encoding.ROTATED:
        expected = turned_back(expected.reshape(130, -1, 32), np.ones(600, np.float32))
    assert (packed == expected).all()


def test_rotated_products_equal_numpy_on_rotated_inputs(isa: str) -> None:
    weight, a = random((70, 600)), random((9, 600), 1)
    a[:, 5] *= 100
    factors = np.exp2(np.random.default_rng(2).integers(-4, 5, 600)).astype(np.float32)
    factors[5] = 1 / 32
    out = np.empty((9, 70), np.float32)
    core.multiply(isa, panel_format(core, PanelFormat(Encoding.ROTATED, BYTES)), weight, a, out, factors)
    rows = quantized_rows(a, Encoding.ROTATED, factors).astype(np.float64)
    exact = rows @ quantized_bytes(rotated_weights(weight, factors)).reshape(70, -1).T
    assert np.abs(out - exact).max() <= 1e-5 * np.abs(exact).max()


def test_rotation_tames_an_outlier(isa: str) -> None:
    weight, a, factors = random((70, 600)), random((9, 600), 1), np.ones(600, np.float32)
    a[:, 5] *= 100
    factors[5] = 1 / 16
    plain, rotated = np.empty((9, 70), np.float32), np.empty((9, 70), np.float32)
    core.multiply(isa, panel_format(core, PanelFormat(Encoding.GROUPS, BYTES)), weight, a, plain)
    core.multiply(isa, panel_format(core, PanelFormat(Encoding.ROTATED, BYTES)), weight, a, rotated, factors)
    exact = a.astype(np.float64) @ weight.T
    assert np.abs(rotated - exact).mean() < 0.5 * np.abs(plain - exact).mean()


@pytest.mark.parametrize("factors", [np.full(600, 3.0), np.zeros(600), np.full(600, np.nan), np.full(600, 2.0**40), np.ones(599)])
def test_input_factors_that_are_no_powers_of_two_are_refused(factors: npt.NDArray[np.float64]) -> None:
    rotated = panel_format(core, PanelFormat(Encoding.ROTATED, BYTES))
    with pytest.raises(ValueError, match="factor"):
        core.packed_values("", rotated, random((64, 600)), np.empty((64, 600), np.float32), None, factors.astype(np.float32))


def test_only_rotated_matrices_have_input_factors() -> None:
    out = np.empty((1, 64), np.float32)
    with pytest.raises(ValueError, match="not rotated"):
        core.multiply("", format_of("", "F32"), random((64, 64)), random((1, 64)), out, np.ones(64, np.float32))


@pytest.mark.parametrize("weight_format", ["INT8", "INT4"])
def test_rows_of_any_size_survive_quantization(isa: str, weight_format: str) -> None:
    weight, a = random((64, 64)), np.repeat(random((1, 64), 1), 6, axis=0)
    sizes = np.array([0, 1e-42, 1e-30, 1e-20, 1, 1e30], np.float32)
    products = multiply(isa, weight_format, weight, a * sizes[:, None])
    assert np.isfinite(products).all()
    assert not products[0].any()
    np.testing.assert_allclose(products[3] * np.float32(1e20), products[4], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("weight_format", ["F32", "BF16", "INT8", "INT4"])
def test_a_row_of_a_product_does_not_depend_on_the_rows_beside_it(isa: str, weight_format: str) -> None:
    weight, a = random((130, 600)), random((150, 600), 1)
    together = multiply(isa, weight_format, weight, a)
    for rows in (1, 2, 3, 4, 5, 6, 8, 9, 11, 16, 17, 25, 33, 131):
        pieces = [multiply(isa, weight_format, weight, a[start : start + rows]) for start in range(0, len(a), rows)]
        assert np.concatenate(pieces).tobytes() == together.tobytes()


@pytest.mark.parametrize("weight_format", ["F32", "BF16", "INT8", "INT4"])
@pytest.mark.parametrize("rows", [1, 5, 9, 40])
def test_prefetch_changes_no_bit(isa: str, weight_format: str, rows: int) -> None:
    weight, a = random((130, 600)), random((rows, 600), 1)
    products = []
    for prefetch in core.Prefetch:
        out = np.empty((rows, 130), np.float32)
        core.multiply(isa, format_of(isa, weight_format), weight, a, out, prefetch=prefetch)
        products.append(out.tobytes())
    assert len(products) == 5
    assert set(products) == {multiply(isa, weight_format, weight, a).tobytes()}


def test_weights_pack_the_same_from_any_strides(isa: str) -> None:
    weight, a = random((70, 40)), random((3, 40), 1)
    transposed = np.ascontiguousarray(weight.T).T
    assert multiply(isa, "F32", transposed, a).tobytes() == multiply(isa, "F32", weight, a).tobytes()


@pytest.mark.parametrize("weight_format", ["F32", "BF16", "INT8", "INT4"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("rows", [7, 12, 40])
def test_infinity_and_nan_stay_in_their_own_row(isa: str, weight_format: str, value: float, rows: int) -> None:
    weight, a = random((64, 300)), random((rows, 300), 1)
    clean = multiply(isa, weight_format, weight, a)
    a[3, 5] = value
    spoiled = multiply(isa, weight_format, weight, a)
    assert not np.isfinite(spoiled[3]).any()
    assert np.delete(spoiled, 3, axis=0).tobytes() == np.delete(clean, 3, axis=0).tobytes()


@pytest.mark.parametrize("weight_format", ["F32", "BF16", "INT8", "INT4"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("rows", [7, 12, 40])
def test_a_weight_that_is_not_finite_spoils_its_own_column(isa: str, weight_format: str, value: float, rows: int) -> None:
    weight, a = random((70, 300)), random((rows, 300), 1)
    clean = multiply(isa, weight_format, weight, a)
    weight[66, 35] = value
    spoiled = multiply(isa, weight_format, weight, a)
    assert not np.isfinite(spoiled[:, 66]).any()
    assert np.delete(spoiled, 66, axis=1).tobytes() == np.delete(clean, 66, axis=1).tobytes()


@pytest.mark.parametrize("bits", [4, 5, 6, 8])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_sums_of_a_group_do_not_wrap_around(isa: str, bits: int, sign: int) -> None:
    """All codes are the outermost ones: with 4 bits a group adds up to 30480, in 16 bits on AVX2."""
    center = 1 << (bits - 1)
    codes = np.full((64, 32), 2 * center - 1, np.uint8)
    codes[:, 0] = 0
    matrix = core.GroupMatrix(isa, [core.GroupFormat(bits)], 512)
    ones, none = np.full(64, 0x3F80, np.uint16), np.empty(0, np.uint16)
    for section in range(16):
        matrix.set_section(0, section, codes, ones, none, none.astype("u1"), np.empty((0, 64), "i1"), np.empty((0, 64), "u1"))
    a = np.full((17, 512), sign * 127, np.float32)
    for rows in (1, 3, 12, 17):
        out = np.empty((rows, 64), np.float32)
        matrix.multiply(a[:rows], out)
        assert (out == sign * 127 * 16 * (31 * (center - 1) - center)).all()


@pytest.mark.parametrize("weight_format", ["INT8", "INT4"])
@pytest.mark.parametrize(("rows", "columns", "k"), SHAPES)
def test_integer_products_are_the_same_bits_wherever_sums_are_fused(weight_format: str, rows: int, columns: int, k: int) -> None:
    """Sums inside a group are exact integers, whatever instructions find them; int8 for tiles has groups of its own."""
    weight, a = random((columns, k)), random((rows, k), 1)
    isas = [isa for isa in available_isas() if isa != "generic" and not (weight_format == "INT8" and core.has_amx(isa))]
    assert len({multiply(isa, weight_format, weight, a).tobytes() for isa in isas}) <= 1


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
