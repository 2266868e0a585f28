"""`logits, past_kvs = model(x, past_kvs)` with own tiles: bits depend on tokens alone, whatever became of a tile."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from quire.config import DType, KVFormat
from quire.engine.causal_model import CausalModel
from quire.engine.past_kvs import PastKVs, PastStore
from quire.executors.native import NativeExecutor, available_isas
from quire.executors.options import ExecutorOptions
from quire.executors.protocol import Float32Array, kv_layout
from support.configs import spec_of
from support.weights import random_weights

pytestmark = pytest.mark.skipif(not available_isas(), reason="the native core is not compiled here")

SPEC = spec_of("llama", head_dim=24, num_hidden_layers=2, vocab_size=64)
WEIGHTS = random_weights(SPEC)
TOKENS = (7 * np.arange(150) ** 2 + 3) % 64
OWN_TILED = [kv_format for kv_format in KVFormat if kv_format.has_own_tiles]


def model_of(kv_format: KVFormat, num_own_tiles: int, block_size: int = 32) -> CausalModel:
    layout = kv_layout(SPEC, block_size, kv_format)
    options = ExecutorOptions(layout=layout, num_blocks=40, num_own_tiles=num_own_tiles, dtype=DType.FLOAT32)
    return CausalModel(PastStore(NativeExecutor(SPEC, WEIGHTS, options)), 512, Path("nowhere"))


def computed(model: CausalModel, borders: list[int]) -> tuple[Float32Array, PastKVs | None]:
    past, parts = None, []
    for start, stop in zip([0, *borders], [*borders, len(TOKENS)], strict=True):
        logits, past = model(TOKENS[None, start:stop], past)
        parts.append(logits[0])
    return np.concatenate(parts), past


@pytest.mark.parametrize("kv_format", OWN_TILED)
@pytest.mark.parametrize("num_own_tiles", [1, 3])
def test_any_chunks_give_the_bits_of_one_call(kv_format: KVFormat, num_own_tiles: int) -> None:
    model = model_of(kv_format, num_own_tiles)
    whole, past = computed(model, [])
    for borders in ([40], [1, 31, 33, 64, 100], list(range(60, 75)), [32, 64, 96, 128]):
        found, other = computed(model, borders)
        assert np.array_equal(found, whole)
        assert past is not None
        assert other is not None
        for layer in range(2):
            assert all(np.array_equal(a, b) for a, b in zip(past[layer], other[layer], strict=True))
    model.check()


@pytest.mark.parametrize("kv_format", OWN_TILED)
@pytest.mark.parametrize(("num_own_tiles", "block_size"), [(1, 32), (2, 64), (8, 32)])
def test_a_past_can_be_continued_by_many_though_its_tile_is_lost(
    kv_format: KVFormat, num_own_tiles: int, block_size: int
) -> None:
    model = model_of(kv_format, num_own_tiles, block_size)
    expected, _ = computed(model, [])
    _, past = model(TOKENS[None, :77])
    assert past is not None
    kept = []
    for turn in range(4):
        other = (TOKENS[77:110] + turn) % 64
        logits, branch = model(other[None], past)
        assert np.array_equal(logits[0], expected[77:110]) == (turn == 0)
        again, _ = model(np.concatenate([TOKENS[:77], other])[None], use_cache=False)
        assert np.array_equal(logits[0], again[0, 77:])
        kept.append(branch)
    found, _ = model(TOKENS[None, 77:], past)
    assert np.array_equal(found[0], expected[77:])
    model.check()


@pytest.mark.parametrize("kv_format", OWN_TILED)
def test_more_rows_than_own_tiles_take_turns(kv_format: KVFormat) -> None:
    model = model_of(kv_format, 2)
    expected, _ = computed(model, [])
    rows = np.stack([np.roll(TOKENS[:50], shift) for shift in (3, 0, 5, 0, 9)])
    _, past = model(rows)
    found, past = model(np.stack([TOKENS[50:70]] * 5), past)
    assert past is not None
    for row in (1, 3):
        assert np.array_equal(found[row], expected[50:70])
    keys, values = past[1]
    assert np.array_equal(keys[1], keys[3])
    assert np.array_equal(values[1], values[3])
    assert np.isfinite(keys).all()
