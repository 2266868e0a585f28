"""Every format's values are those of its own dequantizer, bit for bit, for every code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from quire.models.config_file import parse_config
from quire.models.quantized import read_quantization, stored
from quire.models.quantized.stored import PackedTensor, PackedView, StoredTensors
from quire.models.safetensors_file import open_safetensors
from quire.models.weights import SourceDType
from support.quantized import Method, as_stored
from support.quantized_methods import BY_NAME, METHODS
from support.safetensors_writer import Typed, safetensors_bytes

_NUM_OUT, _NUM_IN = 64, 96
_FORMATS = {torch.float32: SourceDType.FLOAT32, torch.float16: SourceDType.FLOAT16, torch.bfloat16: SourceDType.BFLOAT16}


def packed_weight(directory: Path, method: Method, parts: dict[str, np.ndarray]) -> PackedTensor:
    """Returns what Quire makes of the parts of one module."""
    path = directory / "model.safetensors"
    path.write_bytes(safetensors_bytes({f"model.layers.0.mlp.up_proj.{leaf}": part for leaf, part in parts.items()}))
    quantization = read_quantization(parse_config(json.dumps({method.section: method.config, **method.others}).encode()))
    assert quantization is not None
    file = open_safetensors(path)
    tensors = StoredTensors(dict.fromkeys(file.entries, file))
    (weight,) = quantization.find(tensors)
    assert weight.name == "model.layers.0.mlp.up_proj.weight"
    assert {part.name.rpartition(".")[2] for part in weight.parts} == set(parts)
    tensor = PackedView({weight.name: weight}, tensors).read(weight.name)
    assert isinstance(tensor, PackedTensor)
    return tensor


def assert_same_bits(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == expected.dtype
    unsigned = np.dtype(f"u{expected.itemsize}")
    np.testing.assert_array_equal(found.view(unsigned), expected.view(unsigned))


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
@pytest.mark.parametrize("seed", [0, 1])
def test_values_are_those_of_the_published_formula(tmp_path: Path, method: Method, seed: int) -> None:
    packed = method.pack(np.random.default_rng(seed), _NUM_OUT, _NUM_IN)
    found = packed_weight(tmp_path, method, packed.parts)
    assert found.shape == (_NUM_OUT, _NUM_IN)
    assert found.weight.dtype is _FORMATS[packed.values.dtype]
    assert_same_bits(found.to_float32(), packed.values.to(torch.float32).numpy())
    assert_same_bits(found.to_bfloat16(), as_stored(packed.values.to(torch.bfloat16)))
    is_bfloat16 = packed.values.dtype is torch.bfloat16
    assert_same_bits(found.to_packable(), found.to_bfloat16() if is_bfloat16 else found.to_float32())


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_pieces_and_parts_have_the_values_of_the_whole(tmp_path: Path, method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = method.pack(np.random.default_rng(2), 128, _NUM_IN)
    found, expected = packed_weight(tmp_path, method, packed.parts), packed.values.to(torch.float32).numpy()
    monkeypatch.setattr(stored, "_CODES_AT_ONCE", 1)
    assert_same_bits(found.to_float32(), expected)
    for start, stop in ((0, 128), (32, 96), (5, 90), (127, 128)):
        assert found.rows(start, stop).shape == (stop - start, _NUM_IN)
        assert_same_bits(found.rows(start, stop).to_float32(), expected[start:stop])
    assert_same_bits(found.rows(10, 100).rows(1, 80).to_float32(), expected[11:90])


@pytest.mark.parametrize("method", [method for method in METHODS if method.description], ids=lambda method: method.name)
def test_methods_describe_themselves(method: Method) -> None:
    quantization = read_quantization(parse_config(json.dumps({method.section: method.config}).encode()))
    assert quantization is not None
    assert quantization.description == method.description


@pytest.mark.parametrize("name", ["quark", "mxfp4-pack-quantized"])
@pytest.mark.parametrize("word", ["F8_E8M0", "U8"])
def test_every_power_of_two_of_mxfp4_scales_every_value(tmp_path: Path, name: str, word: str) -> None:
    method = BY_NAME[name]
    parts = method.pack(np.random.default_rng(0), 256, 32).parts
    codes = next(part for leaf, part in parts.items() if leaf != "weight_scale")
    codes[:, :8] = np.arange(0, 256, 34)
    parts["weight_scale"] = Typed.of(np.arange(256, dtype=np.uint8)[:, None], word)
    found = packed_weight(tmp_path, method, parts).to_float32()
    halves = np.stack([codes & 15, codes >> 4], axis=2).reshape(256, 32)
    values = torch.tensor((0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6))[torch.from_numpy(halves).long()]
    expected = torch.ldexp(values.to(torch.bfloat16), torch.arange(-127, 129, dtype=torch.int32)[:, None]).to(torch.float32)
    if word == "F8_E8M0":
        expected[255] = torch.nan
    assert_same_bits(found[:255], expected[:255].numpy())
    np.testing.assert_array_equal(found[255], expected[255].numpy())
