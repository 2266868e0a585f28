"""Quantized checkpoints that do not fit together: what is missing, surplus or misshapen is refused by the name of its tensor."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from quire.errors import CheckpointError
from quire.models.checkpoint import load_checkpoint
from quire.models.config_file import read_config
from quire.models.quantized.view import open_unpacked
from support.configs import CONFIGS
from support.quantized import Arrays, pack_gptq
from support.quantized_checkpoint import packed_tensors, write_changed, write_model
from support.quantized_methods import BY_NAME
from support.safetensors_writer import Typed, safetensors_bytes, write_sharded

UP = "model.layers.1.mlp.up_proj"
_WITH_LIST = ("gptq-4", "awq", "auto-round-gptq", "auto-round-awq", "fp8-blocks", "mlx-4")


def refusal(directory: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(directory)
    assert caught.value.next_step
    return str(caught.value)


def test_index_decides_between_two_files_with_the_same_part(tmp_path: Path) -> None:
    packed, twin = packed_tensors(BY_NAME["gptq-4"])
    write_model(tmp_path, packed, quantization_config=BY_NAME["gptq-4"].config)
    (tmp_path / "model.safetensors").unlink()
    write_sharded(tmp_path, packed, 2)
    index = tmp_path / "model.safetensors.index.json"
    holder = json.loads(index.read_text())["weight_map"][f"{UP}.scales"]
    (other,) = (path for path in tmp_path.glob("*.safetensors") if path.name != holder)
    held = {name: np.array(values) for name, values in load_file(other).items()} | {f"{UP}.scales": packed[f"{UP}.scales"] * 2}
    other.write_bytes(safetensors_bytes(held))
    assert f"surplus: {UP}.scales" in refusal(tmp_path)
    found = open_unpacked(tmp_path, read_config(tmp_path)).shards.placement[f"{UP}.weight"].read(f"{UP}.weight")
    np.testing.assert_array_equal(found.to_float32(), twin[f"{UP}.weight"].astype(np.float32))


def test_other_biases_that_the_model_does_not_have_are_surplus(tmp_path: Path) -> None:
    directory = write_changed(tmp_path, BY_NAME["gptq-4"], {f"{UP}.bias": np.eye(1, 96, dtype=np.float16)[0]})
    assert f"surplus: {UP}.bias" in refusal(directory)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("w4a16", {"ignore": ["re:.*up_proj"]}),
        ("w4a16", {"ignore": [UP]}),
        ("gptq-4", {"dynamic": {"-:.*up_proj.*": {}}}),
        ("auto-round-gptq", {"extra_config": {".*up_proj": {"bits": 16, "data_type": "float"}}}),
        ("auto-round-awq", {"extra_config": {".*up_proj": {"bits": 16, "data_type": "float"}}}),
        ("mlx-4", {UP: False}),
        *((name, {"modules_to_not_convert": ["lm_head", UP]}) for name in _WITH_LIST),
        *((name, {"modules_to_not_convert": ["up_proj"]}) for name in _WITH_LIST),
        *(("fp8-blocks", {field: ["mlp.up_proj"]}) for field in ("ignored_layers", "ignore", "exclude_modules")),
        ("quark", {"exclude": ["lm_head", "up_proj"]}),
    ],
)
def test_quantized_module_that_the_config_denies_is_refused(tmp_path: Path, name: str, config: dict[str, Any]) -> None:
    assert re.search(
        r"up_proj\.\w+ is quantized, which quantization_config denies",
        refusal(write_changed(tmp_path, BY_NAME[name], {}, **config)),
    )


def _short(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array[:-1])


@pytest.mark.parametrize(
    "name", ["gptq-4", "gptq-3", "awq", "w4a16-zeros", "w8a16", "int-quantized", "fp8-blocks", "quark", "mlx-3"]
)
def test_every_part_must_be_there_and_fit(tmp_path: Path, name: str) -> None:
    packed, _ = packed_tensors(BY_NAME[name])
    parts = [key for key in packed if key.startswith(f"{UP}.")]
    assert len(parts) >= 2
    for part in parts:
        directory = write_changed(tmp_path, BY_NAME[name], {}, without=(part,))
        if part.endswith(".g_idx"):
            assert load_checkpoint(directory).spec.num_layers == 2
        else:
            assert "up_proj" in refusal(directory)
        typed = packed[part]
        cut = Typed.of(_short(typed.view(np.ndarray)), typed.word) if isinstance(typed, Typed) else _short(typed)
        assert "up_proj" in refusal(write_changed(tmp_path, BY_NAME[name], {part: cut}))
        assert "up_proj" in refusal(write_changed(tmp_path, BY_NAME[name], {part: np.ones(packed[part].shape, np.int64)}))


def test_group_that_has_no_scale_is_refused(tmp_path: Path) -> None:
    order = np.zeros(64, np.int32)
    for wrong in (-1, 2):
        order[3] = wrong
        assert f"{UP}.g_idx names a group that has no scale" in refusal(
            write_changed(tmp_path, BY_NAME["gptq-4"], {f"{UP}.g_idx": order})
        )


def test_sorted_inputs_need_their_order(tmp_path: Path) -> None:
    for name, leaf in (("gptq-sorted", "g_idx"), ("w4a16-sorted", "weight_g_idx")):
        assert f"{UP}.{leaf} is missing" in refusal(write_changed(tmp_path, BY_NAME[name], {}, without=(f"{UP}.{leaf}",)))


@pytest.mark.parametrize("shape", [[64, 96], [96, 65], [96, 56], [96, -64], [-96, 64], [96, 2**62], [0, 0]])
def test_packed_weight_must_bear_out_its_shape(tmp_path: Path, shape: list[int]) -> None:
    message = refusal(write_changed(tmp_path, BY_NAME["w4a16"], {f"{UP}.weight_shape": np.array(shape, np.int64)}))
    assert f"{UP}.weight_shape does not fit the packed weight" in message


def test_weight_stored_in_both_forms_is_refused(tmp_path: Path) -> None:
    message = refusal(write_changed(tmp_path, BY_NAME["awq"], {f"{UP}.weight": np.ones((96, 64), np.float32)}))
    assert f"{UP}.weight is stored twice" in message


def test_packed_weight_of_other_sizes_than_the_model_is_wrongly_shaped(tmp_path: Path) -> None:
    made = BY_NAME["awq"].pack(np.random.default_rng(0), 64, 64)
    message = refusal(write_changed(tmp_path, BY_NAME["awq"], {f"{UP}.{leaf}": part for leaf, part in made.parts.items()}))
    assert f"{UP}.weight is [64, 64] instead of [96, 64]" in message


def test_ordinary_weight_of_integers_stays_refused(tmp_path: Path) -> None:
    message = refusal(write_changed(tmp_path, BY_NAME["awq"], {"model.embed_tokens.weight": np.ones((32, 64), np.int32)}))
    assert "model.embed_tokens.weight is I32" in message


def test_transposed_architecture_is_refused(tmp_path: Path) -> None:
    fields = {"n_embd": 64, "n_head": 4, "n_layer": 1, "vocab_size": 32}
    rng = np.random.default_rng(0)
    shapes = {"c_attn": (64, 192), "c_proj": (64, 64)}
    tensors: Arrays = {"wte.weight": np.ones((32, 64), np.float32), "wpe.weight": np.ones((512, 64), np.float32)}
    for name in ("ln_f", "h.0.ln_1", "h.0.ln_2"):
        tensors |= {f"{name}.weight": np.ones(64, np.float32), f"{name}.bias": np.zeros(64, np.float32)}
    for name, shape in (
        *((f"attn.{name}", shape) for name, shape in shapes.items()),
        ("mlp.c_fc", (64, 256)),
        ("mlp.c_proj", (256, 64)),
    ):
        made = pack_gptq(4, 32)(rng, *shape)
        tensors |= {f"h.0.{name}.{leaf}": part for leaf, part in made.parts.items()}
        tensors[f"h.0.{name}.bias"] = np.zeros(shape[1], np.float32)
    write_model(tmp_path, tensors)
    (tmp_path / "config.json").write_text(
        json.dumps({**CONFIGS["gpt2"], **fields, "quantization_config": BY_NAME["gptq-4"].config})
    )
    assert "transposed" in refusal(tmp_path)
