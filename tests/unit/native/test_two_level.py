"""Quantization to two levels with minimums, on every instruction set of this machine, against its definition in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from quire.arrays import Float32Array
from quire.executors.native import available_isas
from quire.executors.reference_two_level import two_level_weights

core: Any = pytest.importorskip("quire.native._core", reason="the native core is not compiled here")


@pytest.fixture(params=available_isas())
def isa(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def packed(isa: str, bits: int, weight: Float32Array, importance: Float32Array | None = None) -> Float32Array:
    groups = core.GroupFormat(bits, 32, core.ScaleType.TWO_LEVEL, core.Offset.MINIMUM)
    values = np.empty_like(weight)
    core.packed_values(isa, core.PanelFormat(core.Encoding.GROUPS, groups), weight, values, importance)
    return values


def unusual(columns: int = 600) -> Float32Array:
    """Rows of zeros, of one value, of positive ones, of one outlier, of tiny and of large values."""
    weight = np.random.default_rng(0).standard_normal((130, columns)).astype(np.float32)
    weight[3], weight[4], weight[5] = 0, 0.3, -0.2
    weight[6] = np.abs(weight[6])
    weight[7], weight[8, 64:96] = -np.abs(weight[7]), 0
    weight[9, 100] = 1000
    weight[10] *= np.float32(1e-5)
    weight[11] *= np.float32(1e-42)
    weight[12] *= np.float32(1e5)
    weight[13] *= np.geomspace(1e-6, 1, columns, dtype=np.float32)
    return weight


@pytest.mark.parametrize("bits", [4, 5, 6, 8])
@pytest.mark.parametrize("columns", [32, 250, 256, 600])
def test_values_equal_the_definition_bit_by_bit(isa: str, bits: int, columns: int) -> None:
    weight = unusual(columns) if columns > 100 else unusual(128)[:, :columns]
    weight = np.ascontiguousarray(weight)
    assert (packed(isa, bits, weight) == two_level_weights(weight, bits)).all()


@pytest.mark.parametrize("bits", [4, 5])
def test_importance_is_weighed_as_the_definition_says(isa: str, bits: int) -> None:
    weight, importance = unusual(), np.random.default_rng(1).exponential(size=600).astype(np.float32)
    importance[:40], importance[50] = 0, 1e6
    assert (packed(isa, bits, weight, importance) == two_level_weights(weight, bits, importance)).all()


def test_what_matters_more_is_held_more_precisely(isa: str) -> None:
    weight, importance = unusual()[20:], np.ones(600, np.float32)
    importance[::8] = 100
    plain, weighed = (np.square(packed(isa, 4, weight, each) - weight) for each in (None, importance))
    assert weighed[:, ::8].mean() < 0.6 * plain[:, ::8].mean()
    assert (weighed @ importance).mean() < 0.8 * (plain @ importance).mean()


@pytest.mark.parametrize(("bits", "most"), [(4, 0.07), (5, 0.035), (6, 0.018), (8, 0.006)])
def test_error_of_normal_weights(isa: str, bits: int, most: float) -> None:
    weight = np.random.default_rng(2).standard_normal((64, 512)).astype(np.float32)
    error = packed(isa, bits, weight) - weight
    assert np.sqrt(np.square(error).mean()) < most


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_not_finite_spoils_its_row_audibly(isa: str, value: float) -> None:
    weight = unusual()[:70]
    weight[20, 300] = value
    values = packed(isa, 4, weight)
    assert np.isnan(values[20, 256:512]).all()
    others = np.arange(70) != 20
    assert (values[others] == two_level_weights(weight[others], 4)).all()


def test_importance_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="a number for each column"):
        packed("", 4, unusual(), np.ones(599, np.float32))
