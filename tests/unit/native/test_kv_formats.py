"""Quantized K/V as the compiled core writes them: bit for bit what NumPy makes of the same keys and values."""

from __future__ import annotations

import numpy as np
import pytest

from quire.arrays import Float32Array
from quire.config import KVFormat
from quire.executors.native import available_isas
from quire.models.spec import ModelSpec
from support.configs import spec_of
from support.kv_arithmetic import TILE, own_tile_keys, stored_keys, stored_values, to_bfloat16
from support.kv_steps import NUM_BLOCKS, QUANTIZED, Chunk, kv_executor, kv_step, own_slots, slots_of

pytestmark = pytest.mark.skipif(not available_isas(), reason="the native core is not compiled here")

NUM_TOKENS = 150
HEAD_DIMS = (8, 24, 64, 80, 96, 128, 256)
BLOCKS = (5, 2, 7)


@pytest.fixture(params=available_isas(), autouse=True)
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("QUIRE_ISA", request.param)
    return str(request.param)


def spec_with(head_dim: int) -> ModelSpec:
    """Returns a model of one layer: its keys and values depend on no attention, so that all KV formats are given the same."""
    return spec_of("qwen3", num_attention_heads=4, num_key_value_heads=2, head_dim=head_dim, num_hidden_layers=1)


def written(spec: ModelSpec) -> tuple[Float32Array, Float32Array]:
    """Returns the keys and values [T, K, D] of the tokens, in float32."""
    executor = kv_executor(spec, KVFormat.FLOAT32)
    executor.run(kv_step(executor, Chunk(0, NUM_TOKENS, BLOCKS)))
    return executor.read_kv(0, slots_of(BLOCKS, 0, NUM_TOKENS))


@pytest.mark.parametrize("is_exact", [False, True], ids=["keys in the format", "exact keys"])
@pytest.mark.parametrize("kv_format", QUANTIZED, ids=lambda kv_format: kv_format.value)
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_pages_and_own_tiles_hold_what_the_arithmetic_says(head_dim: int, kv_format: KVFormat, is_exact: bool) -> None:
    spec = spec_with(head_dim)
    keys, values = written(spec)
    executor = kv_executor(spec, kv_format, exact_key_layers=(0,) if is_exact else ())
    executor.run(kv_step(executor, Chunk(0, NUM_TOKENS, BLOCKS, own_tile=1)))
    found_keys, found_values = executor.read_kv(0, slots_of(BLOCKS, 0, NUM_TOKENS))
    np.testing.assert_array_equal(found_keys, stored_keys(keys, kv_format, is_exact=is_exact))
    np.testing.assert_array_equal(found_values, stored_values(values, kv_format))
    if executor.layout.has_own_tiles:
        rest = NUM_TOKENS // TILE * TILE
        own_keys, own_values = executor.read_kv(0, own_slots(1)[: NUM_TOKENS - rest])
        np.testing.assert_array_equal(own_keys, own_tile_keys(keys[rest:], kv_format, is_exact=is_exact))
        np.testing.assert_array_equal(own_values, to_bfloat16(values[rest:]))
    assert executor.kv_bytes - _planned_bytes(executor.layout.bytes_per_block, executor.layout.bytes_per_own_tile) < 1024


def _planned_bytes(bytes_per_block: int, bytes_per_own_tile: int) -> int:
    return NUM_BLOCKS * bytes_per_block + 4 * bytes_per_own_tile
