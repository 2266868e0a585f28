"""Every code of every kind, with every kind of scale, decodes to what the gguf package makes of it."""

from __future__ import annotations

from itertools import product

import gguf
import numpy as np
import pytest

from quire.models.gguf import tensors
from quire.models.gguf.kinds import KINDS, OTHER_KINDS, Kind
from quire.models.gguf.tensors import BlockTensor
from quire.models.weights import SourceDType, round_to_bfloat16

_EDGES = np.array([0.0, -0.0, 6e-8, -6e-8, 6.1e-5, 0.3, -0.7, 1.0, 65504.0, -65504.0, np.inf, -np.inf, np.nan], np.float16)
_BYTES = np.arange(256)


def all_codes(kind: Kind) -> np.ndarray:
    """Returns blocks in which every byte takes every value, for every pair of edge scales."""
    steps = 1 + 2 * np.arange(kind.block_bytes)
    pattern = (_BYTES[:, None] + steps * 37).astype(np.uint8)
    names = [name for name in kind.block.names or () if kind.block[name].kind == "f"]
    parts = []
    for scales in product(_EDGES, repeat=len(names)):
        blocks = pattern.copy().view(kind.block).reshape(-1)
        for name, scale in zip(names, scales, strict=True):
            blocks[name] = scale
        parts.append(blocks.view(np.uint8).reshape(len(blocks), -1))
    return np.concatenate(parts)


@pytest.mark.parametrize("number", KINDS)
def test_every_code_decodes_to_the_same_bits(number: int) -> None:
    kind = KINDS[number]
    blocks = all_codes(kind)
    tensor = BlockTensor(dtype=SourceDType.QUANTIZED, bits=blocks, kind=kind, num_rows=len(blocks))
    found = tensor.to_float32()
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType(number)).reshape(found.shape)
    is_nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(found), is_nan)
    np.testing.assert_array_equal(found.view(np.uint32)[~is_nan], expected.view(np.uint32)[~is_nan])


def test_kinds_have_the_numbers_and_sizes_of_ggml() -> None:
    for number in gguf.GGMLQuantizationType:
        name = KINDS[number].name if number in KINDS else OTHER_KINDS[number]
        assert name == number.name
        if number in KINDS:
            assert (KINDS[number].num_elements, KINDS[number].block_bytes) == gguf.GGML_QUANT_SIZES[number]


@pytest.mark.parametrize("bytes_at_once", [1, 500, 1 << 20])
def test_the_pieces_in_which_rows_are_decoded_do_not_matter(monkeypatch: pytest.MonkeyPatch, bytes_at_once: int) -> None:
    kind = KINDS[gguf.GGMLQuantizationType.Q4_K]
    bits = np.random.default_rng(1).integers(0, 60, (24, 2 * kind.block_bytes), dtype=np.uint8)
    whole = BlockTensor(dtype=SourceDType.QUANTIZED, bits=bits, kind=kind, num_rows=24)
    expected = whole.to_float32()
    monkeypatch.setattr(tensors, "_BYTES_AT_ONCE", bytes_at_once)
    np.testing.assert_array_equal(whole.to_float32(), expected)
    halves = BlockTensor(dtype=SourceDType.QUANTIZED, bits=bits.reshape(3, 4, 2, -1).swapaxes(1, 2), kind=kind, num_rows=24)
    ordered = expected.reshape(3, 4, 2, -1).swapaxes(1, 2).reshape(24, -1)
    np.testing.assert_array_equal(halves.to_float32(), ordered)
    np.testing.assert_array_equal(halves.to_bfloat16(), round_to_bfloat16(ordered))
