"""The key-bias rule: layers whose key biases dwarf the keys keep them in bfloat16."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from click.testing import CliRunner

from quire.cli.main import cli
from quire.config import CacheConfig, EngineConfig, ExecutorKind, KVFormat
from quire.engine.resolve import layout_of, resolve
from quire.executors.key_bias import MAX_BIAS, exact_key_layers, largest_bias
from quire.models.checkpoint import Checkpoint, load_checkpoint
from quire.models.spec import ModelSpec
from quire.models.weights import SourceDType, SourceTensor, Weights
from support.configs import CONFIGS, spec_of
from support.weights import random_weights

SPEC = spec_of("qwen2", head_dim=24)
SMALL = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2, "vocab_size": 64}


def weights_with(biases: dict[int, dict[int, float]], spec: ModelSpec = SPEC) -> Weights:
    """Returns random weights with other key biases of some channels, by layer."""
    tensors = dict(random_weights(spec))
    for layer, channels in biases.items():
        name = f"layers.{layer}.attn.k.bias"
        values = tensors[name].to_float32().copy()
        for channel, value in channels.items():
            values[channel] = value
        tensors[name] = SourceTensor(dtype=SourceDType.FLOAT32, bits=values)
    return Weights(tensors, b"")


def test_a_bias_of_hundreds_in_two_channels_is_found_in_its_layers() -> None:
    assert exact_key_layers(SPEC, weights_with({0: {3: 500.0, 15: -500.0}, 3: {7: -500.0}})) == (0, 3)


def test_ordinary_biases_leave_every_layer_quantized() -> None:
    assert exact_key_layers(SPEC, weights_with({})) == ()
    assert 0 < largest_bias(SPEC, weights_with({}), 0) < MAX_BIAS


@pytest.mark.parametrize("family", [family for family in CONFIGS if family != "qwen2"])
def test_no_other_family_is_touched_by_small_biases(family: str) -> None:
    spec = spec_of(family)
    assert exact_key_layers(spec, random_weights(spec)) == ()


def test_a_bias_is_judged_by_what_the_projection_gives() -> None:
    weights = weights_with({1: {3: 20.0}})
    name = "layers.1.attn.k.weight"
    loud = SourceTensor(dtype=SourceDType.FLOAT32, bits=weights[name].to_float32() * np.float32(20))
    assert exact_key_layers(SPEC, weights) == (1,)
    assert exact_key_layers(SPEC, {**weights, name: loud}) == ()
    norm = SourceTensor(dtype=SourceDType.FLOAT32, bits=weights["layers.1.attn_norm.weight"].to_float32() * np.float32(20))
    assert exact_key_layers(SPEC, {**weights, "layers.1.attn_norm.weight": norm}) == ()


@pytest.mark.parametrize("kv_format", KVFormat)
def test_the_layers_are_part_of_the_layout_of_quantized_formats(kv_format: KVFormat) -> None:
    config = EngineConfig(cache=CacheConfig(format=kv_format), executor=ExecutorKind.REFERENCE)
    weights = weights_with({2: {0: 300.0}})
    layout = layout_of(resolve(config, SPEC, weights), SPEC)
    assert layout.exact_key_layers == ((2,) if kv_format.is_quantized else ())
    assert layout.name == kv_format.value + (" keys 2 bfloat16" if kv_format.is_quantized else "")


def qwen2_checkpoint(directory: Path, bias: float) -> Checkpoint:
    torch.manual_seed(1)
    model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SMALL, num_key_value_heads=1))
    with torch.no_grad():
        for layer in (0, 3):
            model.model.layers[layer].self_attn.k_proj.bias[[2, 9]] = bias
    model.save_pretrained(directory)
    return load_checkpoint(directory)


def test_a_checkpoint_says_which_layers_keep_their_keys(tmp_path: Path) -> None:
    checkpoint = qwen2_checkpoint(tmp_path, 500.0)
    assert exact_key_layers(checkpoint.spec, checkpoint.weights) == (0, 3)
    found = json.loads(CliRunner().invoke(cli, ["models", str(tmp_path), "--json"]).stdout)
    assert found["exact_key_layers"] == [0, 3]
    shown = CliRunner().invoke(cli, ["models", str(tmp_path)]).stdout
    assert "large in layers 0, 3: their keys stay bfloat16" in " ".join(shown.split())
