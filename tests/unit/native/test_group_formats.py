"""Products and values of every group format, on every instruction set of this machine, against their definition in NumPy."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from quire.arrays import Float32Array
from quire.executors.native import available_isas
from support.core_world import SPEC, decoder_of
from support.group_weights import GroupWeights, Kind, product, quantized_activations
from support.weights import random_weights

core: Any = pytest.importorskip("quire.native._core", reason="the native core is not compiled here")

ONE_LEVEL = [
    Kind(bits=bits, group=group, scales=scales, offset=offset)
    for bits, group, scales, offset in itertools.product(
        (4, 5, 6, 8), (32, 64, 128), ("F16", "BF16"), ("CENTER", "ZERO_POINT", "MINIMUM")
    )
]
TWO_LEVEL = [
    *[Kind(bits=bits, group=32, scales="TWO_LEVEL", offset=offset) for bits in (4, 5, 6, 8) for offset in ("CENTER", "MINIMUM")],
    *[Kind(bits=bits, group=16, scales="TWO_LEVEL", offset="CENTER") for bits in (4, 6)],
]
KINDS = ONE_LEVEL + TWO_LEVEL
TYPICAL = [kind for kind in KINDS if kind.scales == "TWO_LEVEL" or (kind.group, kind.scales) == (32, "F16")]


@pytest.fixture(params=available_isas())
def isa(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def group_matrix(isa: str, kinds: list[Kind], panels: list[GroupWeights]) -> Any:
    """Returns the core's matrix of these panels of 64 columns."""
    formats = [core.GroupFormat(kind.bits, kind.group, core.ScaleType[kind.scales], core.Offset[kind.offset]) for kind in kinds]
    matrix = core.GroupMatrix(isa, formats, panels[0].k)
    for index, panel in enumerate(panels):
        for section in range(panel.num_sections):
            matrix.set_section(index, section, *panel.section(section))
    return matrix


def multiplied(matrix: Any, a: Float32Array, columns: int = 64) -> Float32Array:
    out = np.empty((len(a), columns), np.float32)
    matrix.multiply(np.ascontiguousarray(a), out)
    return out


def values_of(matrix: Any, rows: int, k: int) -> Float32Array:
    out = np.empty((rows, k), np.float32)
    matrix.values(out)
    return out


def random_rows(rows: int, k: int, seed: int = 1) -> Float32Array:
    return np.random.default_rng(seed).standard_normal((rows, k), dtype=np.float32)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_code_has_exactly_its_value(isa: str, kind: Kind) -> None:
    """All codes appear in every column, and all 65,536 float16 scales among the columns of two-level formats' d's."""
    weights = GroupWeights.random(kind, k=512, seed=3)
    assert set(np.unique(weights.codes)) == set(range(1 << kind.bits))
    assert values_of(group_matrix(isa, [kind], [weights]), 64, 512).tobytes() == weights.values().tobytes()


def test_a_decoder_shows_the_rows_that_it_multiplies_with() -> None:
    """Of matrices that share their panels with others too."""
    decoder, weights = decoder_of(), random_weights(SPEC)
    for name in ("embed.weight", "layers.0.attn.k.weight", "layers.1.ffn.gate.weight", "layers.1.ffn.down.weight"):
        expected = weights[name].to_float32()
        assert decoder.dequantized(name, 1, len(expected) - 1).tobytes() == expected[1:].tobytes()
        for first, count in ((0, 0), (-1, 1), (0, len(expected) + 1), (len(expected), 1), (2**62, 2**62)):
            with pytest.raises(ValueError, match="no such rows"):
                decoder.dequantized(name, first, count)
    with pytest.raises(ValueError, match="never set"):
        decoder_of(without="embed.weight").dequantized("embed.weight", 0, 1)
    with pytest.raises(ValueError, match="no matrix"):
        decoder.dequantized("final_norm.weight", 0, 1)


def test_every_float16_is_widened_exactly(isa: str) -> None:
    """Subnormal scales too: the values of one code, 1 above the center."""
    kind = Kind(bits=4, group=32, scales="F16", offset="CENTER")
    finite = np.arange(65536, dtype=np.uint16).reshape(-1, 64, 32)
    for block in finite:
        weights = GroupWeights.random(kind, k=32 * 32, seed=0)
        weights.codes[:] = 9
        weights.scales[:] = block
        matrix = group_matrix(isa, [kind], [weights])
        expected = np.repeat(block.view(np.float16).astype(np.float32), 32, axis=1)
        np.testing.assert_array_equal(values_of(matrix, 64, 1024), expected)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_products_are_those_of_the_definition(isa: str, kind: Kind) -> None:
    """Sums of a group are exact; the definition adds groups in the same order, with one rounding per step where there is FMA."""
    for k in (32, 96, 300, 544):
        weights, a = GroupWeights.random(kind, k=k, seed=k), random_rows(5, k)
        got = multiplied(group_matrix(isa, [kind], [weights]), a)
        expected = product(weights, quantized_activations(a), is_fused=isa != "generic")
        assert got.tobytes() == expected.tobytes()


@pytest.mark.parametrize("kind", TYPICAL, ids=str)
def test_a_row_does_not_depend_on_the_rows_beside_it(isa: str, kind: Kind) -> None:
    weights, a = GroupWeights.random(kind, k=512, seed=5), random_rows(40, 512)
    matrix = group_matrix(isa, [kind], [weights])
    together = multiplied(matrix, a)
    for rows in range(1, 40):
        pieces = [multiplied(matrix, a[start : start + rows]) for start in range(0, 40, rows)]
        assert np.concatenate(pieces).tobytes() == together.tobytes()


@pytest.mark.parametrize("kind", TYPICAL, ids=str)
def test_prefetch_changes_no_bit(isa: str, kind: Kind) -> None:
    weights, a = GroupWeights.random(kind, k=300, seed=6), random_rows(3, 300)
    matrix, products = group_matrix(isa, [kind], [weights]), set()
    for prefetch in core.Prefetch:
        out = np.empty((3, 64), np.float32)
        matrix.multiply(a, out, prefetch)
        products.add(out.tobytes())
    assert len(products) == 1


def test_panels_of_one_matrix_may_differ(isa: str) -> None:
    panels = [GroupWeights.random(kind, k=300, seed=index) for index, kind in enumerate(TYPICAL)]
    a, num_columns = random_rows(9, 300), 64 * len(panels) - 17
    together = multiplied(group_matrix(isa, TYPICAL, panels), a, num_columns)
    alone = [multiplied(group_matrix(isa, [kind], [panel]), a) for kind, panel in zip(TYPICAL, panels, strict=True)]
    assert together.tobytes() == np.concatenate(alone, axis=1)[:, :num_columns].tobytes()


@pytest.mark.parametrize("kind", TYPICAL, ids=str)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_infinity_and_nan_stay_in_their_own_row(isa: str, kind: Kind, value: float) -> None:
    weights, a = GroupWeights.random(kind, k=300, seed=2), random_rows(20, 300)
    matrix = group_matrix(isa, [kind], [weights])
    clean = multiplied(matrix, a)
    a[3, 5] = value
    spoiled = multiplied(matrix, a)
    assert not np.isfinite(spoiled[3]).any()
    assert np.delete(spoiled, 3, axis=0).tobytes() == np.delete(clean, 3, axis=0).tobytes()


@pytest.mark.parametrize("kind", TYPICAL, ids=str)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_sums_do_not_wrap_around(isa: str, kind: Kind, sign: int) -> None:
    weights = GroupWeights.random(kind, k=512, seed=4)
    a = np.full((9, 512), sign * 127, np.float32)
    for code in (0, (1 << kind.bits) - 1):
        weights.codes[:] = code
        got = multiplied(group_matrix(isa, [kind], [weights]), a)
        assert got.tobytes() == product(weights, quantized_activations(a), is_fused=isa != "generic").tobytes()


@pytest.mark.parametrize(
    "arguments",
    [(3,), (7,), (16,), (4, 16), (4, 48), (4, 256), (8, 16, "TWO_LEVEL"), (5, 16, "TWO_LEVEL"), (4, 64, "TWO_LEVEL")],
    ids=str,
)
def test_formats_without_a_kernel_are_refused(arguments: tuple[Any, ...]) -> None:
    values = [core.ScaleType[each] if isinstance(each, str) else each for each in arguments]
    with pytest.raises(ValueError, match="group format"):
        core.GroupFormat(*values)


def test_parts_that_do_not_fit_are_refused() -> None:
    matrix = core.GroupMatrix("", [core.GroupFormat(4)], 40)
    codes, halves = np.zeros((64, 32), np.uint8), np.zeros(64, np.uint16)
    good: list[npt.NDArray[Any]] = [codes, halves, halves, codes[0], codes.view(np.int8)[:0], codes[:0]]
    matrix.set_section(0, 1, *good)
    for place, wrong in [(0, codes[:63].copy()), (0, np.zeros((64, 64), np.uint8)), (1, np.zeros(65, np.uint16))]:
        with pytest.raises(ValueError, match=r"codes|scales"):
            matrix.set_section(0, 1, *good[:place], wrong, *good[place + 1 :])
    for panel, section in ((1, 0), (-1, 0), (0, 2), (0, -1)):
        with pytest.raises(ValueError, match="no such"):
            matrix.set_section(panel, section, *good)
