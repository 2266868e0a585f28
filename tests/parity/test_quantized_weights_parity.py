"""Quantized weights are widened to the bits that the dequantizers of transformers give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers.integrations.finegrained_fp8 import Fp8Dequantize
from transformers.integrations.metal_quantization import _affine_dequantize_tensor
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from quire.models.config_file import Config
from quire.models.quantized import read_quantization
from quire.models.quantized.stored import PackedView, StoredTensors
from quire.models.safetensors_file import open_safetensors
from support.quantized import Arrays, as_stored, random_scales, stream
from support.quantized_methods import BY_NAME
from support.safetensors_writer import Typed, safetensors_bytes


def bits_of(directory: Path, parts: Arrays, **fields: object) -> np.ndarray:
    """Returns bfloat16 bits or float32 values of the one weight that the parts make."""
    path = directory / "model.safetensors"
    path.write_bytes(safetensors_bytes({f"m.{leaf}": part for leaf, part in parts.items()}))
    file = open_safetensors(path)
    quantization = read_quantization(Config(fields))
    assert quantization is not None
    stored = StoredTensors(dict.fromkeys(file.entries, file))
    (weight,) = quantization.find(stored)
    return PackedView({weight.name: weight}, stored).read(weight.name).to_packable()


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32"])
def test_mlx(tmp_path: Path, bits: int, dtype: str) -> None:
    rng = np.random.default_rng(bits)
    words = stream(rng.integers(0, 1 << bits, (24, 128)), bits)
    scales, biases = (random_scales(rng, (24, 2), dtype) for _ in range(2))
    theirs = _affine_dequantize_tensor(torch.from_numpy(words.view(np.int32)), scales, biases, 64, bits).to(scales.dtype)
    parts = {"weight": words, "scales": as_stored(scales), "biases": as_stored(biases)}
    found = bits_of(tmp_path, parts, quantization={"bits": bits, "group_size": 64})
    expected = as_stored(theirs if dtype == "BF16" else theirs.to(torch.float32))
    np.testing.assert_array_equal(found.view(np.uint8), expected.view(np.uint8))


@pytest.mark.parametrize(("word", "dtype"), [("F8_E4M3", torch.float8_e4m3fn), ("F8_E5M2", torch.float8_e5m2)])
@pytest.mark.parametrize("shape", [(2, 4), (1, 1)])
def test_fp8_for_every_code(tmp_path: Path, word: str, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    codes = np.arange(256, dtype=np.uint8).repeat(16).reshape(64, 64)
    scales = random_scales(rng, shape, "F32")
    theirs = Fp8Dequantize(None)._dequantize_one(torch.from_numpy(codes).view(dtype), scales, torch.bfloat16)
    block = [32, 16] if shape == (2, 4) else None
    parts = {"weight": Typed.of(codes, word), "weight_scale_inv": as_stored(scales)}
    found = bits_of(tmp_path, parts, quantization_config={"quant_method": "fp8", "weight_block_size": block})
    expected = as_stored(theirs)
    is_nan = np.isnan(theirs.float().numpy())
    np.testing.assert_array_equal(found[~is_nan], expected[~is_nan])
    assert np.isnan((found[is_nan].astype(np.uint32) << 16).view(np.float32)).all()


def test_mxfp4_for_every_code_and_exponent(tmp_path: Path) -> None:
    codes = np.tile(np.arange(16, dtype=np.uint8), (256, 2))
    packed = codes[:, 0::2] | (codes[:, 1::2] << 4)
    scales = np.arange(256, dtype=np.uint8)[:, None]
    theirs = convert_moe_packed_tensors(torch.from_numpy(packed.reshape(1, 256, 1, 16)), torch.from_numpy(scales[None]))[0].T
    config = BY_NAME["quark"].config
    found = bits_of(tmp_path, {"weight": packed, "weight_scale": scales}, quantization_config=config)
    expected = as_stored(theirs)
    assert found.shape == expected.shape == (256, 32)
    is_nan = np.isnan(theirs.float().numpy())
    np.testing.assert_array_equal(found[~is_nan], expected[~is_nan])
    assert np.isnan((found[is_nan].astype(np.uint32) << 16).view(np.float32)).all()


@pytest.mark.parametrize("word", ["U8", "F8_E8M0"])
def test_fp8_with_powers_of_two_as_scales(tmp_path: Path, word: str) -> None:
    codes = np.arange(128, dtype=np.uint8).reshape(1, 128).repeat(256, 0)
    scales = np.arange(256, dtype=np.uint8).reshape(256, 1)
    theirs_scales = torch.from_numpy(scales) if word == "U8" else torch.from_numpy(scales).view(torch.float8_e8m0fnu)
    theirs = Fp8Dequantize(None)._dequantize_one(torch.from_numpy(codes).view(torch.float8_e4m3fn), theirs_scales, torch.bfloat16)
    parts = {"weight": Typed.of(codes, "F8_E4M3"), "weight_scale_inv": Typed.of(scales, word)}
    found = bits_of(tmp_path, parts, quantization_config={"quant_method": "fp8"})
    is_nan = np.isnan(theirs.float().numpy())
    np.testing.assert_array_equal(found[~is_nan], as_stored(theirs)[~is_nan])
    assert np.isnan((found[is_nan].astype(np.uint32) << 16).view(np.float32)).all()
