"""Raw bits to numbers: exact where the target is wide enough, nearest even where it is not, always contiguous."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from quire.models.weights import SourceDType, SourceTensor, Weights, round_to_bfloat16

STORAGE = {SourceDType.FLOAT32: np.float32, SourceDType.FLOAT16: np.float16, SourceDType.BFLOAT16: np.uint16}
ALL_BFLOAT16 = np.arange(2**16, dtype=np.uint16)


def _widen(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


@pytest.mark.parametrize("dtype", STORAGE)
@pytest.mark.parametrize("view", ["plain", "transposed", "rows", "transposed rows"])
def test_values_come_out_contiguous_and_in_order(dtype: SourceDType, view: str) -> None:
    stored = np.arange(35, dtype=STORAGE[dtype]).reshape(5, 7)
    bits = stored.T if "transposed" in view else stored
    bits = bits[1:4] if "rows" in view else bits
    tensor = SourceTensor(dtype=dtype, bits=bits)
    expected = np.array([[_widen(x) if dtype is SourceDType.BFLOAT16 else np.float32(x) for x in row] for row in bits])
    for values, again in ((tensor.to_float32(), expected), (_widen(tensor.to_bfloat16()), expected)):
        np.testing.assert_array_equal(values, again)
    assert tensor.to_float32().flags.c_contiguous
    assert tensor.to_bfloat16().flags.c_contiguous
    assert tensor.shape == bits.shape


def test_every_bfloat16_survives_the_way_through_float32() -> None:
    values = SourceTensor(dtype=SourceDType.BFLOAT16, bits=ALL_BFLOAT16).to_float32()
    is_number = ~np.isnan(values)
    np.testing.assert_array_equal(round_to_bfloat16(values)[is_number], ALL_BFLOAT16[is_number])
    assert np.isnan(_widen(round_to_bfloat16(values[~is_number]))).all()


@given(bits=npst.arrays(np.uint32, st.integers(1, 20)))
def test_rounding_takes_the_nearest_bfloat16_and_the_even_one_of_two(bits: np.ndarray) -> None:
    for value, rounded in zip(bits.view(np.float32), round_to_bfloat16(bits.view(np.float32)), strict=True):
        if np.isnan(value):
            assert np.isnan(_widen(rounded))
            continue
        below = np.uint16(value.view(np.uint32) >> 16)  # toward zero
        remainder = int(value.view(np.uint32) & 0xFFFF)
        is_up = remainder > 0x8000 or (remainder == 0x8000 and below % 2 == 1)
        assert rounded == below + is_up


def test_float16_rounds_once() -> None:
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)]
    tensor = SourceTensor(dtype=SourceDType.FLOAT16, bits=halves)
    np.testing.assert_array_equal(tensor.to_bfloat16(), round_to_bfloat16(halves.astype(np.float32)))


def test_the_largest_tensor_decides_the_format_of_the_weights() -> None:
    norm = SourceTensor(dtype=SourceDType.FLOAT32, bits=np.ones(4, np.float32))
    matrix = SourceTensor(dtype=SourceDType.BFLOAT16, bits=np.ones((4, 4), np.uint16))
    weights = Weights({"norm": norm, "matrix": matrix}, fingerprint=bytes(32))
    assert weights.dtype is SourceDType.BFLOAT16
    assert list(weights) == ["norm", "matrix"]
