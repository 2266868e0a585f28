"""`quantization_config` by allow-list: typical ones are read, and what is not understood is refused by name."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from quire.errors import UnsupportedConfigError
from quire.models.config_file import parse_config
from quire.models.families import build_spec
from quire.models.quantized import read_quantization
from support.configs import CONFIGS
from support.quantized_methods import METHODS
from support.typical_quantization import TYPICAL_QUANTIZATIONS

_CONFIG_OF = {method.name: method.config for method in METHODS}


def description_of(config: dict[str, Any], section: str = "quantization_config") -> str | None:
    quantization = read_quantization(parse_config(json.dumps({section: config}).encode()))
    return None if quantization is None else quantization.description


@pytest.mark.parametrize("name", TYPICAL_QUANTIZATIONS)
def test_a_typical_configuration_is_read(name: str) -> None:
    config, description = TYPICAL_QUANTIZATIONS[name]
    assert description_of(config) == description
    model = parse_config(json.dumps({**CONFIGS["llama"], "quantization_config": config}).encode())
    assert build_spec(model).family == "llama"


def test_no_quantization_is_none() -> None:
    assert description_of({}, "never_heard_of") is None
    assert read_quantization(parse_config(b'{"quantization_config": null}')) is None


def test_mlx_may_write_its_description_twice() -> None:
    same = {"group_size": 64, "bits": 4}
    both = {"quantization": same, "quantization_config": same}
    quantization = read_quantization(parse_config(json.dumps(both).encode()))
    assert quantization is not None
    assert quantization.description == "MLX, 4 bits, groups of 64"
    with pytest.raises(UnsupportedConfigError, match="differs"):
        read_quantization(parse_config(json.dumps({**both, "quantization": {**same, "bits": 8}}).encode()))


@pytest.mark.parametrize("method", ["bitsandbytes", "hqq", "aqlm", "exl3", "torchao", "mxfp4", "nvfp4", "", "GPTQ"])
def test_other_methods_are_refused_with_those_that_are_read(method: str) -> None:
    with pytest.raises(UnsupportedConfigError) as caught:
        description_of({"quant_method": method, "bits": 4})
    assert "compressed-tensors, awq, gptq, auto-round" in str(caught.value)
    assert json.dumps(method) in str(caught.value)


_WEIGHTS = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}


def _group(**changes: Any) -> dict[str, Any]:
    return {"config_groups": {"group_0": {"targets": ["Linear"], "weights": _WEIGHTS | changes}}}


@pytest.mark.parametrize(
    ("name", "changes", "problem"),
    [
        *((name, {"never_heard_of": 1}, "never_heard_of") for name in ("gptq-4", "awq", "w4a16", "fp8-blocks", "quark")),
        *(
            (name, {"bits": bits}, "bits")
            for name in ("gptq-4", "awq", "auto-round-gptq", "mlx-4")
            for bits in (0, -4, 7, 4.5, "4")
        ),
        *(("gptq-4", {"group_size": size}, "group_size") for size in (0, -2, 2**40, 1.5, None, True)),
        *(("mlx-4", {"group_size": size}, "group_size") for size in (0, -1, None)),
        ("gptq-4", {"bits": 5}, "2, 3, 4, 8"),
        ("gptq-4", {"checkpoint_format": "marlin"}, "checkpoint_format"),
        ("gptq-4", {"checkpoint_format": "gptq", "format": "gptq_v2"}, "differs"),
        ("gptq-4", {"is_marlin_format": True}, "is_marlin_format"),
        ("gptq-4", {"pack_dtype": "int64"}, "pack_dtype"),
        ("gptq-4", {"rotation": "hadamard"}, "rotation"),
        ("gptq-4", {"desc_act": "yes"}, "desc_act"),
        ("gptq-4", {"dynamic": {"+:.*": {"bits": 5}}}, "bits"),
        ("gptq-4", {"dynamic": {"+:.*": {"never_heard_of": 5}}}, "never_heard_of"),
        ("gptq-4", {"dynamic": {"+:(?=x)": {"bits": 8}}}, "pattern"),
        ("gptq-4", {"dynamic": {"+:" + "(" * 40: {"bits": 8}}}, "pattern"),
        ("gptq-4", {"dynamic": ["x"]}, "dynamic"),
        ("awq", {"version": "gemv"}, "version"),
        ("awq", {"zero_point": False}, "zero_point"),
        ("awq", {"modules_to_not_convert": [1]}, "modules_to_not_convert"),
        ("auto-round-gptq", {"packing_format": "auto_round:exllamav2"}, "packing_format"),
        ("auto-round-gptq", {"packing_format": None}, "packing_format"),
        ("auto-round-gptq", {"data_type": "mx_fp"}, "data_type"),
        ("auto-round-awq", {"bits": 8}, "bits"),
        ("auto-round-awq", {"extra_config": {"lm_head": {"bits": 8}}}, "extra_config"),
        ("w4a16", {"format": "marlin-24"}, "format"),
        ("w4a16", {"format": "nvfp4-pack-quantized"}, "format"),
        ("w4a16", {"format": "mixed-precision"}, "format"),
        ("w4a16", {"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparsity_config.format"),
        ("w4a16", {"transform_config": {"config_groups": {"u": {}}}}, "transform_config"),
        ("w4a16", {"config_groups": {}}, "config_groups"),
        ("w4a16", {"config_groups": {"a": None}}, "config_groups.a"),
        ("w4a16", _group(num_bits=3), "num_bits"),
        ("w4a16", _group(type="float"), "type"),
        ("w4a16", _group(strategy="token"), "strategy"),
        ("w4a16", _group(strategy="channel"), "group_size"),
        ("w4a16", _group(group_size=None), "group_size"),
        ("w4a16", _group(strategy="block", group_size=None), "block_structure"),
        ("w4a16", _group(strategy="block", group_size=None, block_structure=[0, 4]), "block_structure"),
        ("w4a16", _group(dynamic=True), "dynamic"),
        ("w4a16", _group(actorder="backwards"), "actorder"),
        ("w4a16", {"ignore": ["re:["]}, "pattern"),
        ("mxfp4-pack-quantized", _group(type="float", group_size=16), "group_size"),
        ("fp8-blocks", {"weight_block_size": [128]}, "weight_block_size"),
        ("fp8-blocks", {"weight_block_size": [128, 1.5]}, "weight_block_size"),
        ("fp8-blocks", {"weight_block_size": [128, 1e9]}, "weight_block_size"),
        ("fp8-blocks", {"activation_scheme": "guess"}, "activation_scheme"),
        ("modelopt", {"quant_algo": "NVFP4"}, "quant_algo"),
        ("modelopt", {"quant_algo": None}, "quant_algo"),
        ("quark", {"global_quant_config": {"weight": {"dtype": "int4", "qscheme": "per_group"}}}, "dtype"),
        ("quark", {"global_quant_config": None}, "global_quant_config"),
        ("quark", {"layer_quant_config": {"lm_head": {}}}, "layer_quant_config"),
        ("mlx-4", {"mode": "nvfp4"}, "mode"),
        ("mlx-4", {"model.layers.0": {"bits": 9, "group_size": 64}}, "bits"),
        ("mlx-4", {"model.layers.0": 5}, "model.layers.0"),
    ],
)
def test_what_is_not_understood_is_refused(name: str, changes: dict[str, Any], problem: str) -> None:
    section = "quantization" if name.startswith("mlx") else "quantization_config"
    with pytest.raises(UnsupportedConfigError, match=problem) as caught:
        description_of({**_CONFIG_OF[name], **changes}, section)
    assert caught.value.next_step


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("RedHatAI, FP8-dynamic", "input_activations"),
        ("neuralmagic, FP8-KV", "kv_cache_scheme"),
        ("Qwen3-8B-FP8", "activation_scheme"),
        ("amd, Quark MXFP4", "input_tensors"),
    ],
)
def test_what_would_change_results_is_ignored_aloud_and_once(caplog: pytest.LogCaptureFixture, name: str, field: str) -> None:
    config = parse_config(json.dumps({**CONFIGS["llama"], "quantization_config": TYPICAL_QUANTIZATIONS[name][0]}).encode())
    with caplog.at_level(logging.WARNING, "quire"):
        build_spec(config)
        read_quantization(config)
    assert sum(field in record.message and "is ignored" in record.message for record in caplog.records) == 1
