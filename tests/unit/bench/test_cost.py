"""The roofline's inputs, counted by hand for a small shape."""

from __future__ import annotations

from pathlib import Path

import pytest

from quire.bench.cost import WeightBytes, context_bytes, decode_cost, matrix_elements, prefill_cost, seen_keys, weight_bytes
from quire.bench.random_model import random_checkpoint
from quire.config import KVFormat
from quire.errors import ConfigError
from quire.executors.packing import Encoding, PanelFormat, matrix_shapes
from quire.executors.protocol import kv_layout
from quire.models.checkpoint import Checkpoint
from quire.models.spec import ModelSpec
from support.configs import spec_of

LAYER = 64 * 64 + 2 * 32 * 64 + 64 * 64 + 3 * 64 * 96


@pytest.fixture
def spec(checkpoint: Checkpoint) -> ModelSpec:
    return checkpoint.spec


def test_matrices_are_counted_once_a_token_and_the_head_once_a_sample(spec: ModelSpec) -> None:
    assert matrix_elements(spec) == (2 * LAYER, 100 * 64)


def test_a_prefill_step_costs_products_and_attention(spec: ModelSpec) -> None:
    attended = 10 * 11 // 2
    assert prefill_cost(spec, 1, 0, 10).flops == 2 * (10 * 2 * LAYER + 100 * 64) + 4 * 2 * 4 * 16 * attended


def test_a_decode_step_reads_weights_and_the_context(spec: ModelSpec) -> None:
    layout = kv_layout(spec, 32, KVFormat.BFLOAT16)
    assert layout.bytes_per_token == 2 * 2 * 2 * 16 * 2
    weights = WeightBytes(layers=1000, head=200)
    assert decode_cost(spec, weights, layout, (50, 7)).num_bytes == 1200 + 57 * layout.bytes_per_token


def test_a_window_bounds_what_is_read_and_multiplied_not_what_is_held() -> None:
    spec = spec_of("gemma3_text")  # every third layer sees all, the others 32 tokens
    num_full = sum(layer.sliding_window is None for layer in spec.layers)
    num_windowed = spec.num_layers - num_full
    assert num_full
    assert num_windowed
    by_hand = [sum(min(position + 1, 32) for position in range(20, 100)), sum(position + 1 for position in range(20, 100))]
    assert seen_keys(spec, 20, 100) == num_windowed * by_hand[0] + num_full * by_hand[1]
    layout = kv_layout(spec, 32, KVFormat.BFLOAT16)
    per_layer = layout.bytes_per_token // spec.num_layers
    assert context_bytes(spec, layout, 100) == per_layer * (num_windowed * 32 + num_full * 100)
    assert context_bytes(spec, layout, 20) == layout.bytes_per_token * 20


def test_bytes_of_weights_are_those_of_whole_panels(spec: ModelSpec) -> None:
    weights = weight_bytes(spec, dict.fromkeys(matrix_shapes(spec), PanelFormat(Encoding.BFLOAT16)))
    in_panels = 64 * 64 + 2 * 64 * 64 + 64 * 64 + 2 * 128 * 64 + 64 * 96
    assert weights == WeightBytes(layers=2 * 2 * in_panels, head=2 * 128 * 64)


def test_a_missing_config_file_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        random_checkpoint(tmp_path / "nothing.json")


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[3] / "benchmarks/configs").glob("*.json")), ids=lambda p: p.stem)
def test_every_benchmark_shape_is_one_we_support(path: Path) -> None:
    from quire.models.config_file import parse_config
    from quire.models.families import build_spec

    assert build_spec(parse_config(path.read_bytes())).num_layers > 0
