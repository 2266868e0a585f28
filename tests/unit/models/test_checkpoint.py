"""Model directories: tensors under canonical names, and one error that names everything that is wrong."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from quire.errors import CheckpointError, ConfigError, ModelError, ModelNotFoundError
from quire.models.checkpoint import load_checkpoint
from quire.models.weights import SourceDType
from support.configs import CONFIGS
from support.safetensors_writer import safetensors_bytes, write_sharded
from support.stored import Tensors, stored_tensors


def _write(directory: Path, tensors: Mapping[str, np.ndarray], family: str = "llama") -> Path:
    (directory / "config.json").write_text(json.dumps(CONFIGS[family]))
    (directory / "model.safetensors").write_bytes(safetensors_bytes(tensors))
    return directory


def _refusal(directory: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(directory)
    message = str(caught.value)
    assert str(directory) not in message
    assert caught.value.next_step
    return message


@pytest.fixture(scope="module")
def llama() -> Tensors:
    return stored_tensors("llama")


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("num_shards", [None, 1, 3])
def test_every_family_gets_exactly_the_tensors_of_its_spec(tmp_path: Path, family: str, num_shards: int | None) -> None:
    tensors = stored_tensors(family)
    _write(tmp_path, tensors, family)
    if num_shards is not None:
        (tmp_path / "model.safetensors").unlink()
        write_sharded(tmp_path, tensors, num_shards)
    checkpoint = load_checkpoint(tmp_path)
    assert {name: tensor.shape for name, tensor in checkpoint.weights.items()} == checkpoint.spec.tensor_shapes()
    assert checkpoint.spec.family == family


def test_fused_and_transposed_parts_are_cut_from_the_right_place(tmp_path: Path) -> None:
    tensors = stored_tensors("gpt2")
    weights = load_checkpoint(_write(tmp_path, tensors, "gpt2")).weights
    hidden = CONFIGS["gpt2"]["n_embd"]
    fused = tensors["h.1.attn.c_attn.weight"]
    for part, name in enumerate(("q", "k", "v")):
        columns = slice(part * hidden, (part + 1) * hidden)
        np.testing.assert_array_equal(weights[f"layers.1.attn.{name}.weight"].to_float32(), fused[:, columns].T)
        np.testing.assert_array_equal(
            weights[f"layers.1.attn.{name}.bias"].to_float32(), tensors["h.1.attn.c_attn.bias"][columns]
        )


def test_offset_is_added_in_float32(tmp_path: Path) -> None:
    tensors = stored_tensors("gemma3_text")
    stored = np.linspace(-1, 1, tensors["norm.weight"].size, dtype=np.float32)
    bits = (stored.view(np.uint32) >> 16).astype(np.uint16)
    weights = load_checkpoint(_write(tmp_path, {**tensors, "norm.weight": bits}, "gemma3_text")).weights
    exact = (bits.astype(np.uint32) << 16).view(np.float32)
    assert weights["final_norm.weight"].dtype is SourceDType.FLOAT32
    np.testing.assert_array_equal(weights["final_norm.weight"].to_float32(), np.float32(1) + exact)


def test_large_tensors_are_not_copied(tmp_path: Path, llama: Tensors) -> None:
    weights = load_checkpoint(_write(tmp_path, llama)).weights
    assert not any(tensor.bits.flags.owndata for tensor in weights.values())


def test_optional_prefix_may_be_there_for_each_tensor(tmp_path: Path, llama: Tensors) -> None:
    renamed = {name if name == "lm_head.weight" else f"model.{name}": tensor for name, tensor in llama.items()}
    directories = tmp_path / "plain", tmp_path / "prefixed"
    for directory in directories:
        directory.mkdir()
    plain = load_checkpoint(_write(directories[0], llama)).weights
    prefixed = load_checkpoint(_write(directories[1], renamed)).weights
    for name, tensor in plain.items():
        np.testing.assert_array_equal(prefixed[name].bits, tensor.bits)


def test_missing_surplus_and_misshapen_tensors_are_named_in_one_error(tmp_path: Path, llama: Tensors) -> None:
    tensors = {**llama, "layers.9.secret": np.ones(3, np.float32), "layers.1.mlp.up_proj.weight": np.ones((2, 3), np.float32)}
    del tensors["layers.0.self_attn.q_proj.weight"], tensors["norm.weight"]
    message = _refusal(_write(tmp_path, tensors))
    assert "missing: layers.0.self_attn.q_proj.weight, norm.weight;" in message
    assert "surplus: layers.9.secret;" in message
    assert "layers.1.mlp.up_proj.weight is [2, 3] instead of [100, 56]" in message


def test_missing_tensors_are_called_what_the_file_would_call_them(tmp_path: Path, llama: Tensors) -> None:
    tensors = {name if name == "lm_head.weight" else f"model.{name}": tensor for name, tensor in llama.items()}
    tensors["model.layers.9.secret"] = np.ones(3, np.float32)
    del tensors["model.norm.weight"], tensors["lm_head.weight"]
    message = _refusal(_write(tmp_path, tensors))
    assert "missing: model.norm.weight, lm_head.weight;" in message
    assert "surplus: model.layers.9.secret" in message


def test_long_lists_of_tensors_are_cut_and_counted(tmp_path: Path, llama: Tensors) -> None:
    message = _refusal(_write(tmp_path, {"odd": np.ones(1, np.float32)}))
    assert f"and {len(llama) - 8} more" in message
    assert len(message) < 2000


def test_fused_matrix_with_too_many_rows_is_wrongly_shaped(tmp_path: Path) -> None:
    tensors = stored_tensors("phi3")
    name = "layers.0.self_attn.qkv_proj.weight"
    tensors[name] = np.concatenate((tensors[name], tensors[name][:1]))
    assert f"{name} is {list(tensors[name].shape)} instead of" in _refusal(_write(tmp_path, tensors, "phi3"))


def test_tensor_in_an_unusable_dtype_is_named_when_it_is_needed(tmp_path: Path, llama: Tensors) -> None:
    message = _refusal(_write(tmp_path, {**llama, "norm.weight": np.ones(56, np.int64)}))
    assert "norm.weight is I64" in message
    assert "F32, F16, BF16" in message


def test_tensors_that_the_family_ignores_may_have_any_dtype(tmp_path: Path, llama: Tensors) -> None:
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.int64)}
    assert load_checkpoint(_write(tmp_path, {**llama, **extra})).spec.family == "llama"


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pth"])
def test_pickles_are_refused_with_the_reason(tmp_path: Path, llama: Tensors, name: str) -> None:
    (_write(tmp_path, llama) / "model.safetensors").rename(tmp_path / name)
    message = _refusal(tmp_path)
    assert name in message
    assert "pickle" in message
    assert "save_pretrained" in message


def test_gguf_alone_is_refused(tmp_path: Path, llama: Tensors) -> None:
    (_write(tmp_path, llama) / "model.safetensors").rename(tmp_path / "model-q4.gguf")
    assert "GGUF" in _refusal(tmp_path)


def test_directory_without_weights_says_what_it_looked_for(tmp_path: Path, llama: Tensors) -> None:
    (_write(tmp_path, llama) / "model.safetensors").rename(tmp_path / "adapter_model.safetensors")
    message = _refusal(tmp_path)
    assert "neither model.safetensors nor model.safetensors.index.json" in message
    assert "adapter_model.safetensors" in message


def test_directory_without_config_is_a_model_error(tmp_path: Path, llama: Tensors) -> None:
    (_write(tmp_path, llama) / "config.json").unlink()
    with pytest.raises(ModelError, match=r"config\.json"):
        load_checkpoint(tmp_path)


def test_absent_directory_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        load_checkpoint(tmp_path / "absent")


def test_longer_context_than_the_model_knows_is_refused(tmp_path: Path, llama: Tensors) -> None:
    _write(tmp_path, llama)
    assert load_checkpoint(tmp_path, max_context=100).spec.max_context == 100
    with pytest.raises(ConfigError):
        load_checkpoint(tmp_path, max_context=10**6)


def _edit_index(directory: Path, edit: Callable[[dict[str, str]], object]) -> None:
    path = directory / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    edit(index["weight_map"])
    path.write_text(json.dumps(index))


@pytest.fixture
def sharded(tmp_path: Path, llama: Tensors) -> Path:
    _write(tmp_path, llama)
    (tmp_path / "model.safetensors").unlink()
    write_sharded(tmp_path, llama, 3)
    return tmp_path


@pytest.mark.parametrize(
    "name",
    ["../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", "a\\b.safetensors", "C:x.safetensors", "..", "", "x.bin",
     "x\0.safetensors", "\u202ex.safetensors", f"{'x' * 300}.safetensors", 7, None, ["x.safetensors"]],
)  # fmt: skip
def test_index_that_leaves_the_directory_is_refused(sharded: Path, name: object) -> None:
    _edit_index(sharded, lambda weight_map: weight_map.update({"norm.weight": name}))
    assert "cannot lie in the model directory" in _refusal(sharded)


def test_index_that_is_a_pipe_is_refused_without_waiting_for_a_writer(sharded: Path) -> None:
    index = sharded / "model.safetensors.index.json"
    index.unlink()
    os.mkfifo(index)
    assert "not a regular file" in _refusal(sharded)


def test_missing_shards_are_named(sharded: Path) -> None:
    (sharded / "model-00002-of-00003.safetensors").unlink()
    message = _refusal(sharded)
    assert "1 of the 3" in message
    assert "model-00002-of-00003.safetensors" in message


def test_tensor_the_index_promises_but_its_file_lacks_is_missing(sharded: Path) -> None:
    _edit_index(sharded, lambda weight_map: weight_map.update({"norm.weight": weight_map["embed_tokens.weight"]}))
    _edit_index(sharded, lambda weight_map: weight_map.update({"ghost": weight_map["embed_tokens.weight"]}))
    message = _refusal(sharded)
    assert "missing: norm.weight" in message
    assert "ghost (indexed)" in message


def test_tensor_the_index_forgets_is_not_used(sharded: Path) -> None:
    _edit_index(sharded, lambda weight_map: weight_map.pop("norm.weight"))
    message = _refusal(sharded)
    assert "missing: norm.weight" in message
    assert "surplus: norm.weight" in message


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', '{"weight_map": NaN}', "7"])
def test_broken_index_is_refused(sharded: Path, content: str) -> None:
    (sharded / "model.safetensors.index.json").write_text(content)
    assert "model.safetensors.index.json" in _refusal(sharded)


def test_damaged_shard_is_named(sharded: Path) -> None:
    path = sharded / "model-00003-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert path.name in _refusal(sharded)


def test_fingerprint_is_stable_for_the_same_files(tmp_path: Path, llama: Tensors) -> None:
    _write(tmp_path, llama)
    first, second = (load_checkpoint(tmp_path).weights.fingerprint for _ in range(2))
    assert first == second
    assert len(first) == 32


@pytest.mark.parametrize("tensor", ["norm.weight", "embed_tokens.weight"])
@pytest.mark.parametrize("position", [0, -1])
def test_fingerprint_sees_changed_values_behind_the_same_size_and_time(
    tmp_path: Path, llama: Tensors, tensor: str, position: int
) -> None:
    fingerprints = set()
    for value in (1.0, 2.0):
        changed = llama[tensor].copy()
        changed.flat[position] = value
        _write(tmp_path, {**llama, tensor: changed})
        os.utime(tmp_path / "model.safetensors", ns=(0, 0))
        fingerprints.add(load_checkpoint(tmp_path).weights.fingerprint)
    assert len(fingerprints) == 2


def test_copy_of_a_model_has_its_fingerprint(tmp_path: Path, llama: Tensors) -> None:
    original = _write(tmp_path, llama)
    before = load_checkpoint(original).weights.fingerprint
    copy = shutil.copytree(original, tmp_path / "copy")
    os.utime(copy / "model.safetensors", ns=(1, 1))
    assert load_checkpoint(copy).weights.fingerprint == before


def test_identifying_large_files_reports_every_piece_once(sharded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quire.models.checkpoint._MIN_SHOWN_PIECES", 3)
    seen: list[tuple[int, int]] = []
    weights = load_checkpoint(sharded).weights
    for _ in range(2):
        weights.identify(lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_fingerprint_sees_how_the_config_reads_the_same_weights(tmp_path: Path, llama: Tensors) -> None:
    _write(tmp_path, llama)
    before = load_checkpoint(tmp_path).weights.fingerprint
    (tmp_path / "config.json").write_text(json.dumps({**CONFIGS["llama"], "rope_theta": 123.0}))
    assert load_checkpoint(tmp_path).weights.fingerprint != before


def test_fingerprint_sees_which_of_two_files_the_index_reads_a_tensor_from(sharded: Path, llama: Tensors) -> None:
    for path in sharded.glob("model-*"):
        held = {name: np.array(values) for name, values in load_file(path).items()} | {"norm.weight": llama["norm.weight"] * 2}
        path.write_bytes(safetensors_bytes(held))
    fingerprints = set()
    for path in sharded.glob("model-*"):
        _edit_index(sharded, lambda weight_map, name=path.name: weight_map.update({"norm.weight": name}))
        fingerprints.add(load_checkpoint(sharded).weights.fingerprint)
    assert len(fingerprints) == 3


def test_fingerprint_names_the_version_of_the_decoders(tmp_path: Path, llama: Tensors, monkeypatch: pytest.MonkeyPatch) -> None:
    before = load_checkpoint(_write(tmp_path, llama)).weights.fingerprint
    monkeypatch.setattr("quire.models.checkpoint.DECODERS_VERSION", 0)
    assert load_checkpoint(tmp_path).weights.fingerprint != before
