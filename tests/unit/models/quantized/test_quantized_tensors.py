"""Model directories with quantized weights: the values they hold, what is dropped, and what options of a module change."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.models.checkpoint import load_checkpoint, read_spec
from quire.models.quantized import arithmetic, gptq, mlx, stored
from quire.models.quantized.facts import describe_storage
from quire.models.weights import SourceDType
from support.configs import CONFIGS
from support.quantized import Arrays, as_stored, pack_gptq, pack_mlx
from support.quantized_checkpoint import packed_tensors, write_changed, write_model, write_pair
from support.quantized_methods import BY_NAME
from support.safetensors_writer import write_sharded

UP = "model.layers.1.mlp.up_proj"


@pytest.mark.parametrize("name", BY_NAME)
def test_weights_have_the_shapes_and_values_of_the_model(tmp_path: Path, name: str) -> None:
    quantized, plain = (load_checkpoint(directory) for directory in write_pair(tmp_path, BY_NAME[name]))
    assert quantized.spec == plain.spec
    assert {key: tensor.shape for key, tensor in quantized.weights.items()} == plain.spec.tensor_shapes()
    for key, tensor in plain.weights.items():
        np.testing.assert_array_equal(quantized.weights[key].to_float32(), tensor.to_float32())
        np.testing.assert_array_equal(quantized.weights[key].to_bfloat16(), tensor.to_bfloat16())


def test_nothing_is_widened_before_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory, _ = write_pair(tmp_path, BY_NAME["gptq-4"])
    num_calls = 0

    def counted(*arguments: Any) -> Any:
        nonlocal num_calls
        num_calls += 1
        return arithmetic.unpack_codes(*arguments)

    monkeypatch.setattr(gptq, "unpack_codes", counted)
    weights = load_checkpoint(directory).weights
    assert num_calls == 0
    assert weights.dtype is SourceDType.QUANTIZED
    weights["layers.0.attn.q.weight"].to_float32()
    assert num_calls == 2


def test_parts_may_lie_in_different_files(tmp_path: Path) -> None:
    packed, _ = packed_tensors(BY_NAME["awq"])
    whole, split = tmp_path / "whole", tmp_path / "split"
    for directory in (whole, split):
        write_model(directory, packed, quantization_config=BY_NAME["awq"].config)
    (split / "model.safetensors").unlink()
    write_sharded(split, packed, 5)
    expected = load_checkpoint(whole).weights
    for name, tensor in load_checkpoint(split).weights.items():
        np.testing.assert_array_equal(tensor.to_float32(), expected[name].to_float32())


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("gptq-4", {"checkpoint_format": "gptq"}, {"checkpoint_format": "gptq_v2"}),
        ("auto-round-gptq", {"packing_format": "auto_round:auto_gptq"}, {"packing_format": "auto_round:gptqmodel"}),
        ("fp8-blocks", {}, {"torch_dtype": "float16"}),
        ("gptq-4", {"dynamic": {"+:.*": {}, "+:.*up.*": {}}}, {"dynamic": {"+:.*up.*": {}, "+:.*": {}}}),
    ],
)
def test_files_that_are_read_in_another_way_have_another_fingerprint(
    tmp_path: Path, name: str, first: dict[str, Any], second: dict[str, Any]
) -> None:
    packed, _ = packed_tensors(BY_NAME[name])
    fingerprints = set()
    for changes in (first, second, second):
        model = {key: value for key, value in changes.items() if key == "torch_dtype"}
        config = {**BY_NAME[name].config, **{key: value for key, value in changes.items() if key not in model}}
        directory = write_model(tmp_path, packed, quantization_config=config, **model)
        fingerprints.add(load_checkpoint(directory).weights.fingerprint)
    assert len(fingerprints) == 2


def test_fused_matrices_are_cut_after_they_are_widened(tmp_path: Path) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    fields = {**CONFIGS["phi3"], **sizes, "num_hidden_layers": 1, "vocab_size": 32, "rope_scaling": None}
    rng = np.random.default_rng(0)
    shapes = {
        "self_attn.qkv_proj": (128, 64),
        "self_attn.o_proj": (64, 64),
        "mlp.gate_up_proj": (192, 64),
        "mlp.down_proj": (64, 96),
    }
    tensors: Arrays = {
        **{f"model.{name}.weight": np.ones(64, np.float32) for name in ("norm", "layers.0.input_layernorm")},
        "model.layers.0.post_attention_layernorm.weight": np.ones(64, np.float32),
        **{name: rng.normal(size=(32, 64)).astype(np.float32) for name in ("model.embed_tokens.weight", "lm_head.weight")},
    }
    values = {}
    for name, shape in shapes.items():
        made = pack_gptq(4, 32)(rng, *shape)
        values[name] = made.values.float().numpy()
        tensors |= {f"model.layers.0.{name}.{leaf}": part for leaf, part in made.parts.items()}
    write_model(tmp_path, tensors)
    (tmp_path / "config.json").write_text(json.dumps({**fields, "quantization_config": BY_NAME["gptq-4"].config}))
    weights = load_checkpoint(tmp_path).weights
    qkv, gate_up = values["self_attn.qkv_proj"], values["mlp.gate_up_proj"]
    for name, rows in (("attn.q", qkv[:64]), ("attn.k", qkv[64:96]), ("attn.v", qkv[96:]), ("ffn.up", gate_up[96:])):
        np.testing.assert_array_equal(weights[f"layers.0.{name}.weight"].to_float32(), rows)


def test_quantized_embedding_may_be_the_head_too(tmp_path: Path) -> None:
    packed, _ = packed_tensors(BY_NAME["mlx-4"])
    made = pack_mlx(4, 32)(np.random.default_rng(5), 32, 64)
    tensors = {key: value for key, value in packed.items() if key not in ("lm_head.weight", "model.embed_tokens.weight")}
    tensors |= {f"model.embed_tokens.{leaf}": part for leaf, part in made.parts.items()}
    fields = {
        "quantization": BY_NAME["mlx-4"].config,
        "quantization_config": BY_NAME["mlx-4"].config,
        "tie_word_embeddings": True,
    }
    checkpoint = load_checkpoint(write_model(tmp_path, tensors, **fields))
    assert checkpoint.spec.is_head_tied
    np.testing.assert_array_equal(checkpoint.weights["embed.weight"].to_float32(), made.values.float().numpy())


@pytest.mark.parametrize("is_same", [True, False])
def test_quantized_head_and_embedding_are_compared_by_value(tmp_path: Path, is_same: bool) -> None:
    packed, _ = packed_tensors(BY_NAME["mlx-4"])
    made = pack_mlx(4, 32)(np.random.default_rng(5), 32, 64)
    other = {**made.parts, "scales": made.parts["scales"] * np.float16(2)}
    tensors = {key: value for key, value in packed.items() if key not in ("lm_head.weight", "model.embed_tokens.weight")}
    tensors |= {f"model.embed_tokens.{leaf}": part for leaf, part in made.parts.items()}
    tensors |= {f"lm_head.{leaf}": part for leaf, part in (made.parts if is_same else other).items()}
    directory = write_model(tmp_path, tensors, quantization=BY_NAME["mlx-4"].config, tie_word_embeddings=True)
    assert read_spec(directory).is_head_tied is is_same


def test_quantized_head_is_compared_with_an_embedding_that_is_not(tmp_path: Path) -> None:
    packed, _ = packed_tensors(BY_NAME["mlx-4"])
    made = pack_mlx(4, 32, "BF16")(np.random.default_rng(5), 32, 64)
    for values in (made.values, made.values + 1):
        tensors = {**packed, "model.embed_tokens.weight": as_stored(values)}
        tensors |= {f"lm_head.{leaf}": part for leaf, part in made.parts.items()}
        directory = write_model(tmp_path, tensors, quantization=BY_NAME["mlx-4"].config, tie_word_embeddings=True)
        assert read_spec(directory).is_head_tied is (values is made.values)


def test_comparing_head_and_embedding_widens_no_more_than_the_first_difference_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed, _ = packed_tensors(BY_NAME["mlx-4"])
    tensors = {key: value for key, value in packed.items() if key not in ("lm_head.weight", "model.embed_tokens.weight")}
    for seed, module in enumerate(("model.embed_tokens", "lm_head")):
        made = pack_mlx(4, 32)(np.random.default_rng(seed), 256, 64)
        tensors |= {f"{module}.{leaf}": part for leaf, part in made.parts.items()}
    sizes: list[int] = []

    def counted(words: np.ndarray, bits: int, count: int) -> np.ndarray:
        sizes.append(len(words))
        return arithmetic.unpack_codes(words, bits, count)

    monkeypatch.setattr(mlx, "unpack_codes", counted)
    monkeypatch.setattr(stored, "_CODES_AT_ONCE", 1)
    directory = write_model(tmp_path, tensors, quantization=BY_NAME["mlx-4"].config, tie_word_embeddings=True, vocab_size=256)
    assert not read_spec(directory).is_head_tied
    assert sizes == [32, 32]


def test_zero_biases_that_the_model_does_not_have_are_dropped(tmp_path: Path) -> None:
    directory = write_changed(tmp_path, BY_NAME["gptq-4"], {f"{UP}.bias": np.zeros(96, np.float16)})
    assert "layers.1.ffn.up.bias" not in load_checkpoint(directory).weights


def test_scales_of_activations_and_of_the_cache_are_dropped(tmp_path: Path) -> None:
    one = np.ones(1, np.float32)
    extra = {f"{UP}.input_scale": one, "model.layers.0.self_attn.k_proj.k_scale": one, "model.layers.0.self_attn.v_scale": one}
    assert load_checkpoint(write_changed(tmp_path, BY_NAME["fp8-tensor"], extra)).spec.num_layers == 2


def test_module_may_stay_as_it_is(tmp_path: Path) -> None:
    packed, twin = packed_tensors(BY_NAME["w4a16"])
    plain = twin[f"{UP}.weight"]
    tensors = {key: value for key, value in packed.items() if not key.startswith(UP)} | {f"{UP}.weight": plain}
    config = {**BY_NAME["w4a16"].config, "ignore": ["re:.*layers\\.1\\.mlp\\.up_proj$", "lm_head"]}
    weights = load_checkpoint(write_model(tmp_path, tensors, quantization_config=config)).weights
    assert weights["layers.1.ffn.up.weight"].dtype is SourceDType.BFLOAT16
    assert weights["layers.0.ffn.up.weight"].dtype is SourceDType.QUANTIZED


@pytest.mark.parametrize("entry", ["visual", "lm_head", "mlp.up", "p_proj", "model.layers.10", "ayers.1", "*", ".*up_proj", ""])
def test_excluded_modules_are_named_by_whole_parts_of_their_paths(tmp_path: Path, entry: str) -> None:
    config = {"modules_to_not_convert": [entry]}
    assert load_checkpoint(write_changed(tmp_path, BY_NAME["fp8-blocks"], {}, **config)).weights.dtype is SourceDType.QUANTIZED


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("gptq-4", {"dynamic": {"+:.*\\.1\\.mlp\\.up_proj$": {"bits": 8, "group_size": 16}}}),
        ("auto-round-gptq", {"extra_config": {UP: {"bits": 8, "group_size": 16}}}),
        ("auto-round-gptq", {"extra_config": {".*layers\\.1\\.mlp\\.up.*": {"bits": 8, "group_size": 16}}}),
    ],
)
def test_modules_may_have_bits_and_groups_of_their_own(tmp_path: Path, name: str, config: dict[str, Any]) -> None:
    made = pack_gptq(8, 16)(np.random.default_rng(9), 96, 64)
    directory = write_changed(tmp_path, BY_NAME[name], {f"{UP}.{leaf}": part for leaf, part in made.parts.items()}, **config)
    found = load_checkpoint(directory).weights["layers.1.ffn.up.weight"]
    np.testing.assert_array_equal(found.to_float32(), made.values.float().numpy())


def test_mlx_modules_may_have_bits_of_their_own(tmp_path: Path) -> None:
    made = pack_mlx(6, 16)(np.random.default_rng(9), 96, 64)
    changes = {f"{UP}.{leaf}": part for leaf, part in made.parts.items()}
    directory = write_changed(tmp_path, BY_NAME["mlx-4"], changes, **{UP: {"group_size": 16, "bits": 6}})
    found = load_checkpoint(directory).weights["layers.1.ffn.up.weight"]
    np.testing.assert_array_equal(found.to_float32(), made.values.float().numpy())


def test_groups_of_compressed_tensors_are_chosen_by_name_pattern_and_class(tmp_path: Path) -> None:
    packed, twin = packed_tensors(BY_NAME["w4a16"])
    eight = BY_NAME["w8a16"].pack(np.random.default_rng(9), 96, 64)
    tensors = packed | {f"{UP}.{leaf}": part for leaf, part in eight.parts.items()}
    groups = {
        "linear": {"targets": ["Linear"], "weights": {"num_bits": 4, "strategy": "group", "group_size": 32}},
        "wide": {
            "targets": ["re:.*1.mlp.up_proj"],
            "weights": {"num_bits": 8, "strategy": "channel"},
            "format": "pack-quantized",
        },
    }
    config = {**BY_NAME["w4a16"].config, "config_groups": groups}
    weights = load_checkpoint(write_model(tmp_path, tensors, quantization_config=config)).weights
    np.testing.assert_array_equal(weights["layers.1.ffn.up.weight"].to_float32(), eight.values.float().numpy())
    expected = (twin["model.layers.0.mlp.up_proj.weight"].astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(weights["layers.0.ffn.up.weight"].to_float32(), expected)


def test_config_that_promises_quantized_weights_in_vain_is_remarked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, twin = packed_tensors(BY_NAME["gptq-4"])
    with caplog.at_level(logging.WARNING, "quire"):
        checkpoint = load_checkpoint(write_model(tmp_path, twin, quantization_config=BY_NAME["gptq-4"].config))
    assert "hold none that is" in caplog.text
    assert checkpoint.weights.dtype is SourceDType.FLOAT16


def test_storage_is_described_with_and_without_weight_files(tmp_path: Path) -> None:
    directory, plain = write_pair(tmp_path, BY_NAME["awq"])
    storage = describe_storage(directory)
    assert storage is not None
    assert storage.description == "AWQ, 4 bits, groups of 32, zero points"
    assert storage.bits_per_weight == pytest.approx(4 + (16 + 4) / 32)
    (directory / "model.safetensors").unlink()
    without_files = describe_storage(directory)
    assert without_files is not None
    assert without_files.bits_per_weight is None
    assert describe_storage(plain) is None
