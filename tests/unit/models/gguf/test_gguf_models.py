"""A GGUF file is the same model as the Hugging Face checkpoint that it was converted from: spec and tensors, bit for bit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from quire.config import DType, EngineConfig, ExecutorKind, Quantize, WeightFormat
from quire.engine.resolve import resolve
from quire.errors import CheckpointError, ConfigError, UnknownArchitectureError, UnsupportedConfigError
from quire.models.checkpoint import Checkpoint, load_checkpoint, read_spec
from quire.models.gguf import spec
from quire.models.gguf.splits import open_gguf
from quire.models.spec import RopeSpec
from quire.models.weights import SourceDType
from support.configs import CONFIGS
from support.gguf_models import ARCHITECTURES, converted, metadata_of, write_both
from support.gguf_quantized import KINDS, quantized_file
from support.gguf_writer import Stored, Typed, gguf_bytes, stored
from support.stored import stored_tensors


def _require_same(found: Checkpoint, expected: Checkpoint) -> None:
    assert replace(found.spec, family="") == replace(expected.spec, family="")
    assert found.weights.keys() == expected.weights.keys()
    for name, tensor in expected.weights.items():
        np.testing.assert_array_equal(found.weights[name].to_float32(), tensor.to_float32(), err_msg=name)


MODELS = CONFIGS | {"gemma3_text": CONFIGS["gemma3_text"] | {"query_pre_attn_scalar": 24}}  # metadata has no other


@pytest.mark.parametrize("family", MODELS)
def test_spec_and_tensors_are_those_of_the_original(tmp_path: Path, family: str) -> None:
    path = write_both(tmp_path, family, MODELS[family], stored_tensors(family))
    found = load_checkpoint(path)
    _require_same(found, load_checkpoint(tmp_path / "hub"))
    assert read_spec(path) == found.spec
    assert found.weights.dtype is SourceDType.FLOAT32


def test_biases_of_llama_follow_their_rows(tmp_path: Path) -> None:
    tensors = stored_tensors("llama")
    for layer in range(4):
        for part, size in {"q": 56, "k": 8, "v": 8, "o": 56}.items():
            tensors[f"layers.{layer}.self_attn.{part}_proj.bias"] = np.arange(size, dtype=np.float32) + layer
    path = write_both(tmp_path, "llama", CONFIGS["llama"] | {"attention_bias": True}, tensors)
    _require_same(load_checkpoint(path), load_checkpoint(tmp_path / "hub"))


def test_partly_rotated_heads_of_phi3(tmp_path: Path) -> None:
    scaling = {"type": "longrope", "short_factor": [1.0] * 9, "long_factor": [1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 20.0]}
    config = CONFIGS["phi3"] | {"partial_rotary_factor": 0.75, "rope_scaling": scaling}
    path = write_both(tmp_path, "phi3", config, stored_tensors("phi3"))
    _require_same(load_checkpoint(path), load_checkpoint(tmp_path / "hub"))


@pytest.mark.parametrize(("num_layers", "width"), [(62, 4), (26, 24)])
def test_the_largest_gemma_scales_queries_by_another_width(tmp_path: Path, num_layers: int, width: int) -> None:
    fields = metadata_of("gemma3_text", CONFIGS["gemma3_text"]) | {"gemma3.block_count": num_layers}
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_bytes(fields, {"token_embd.weight": stored(np.ones((251, 56)))}))
    config = spec.config_of(open_gguf(path))
    assert spec.spec_of(path.name, config).attention_scale == width**-0.5


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3"])
@pytest.mark.parametrize("kind", ["F16", "BF16"])
def test_narrow_floats_keep_their_format(tmp_path: Path, family: str, kind: str) -> None:
    tensors = {name: np.round(values).astype(np.float16).astype(np.float32) for name, values in stored_tensors(family).items()}
    path = write_both(tmp_path, family, CONFIGS[family], tensors, lambda _, values: stored(values, kind))
    found = load_checkpoint(path).weights
    assert {tensor.dtype for tensor in found.values()} == {SourceDType(kind)}
    expected = load_checkpoint(tmp_path / "hub").weights
    for name, tensor in found.items():
        values = (
            expected[name].to_float32() if kind == "F16" else (expected[name].to_bfloat16().astype(np.uint32) << 16).view("<f4")
        )
        np.testing.assert_array_equal(tensor.to_float32(), values.reshape(tensor.shape), err_msg=name)
        np.testing.assert_array_equal(tensor.to_bfloat16(), expected[name].to_bfloat16(), err_msg=name)


# -- quantized -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_quantized_tensors_are_what_the_gguf_package_makes_of_them(tmp_path: Path, kind: str) -> None:
    path = quantized_file(tmp_path, kind)
    weights = load_checkpoint(path).weights
    assert weights.dtype is SourceDType.QUANTIZED
    names = {
        "embed": "token_embd",
        "layers.0.attn.v": "blk.0.attn_v",
        "layers.0.ffn.down": "blk.0.ffn_down",
        "layers.0.attn.q": "blk.0.attn_q",
    }
    read = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    for ours, theirs in names.items():
        tensor = read[f"{theirs}.weight"]
        expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        if theirs.endswith("attn_q"):
            expected = expected.reshape(4, 32, 2, 256).swapaxes(1, 2).reshape(256, 256)
        found = weights[f"{ours}.weight"]
        assert found.shape == expected.shape
        np.testing.assert_array_equal(found.to_float32().view(np.uint32), expected.view(np.uint32))
        np.testing.assert_array_equal(found.to_packable(), expected)
        rounded = (found.to_bfloat16().astype(np.uint32) << 16).view(np.float32)
        np.testing.assert_allclose(rounded, expected, rtol=2**-8)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, WeightFormat.STORED),
        ({"executor": ExecutorKind.REFERENCE}, WeightFormat.STORED),
        ({"executor": ExecutorKind.TORCH}, WeightFormat.BFLOAT16),
        ({"dtype": DType.FLOAT32}, WeightFormat.FLOAT32),
        ({"dtype": DType.BFLOAT16}, WeightFormat.BFLOAT16),
        ({"quantize": Quantize.INT4}, WeightFormat.INT4),
    ],
)
def test_quantized_weights_are_held_as_they_are_stored_unless_asked(
    tmp_path: Path, options: dict[str, Any], expected: WeightFormat
) -> None:
    checkpoint = load_checkpoint(quantized_file(tmp_path, "Q4_0"))
    found = resolve(EngineConfig(**options), checkpoint.spec, checkpoint.weights)
    assert found.weight_format is expected
    assert found.dtype is (options.get("dtype") or DType.BFLOAT16)
    plain = load_checkpoint(write(tmp_path))
    resolved = resolve(EngineConfig(), plain.spec, plain.weights)
    assert (resolved.dtype, resolved.weight_format) == (DType.FLOAT32, WeightFormat.FLOAT32)


# -- refusals ------------------------------------------------------------------------


def write(tmp_path: Path, family: str = "llama", change: dict[str, Any] | None = None, **tensors: Stored | None) -> Path:
    """Writes a small model with some metadata changed (None removes a field) and tensors added or removed."""
    fields = metadata_of(family, CONFIGS[family]) | (change or {})
    stored_ones: dict[str, Stored | None] = {**converted(family, CONFIGS[family], stored_tensors(family)), **tensors}
    path = tmp_path / "m.gguf"
    path.write_bytes(
        gguf_bytes(
            {name: value for name, value in fields.items() if value is not None},
            {name: tensor for name, tensor in stored_ones.items() if tensor is not None},
        )
    )
    return path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"general.architecture": "mamba"}, "mamba"),
        ({"general.architecture": None}, "general.architecture"),
        ({"general.type": "adapter"}, "general.type"),
        ({"llama.block_count": None}, "llama.block_count is missing"),
        ({"llama.block_count": 2**31}, "llama.block_count"),
        ({"llama.block_count": "four"}, "llama.block_count"),
        ({"llama.block_count": Typed(11, -1)}, "llama.block_count"),
        ({"llama.attention.head_count": 13, "llama.attention.key_length": None}, "head_count does not divide"),
        ({"llama.attention.head_count_kv": 3}, "do not divide the query heads"),
        ({"llama.attention.value_length": 8}, "value_length"),
        ({"llama.attention.head_count": [14, 14, 7, 14]}, "differs from layer to layer"),
        ({"llama.attention.layer_norm_rms_epsilon": float("nan")}, "layer_norm_rms_epsilon"),
        ({"llama.expert_count": 8}, "expert_count"),
        ({"llama.attention.causal": False}, "attention.causal"),
        ({"llama.logit_scale": 0.5}, "logit_scale"),
        ({"llama.rope.dimension_count": 2}, "rope.dimension_count"),
        ({"llama.rope.scaling.type": "dynamic"}, "rope.scaling.type"),
        ({"llama.rope.scaling.type": "yarn"}, "rope.scaling.factor"),
        ({"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 1e-30}, "rope.scaling.factor"),
        ({"llama.rope.scaling.factor": 1e-30}, "rope.scaling.factor"),
        ({"llama.rope.freq_base": 1e30}, "rope.freq_base"),
        ({"llama.rope.freq_base": 0.5}, "rope_theta must be above 1"),
        ({"llama.vocab_size": 252}, "vocab_size"),
    ],
)
def test_a_field_that_cannot_be_honored_is_refused_by_name(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises((UnsupportedConfigError, UnknownArchitectureError), match=words):
        load_checkpoint(write(tmp_path, change=change))


def test_one_error_names_all_tensors_that_do_not_fit(tmp_path: Path) -> None:
    odd = {"blk.0.attn_v.weight": None, "blk.9.attn_v.weight": stored(np.ones((2, 2))), "output_norm.weight": stored(np.ones(3))}
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(write(tmp_path, **odd))
    for words in ("missing: blk.0.attn_v.weight", "surplus: blk.9.attn_v.weight", "output_norm.weight is [3] instead of [56]"):
        assert words in str(caught.value)


def test_a_kind_that_is_not_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"blk.0.attn_v.weight is in a kind .* IQ2_XS"):
        load_checkpoint(write(tmp_path, **{"blk.0.attn_v.weight": Stored(kind=17, shape=(8, 256), content=bytes(8 * 74))}))


def test_a_longer_context_than_the_models_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    assert load_checkpoint(path, max_context=100).spec.max_context == 100
    assert load_checkpoint(path, max_context=100).model_context == 512
    with pytest.raises(ConfigError, match="512"):
        load_checkpoint(path, max_context=513)


# -- rotation and heads --------------------------------------------------------------


@pytest.mark.parametrize(
    "scaling",
    [{"rope_type": "linear", "factor": 4.0}, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}],
)
def test_length_scaling_is_that_of_the_original(tmp_path: Path, scaling: dict[str, Any]) -> None:
    config = CONFIGS["qwen2"] | {"rope_scaling": scaling}
    path = write_both(tmp_path, "qwen2", config, stored_tensors("qwen2"))
    fields = metadata_of("qwen2", config) | {
        "qwen2.rope.scaling.type": scaling["rope_type"],
        "qwen2.rope.scaling.factor": scaling["factor"],
    }
    fields |= {"qwen2.rope.scaling.original_context_length": 128} if scaling["rope_type"] == "yarn" else {}
    path.write_bytes(gguf_bytes(fields, converted("qwen2", config, stored_tensors("qwen2"))))
    _require_same(load_checkpoint(path), load_checkpoint(tmp_path / "hub"))


def _rope(tmp_path: Path, change: dict[str, Any], **tensors: Stored) -> RopeSpec:
    """Returns the rotation of a small llama with some metadata and tensors added."""
    found = read_spec(write(tmp_path, change=change, **tensors)).layers[0].rope
    assert found is not None
    return found


def test_a_factor_without_a_type_scales_linearly(tmp_path: Path) -> None:
    bare = _rope(tmp_path, {"llama.rope.scaling.factor": 4.0})
    assert bare == _rope(tmp_path, {"llama.rope.scaling.factor": 4.0, "llama.rope.scaling.type": "linear"})
    assert bare != _rope(tmp_path, {})


def test_a_factor_of_no_scaling_is_ignored_aloud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain = _rope(tmp_path, {"llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 1.0})
    assert not caplog.records
    assert _rope(tmp_path, {"llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 4.0}) == plain
    assert "llama.rope.scaling.factor is ignored" in caplog.text


def test_a_remark_about_the_metadata_is_made_once_whatever_context_is_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path, change={"llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 4.0})
    assert load_checkpoint(path, max_context=8).spec.max_context == 8
    assert caplog.text.count("is ignored") == 1


def test_divisors_and_a_factor_are_not_applied_together(tmp_path: Path) -> None:
    divisors = {"rope_freqs.weight": stored(np.full(2, 2.0))}
    assert _rope(tmp_path, {"llama.rope.scaling.factor": 1.0}, **divisors) == _rope(tmp_path, {}, **divisors)
    for scaling_type in (None, "longrope"):
        with pytest.raises(UnsupportedConfigError, match=r"rope\.scaling\.factor"):
            _rope(tmp_path, {"llama.rope.scaling.factor": 4.0, "llama.rope.scaling.type": scaling_type}, **divisors)


def test_llama3_scaling_is_a_tensor_of_divisors(tmp_path: Path) -> None:
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    config = CONFIGS["llama"] | {"head_dim": 24, "rope_scaling": scaling}
    plain = CONFIGS["llama"] | {"head_dim": 24}
    hub = tmp_path / "hub"
    hub.mkdir()
    frequencies = []
    for each in (config, plain):
        (hub / "config.json").write_text(json.dumps(each))
        rope = read_spec(hub).layers[0].rope
        assert rope is not None
        frequencies.append(np.array(rope.inv_freq))
    path = tmp_path / "m.gguf"
    fields = metadata_of("llama", plain)
    tensors = {"token_embd.weight": stored(np.ones((251, 56))), "rope_freqs.weight": stored(frequencies[1] / frequencies[0])}
    path.write_bytes(gguf_bytes(fields, tensors))
    rope = spec.spec_of(path.name, spec.config_of(open_gguf(path))).layers[0].rope
    assert rope is not None
    assert rope.attention_factor == 1.0
    np.testing.assert_allclose(rope.inv_freq, frequencies[0], rtol=3e-7)


def test_a_separate_head_is_read(tmp_path: Path) -> None:
    head = np.arange(251 * 56, dtype=np.float32).reshape(251, 56)
    checkpoint = load_checkpoint(write(tmp_path, "qwen2", **{"output.weight": stored(head)}))
    assert not checkpoint.spec.is_head_tied
    np.testing.assert_array_equal(checkpoint.weights["head.weight"].to_float32(), head)


def test_every_architecture_that_is_read_has_a_case() -> None:
    assert set(spec.ARCHITECTURES) == set(ARCHITECTURES.values())
