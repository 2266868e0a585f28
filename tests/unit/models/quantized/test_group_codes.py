"""Codes, scales and offsets of every method: they stand for the method's own values, before these are rounded to 16 bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.models.checkpoint import load_checkpoint
from quire.models.group_format import GroupCodes, GroupFormat, Offset, ScaleType, values_of
from quire.models.quantized import stored
from quire.models.quantized.arithmetic import Grid, Scaling
from quire.models.quantized.rows import IntegerRows
from quire.models.quantized.stored import PackedTensor
from quire.models.weights import SourceDType
from support.quantized import Method
from support.quantized_checkpoint import write_pair
from support.quantized_methods import METHODS

_HALF, _BRAIN = ScaleType.FLOAT16, ScaleType.BFLOAT16
_CENTER, _ZERO, _MINIMUM = Offset.CENTER, Offset.ZERO_POINT, Offset.MINIMUM
FORMATS: dict[str, GroupFormat | None] = {
    "gptq-2": GroupFormat(4, 32, _HALF, _ZERO),
    "gptq-3": GroupFormat(4, 32, _HALF, _ZERO),
    "gptq-4": GroupFormat(4, 32, _HALF, _ZERO),
    "gptq-8": GroupFormat(8, 32, _HALF, _ZERO),
    "gptq-sorted": None,
    "gptq-one-group": GroupFormat(4, 128, _HALF, _ZERO),
    "gptq-uneven-group": None,
    "gptq-bfloat16": GroupFormat(4, 32, _BRAIN, _ZERO),
    "gptq-v2": GroupFormat(4, 32, _HALF, _ZERO),
    "gptq-v2-3": GroupFormat(4, 32, _HALF, _ZERO),
    "auto-round-gptq": GroupFormat(4, 32, _HALF, _ZERO),
    "auto-round-plain-zeros": GroupFormat(4, 32, _HALF, _ZERO),
    "auto-round-awq": GroupFormat(4, 32, _HALF, _ZERO),
    "awq": GroupFormat(4, 32, _HALF, _ZERO),
    "awq-one-group": GroupFormat(4, 128, _HALF, _ZERO),
    "w4a16": GroupFormat(4, 32, _BRAIN, _CENTER),
    "w4a16-float16": GroupFormat(4, 32, _HALF, _CENTER),
    "w4a16-float32": None,
    "w4a16-zeros": None,
    "w4a16-sorted": None,
    "w2a16": GroupFormat(4, 32, _BRAIN, _CENTER),
    "w8a16": GroupFormat(8, 128, _BRAIN, _CENTER),
    "w8a16-zeros": GroupFormat(8, 128, _BRAIN, _ZERO),
    "int-quantized": GroupFormat(8, 128, _BRAIN, _CENTER),
    "int-quantized-zeros": GroupFormat(8, 128, _BRAIN, _ZERO),
    "naive-quantized-groups": None,
    "float-quantized": None,
    "float-quantized-tensor": None,
    "mxfp4-pack-quantized": GroupFormat(5, 32, _BRAIN, _CENTER),
    "fp8-blocks": None,
    "fp8-narrow-last-blocks": None,
    "fp8-e5m2": None,
    "fp8-bfloat16-scales": None,
    "fp8-tensor": None,
    "fp8-channel": None,
    "fp8-float16-model": None,
    "modelopt": None,
    "quark": GroupFormat(5, 32, _BRAIN, _CENTER),
    **{f"mlx-{bits}": GroupFormat(max(4, bits), 32, _BRAIN if bits == 4 else _HALF, _MINIMUM) for bits in (2, 3, 4, 5, 6, 8)},
}


def packed_tensor(directory: Path, method: Method, name: str = "layers.1.ffn.down.weight") -> PackedTensor:
    quantized, _ = write_pair(directory, method)
    tensor = load_checkpoint(quantized).weights[name]
    assert isinstance(tensor, PackedTensor)
    return tensor


def held(tensor: PackedTensor) -> np.ndarray:
    """Returns the values that the codes of a tensor stand for."""
    group_format, groups = tensor.group_format, tensor.to_groups()
    assert group_format is not None
    assert groups is not None
    num_groups = -(-tensor.shape[1] // group_format.group)
    assert groups.scales.shape == (tensor.shape[0], num_groups)
    assert groups.codes.max() < 1 << group_format.bits
    return values_of(groups, group_format)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_codes_stand_for_the_values_of_the_method(tmp_path: Path, method: Method) -> None:
    tensor = packed_tensor(tmp_path, method)
    assert tensor.group_format == FORMATS[method.name]
    if tensor.group_format is None:
        assert tensor.to_groups() is None
        return
    np.testing.assert_array_equal(held(tensor), tensor.weight.open().values(0, tensor.shape[0]))


@pytest.mark.parametrize(
    ("columns", "group"), [(32, 32), (64, 64), (96, 32), (128, 128), (192, 64), (256, 128), (576, 128), (800, 128), (48, None)]
)
@pytest.mark.parametrize("rows_per_block", [1, 3])
def test_groups_are_as_wide_as_the_core_has_them(columns: int, group: int | None, rows_per_block: int) -> None:
    """The last block may be narrower, and rows may share scales."""
    rng = np.random.default_rng(columns)
    grid = Grid(rows=rows_per_block, columns=columns)
    shape = grid.shape_for((7, 576))
    scales = rng.normal(size=shape).astype(np.float16).astype(np.float32)
    codes = rng.integers(0, 16, (7, 576), dtype=np.uint8)
    rows = IntegerRows(
        read=lambda start, stop: codes[start:stop],
        scaling=Scaling(grid=grid, scales=scales, zeros=rng.integers(0, 16, shape, dtype=np.uint8)),
        bits=4,
        num_columns=576,
        dtype=SourceDType.FLOAT16,
    )
    found = rows.group_format()
    assert (found and found.group) == group
    if found is not None:
        np.testing.assert_array_equal(values_of(rows.groups(found, 2, 6), found), rows.values(2, 6))


def test_equal_zero_points_are_a_center_where_codes_have_room(tmp_path: Path) -> None:
    (method,) = (each for each in METHODS if each.name == "gptq-4")

    def with_zero(zero: int) -> Any:
        def pack(rng: np.random.Generator, num_out: int, num_in: int) -> Any:
            packed = method.pack(rng, num_out, num_in)
            packed.parts["qzeros"][:] = np.uint32((zero - 1) * 0x11111111).view(np.int32)
            return packed

        return pack

    for zero, offset in ((8, Offset.CENTER), (7, Offset.ZERO_POINT)):
        tensor = packed_tensor(tmp_path, Method(name=f"zero-{zero}", config=method.config, pack=with_zero(zero)))
        assert tensor.group_format == GroupFormat(4, 32, _HALF, offset)
        np.testing.assert_array_equal(held(tensor), tensor.weight.open().values(0, tensor.shape[0]))


def test_rows_and_pieces_of_rows_have_the_codes_of_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (method,) = (each for each in METHODS if each.name == "awq")
    tensor = packed_tensor(tmp_path, method)
    whole = held(tensor)
    monkeypatch.setattr(stored, "_CODES_AT_ONCE", 1)
    assert tensor.rows_at_once == 32
    np.testing.assert_array_equal(held(tensor), whole)
    np.testing.assert_array_equal(held(tensor.rows(16, 50)), whole[16:50])


def test_bytes_of_rows_count_headers_of_sections_that_are_begun() -> None:
    assert GroupFormat(4, 32, _HALF, _CENTER).row_bytes(64) == 2 * (16 + 2)
    assert GroupFormat(4, 128, _BRAIN, _ZERO).row_bytes(130) == 160 // 2 + 2 * 3
    two = ScaleType.TWO_LEVEL
    assert GroupFormat(4, 32, two, _MINIMUM).row_bytes(512) == 2 * (128 + 2 + 2 + 8 + 8)
    assert GroupFormat(6, 16, two, _CENTER).row_bytes(256) == 192 + 2 + 16
    assert GroupFormat(6, 16, two, _CENTER).bits_per_weight == pytest.approx(6.5625)


def test_codes_survive_groups_without_numbers() -> None:
    """NaN and infinity in a scale are the file's, and stay in their group."""
    scales = np.array([[np.float32(np.nan), np.float32(1)]], np.float16).view(np.uint16)
    groups = GroupCodes(codes=np.full((1, 64), 9, np.uint8), scales=scales)
    values = values_of(groups, GroupFormat(4, 32, _HALF, _CENTER))
    assert np.isnan(values[:, :32]).all()
    assert (values[:, 32:] == 1).all()
