"""The reference executor over its paged cache: whatever a step holds, each request gets its own answer."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.config import DType, KVFormat, Quantize
from quire.errors import ExecutorError
from quire.executors.options import ExecutorOptions
from quire.executors.packing import PackLayout
from quire.executors.protocol import Float32Array, StepBatch, kv_layout
from quire.executors.reference import Float64ReferenceExecutor, ReferenceExecutor
from quire.models.spec import ModelSpec
from support.configs import CONFIGS, spec_of
from support.steps import BLOCK_SIZE, step
from support.weights import random_weights

NUM_BLOCKS = 16
PROMPT = [7, 250, 3, 3, 90, 11, 42, 0, 199, 8, 17]


def make_executor(
    spec: ModelSpec,
    kind: type[ReferenceExecutor] = ReferenceExecutor,
    kv_format: KVFormat = KVFormat.FLOAT32,
    dtype: DType = DType.FLOAT32,
    **integers: Any,
) -> ReferenceExecutor:
    layout = kv_layout(spec, BLOCK_SIZE, kv_format)
    return kind(spec, random_weights(spec), ExecutorOptions(layout=layout, num_blocks=NUM_BLOCKS, dtype=dtype, **integers))


def assert_close(actual: Float32Array, expected: Float32Array) -> None:
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("family", CONFIGS)
def test_prefill_chunks_and_decode_agree(family: str) -> None:
    executor = make_executor(spec_of(family))
    whole = executor.run(step((PROMPT, 0, [0, 1, 2])))
    blocks = [9, 4, 13]
    parts = [executor.run(step((PROMPT[:5], 0, blocks))), executor.run(step((PROMPT[5:9], 5, blocks)))]
    parts += [executor.run(step((PROMPT[i : i + 1], i, blocks))) for i in (9, 10)]
    assert_close(np.concatenate(parts), whole)


@settings(max_examples=20, deadline=None)
@given(cuts=st.sets(st.integers(1, len(PROMPT) - 1)), blocks=st.permutations(range(NUM_BLOCKS)))
def test_any_chunking_into_any_blocks_agrees(cuts: set[int], blocks: list[int]) -> None:
    executor = make_executor(spec_of("mistral", sliding_window=3, num_hidden_layers=2))
    expected = executor.run(step((PROMPT, 0, [0, 1, 2])))
    borders = [0, *sorted(cuts), len(PROMPT)]
    parts = [executor.run(step((PROMPT[a:b], a, blocks[:3]))) for a, b in pairwise(borders)]
    assert_close(np.concatenate(parts), expected)


def test_neighbors_in_a_step_do_not_disturb_each_other() -> None:
    executor = make_executor(spec_of("llama"))
    alone = executor.run(step((PROMPT, 0, [0, 1, 2])))
    executor.run(step((PROMPT[:6], 0, [3, 4, 5])))
    together = executor.run(step(([1, 2, 3], 0, [6]), (PROMPT[6:], 6, [3, 4, 5]), ([5] * 7, 0, [8, 7])))
    assert_close(together[3:8], alone[6:])


def test_two_requests_can_share_the_blocks_of_a_prefix() -> None:
    executor = make_executor(spec_of("llama"))
    expected = executor.run(step((PROMPT, 0, [0, 1, 2])))[8:]
    shared = executor.run(step((PROMPT[8:], 8, [0, 1, 5]), ([4, 4], 8, [0, 1, 6])))
    assert_close(shared[:3], expected)


def test_a_copied_block_serves_like_its_source() -> None:
    executor = make_executor(spec_of("llama"))
    expected = executor.run(step((PROMPT, 0, [0, 1, 2])))[8:]
    for source, target in ((0, 10), (1, 11)):
        executor.copy_block(source, target)
    executor.run(step(([1] * 8, 0, [0, 1])))
    assert_close(executor.run(step((PROMPT[8:], 8, [10, 11, 12]))), expected)


def test_only_the_sampled_rows_reach_the_head() -> None:
    executor = make_executor(spec_of("llama"))
    all_rows = executor.run(step((PROMPT, 0, [0, 1, 2])))
    assert_close(executor.run(step((PROMPT, 0, [0, 1, 2]), rows=[4, 10])), all_rows[[4, 10]])
    assert executor.run(step((PROMPT, 0, [0, 1, 2]), rows=[])).shape == (0, 251)


def test_read_kv_returns_what_was_written_and_leaves_other_slots_empty() -> None:
    executor = make_executor(spec_of("llama"))
    executor.run(step((PROMPT, 0, [2, 0, 1])))
    slots = np.arange(NUM_BLOCKS * BLOCK_SIZE, dtype=np.int32)
    for layer in range(4):
        for cache in executor.read_kv(layer, slots):
            assert cache.shape == (64, 2, 4)
            assert cache.dtype == np.float32
            assert np.abs(cache).max(axis=(1, 2)).astype(bool).tolist() == [i < 12 and i != 7 for i in range(64)]


def test_a_bfloat16_cache_holds_rounded_values() -> None:
    exact, rounded = (make_executor(spec_of("llama"), kv_format=kv_format) for kv_format in (KVFormat.FLOAT32, KVFormat.BFLOAT16))
    slots = np.arange(11, dtype=np.int32)
    for executor in (exact, rounded):
        executor.run(step((PROMPT, 0, [0, 1, 2])))
    for wanted, actual in zip(exact.read_kv(0, slots), rounded.read_kv(0, slots), strict=True):
        assert not (actual.view(np.uint32) & 0xFFFF).any()
        np.testing.assert_allclose(actual, wanted, rtol=2.0**-8)
        assert (actual != wanted).any()


@pytest.mark.parametrize("kv_format", [KVFormat.FLOAT32, KVFormat.BFLOAT16])
def test_the_cache_takes_what_the_capacity_formula_says(kv_format: KVFormat) -> None:
    executor = make_executor(spec_of("llama"), kv_format=kv_format)
    assert executor.kv_bytes == NUM_BLOCKS * executor.layout.bytes_per_block


def test_bfloat16_weights_change_the_logits_by_their_rounding() -> None:
    exact, rounded = (make_executor(spec_of("llama"), dtype=dtype).run(step((PROMPT, 0, [0, 1, 2]))) for dtype in DType)
    error = np.abs(exact - rounded).max() / np.abs(exact).max()
    assert 1e-4 < error < 5e-2


@pytest.mark.parametrize("family", CONFIGS)
def test_float64_arithmetic_agrees_with_float32(family: str) -> None:
    spec = spec_of(family)
    batch = step((PROMPT, 0, [0, 1, 2]))
    assert_close(make_executor(spec).run(batch), make_executor(spec, Float64ReferenceExecutor).run(batch))


def test_numerics_name_everything_that_changes_bits() -> None:
    spec = spec_of("llama")
    executors = [
        make_executor(spec),
        make_executor(spec, Float64ReferenceExecutor),
        make_executor(spec, kv_format=KVFormat.BFLOAT16),
        make_executor(spec, dtype=DType.BFLOAT16),
        *(make_executor(spec, quantize=Quantize.INT8, int_layout=layout) for layout in PackLayout),
    ]
    assert len({executor.numerics for executor in executors}) == 6


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"token_ids": [251]}, "token id"),
        ({"token_ids": [-1]}, "token id"),
        ({"positions": [512]}, "position"),
        ({"slot_mapping": [NUM_BLOCKS * BLOCK_SIZE]}, "slot"),
        ({"slot_mapping": [-1]}, "slot"),
        ({"block_tables": [[NUM_BLOCKS]]}, "block id"),
        ({"sample_rows": [1]}, "sampled row"),
        ({"context_lens": [5]}, "context length"),
        ({"context_lens": [0]}, "context length"),
        ({"context_lens": [2]}, "context_lens do not agree"),
        ({"slot_mapping": [1]}, "where the block table"),
        ({"query_start": [0, 2]}, "query_start"),
        ({"query_start": [0, 1, 1]}, "query_start"),
    ],
)
def test_a_step_out_of_range_is_refused_before_anything_is_written(change: dict[str, Any], problem: str) -> None:
    executor = make_executor(spec_of("llama"))
    good: dict[str, Any] = {
        "token_ids": [5],
        "positions": [0],
        "query_start": [0, 1],
        "context_lens": [1],
        "block_tables": [[0]],
        "slot_mapping": [0],
        "sample_rows": [0],
    }
    batch = StepBatch(**{name: np.array(value, dtype=np.int32) for name, value in (good | change).items()})
    with pytest.raises(ExecutorError, match=problem):
        executor.run(batch)
    keys, _ = executor.read_kv(0, np.arange(NUM_BLOCKS * BLOCK_SIZE, dtype=np.int32))
    assert not keys.any()


@pytest.mark.parametrize("int_layout", PackLayout)
@pytest.mark.parametrize("quantize", Quantize)
def test_a_step_that_wants_no_logits_has_them_all_later(quantize: Quantize, int_layout: PackLayout) -> None:
    executor = make_executor(spec_of("llama"), quantize=quantize, int_layout=int_layout)
    batch = step((PROMPT, 0, [0, 1, 2]))
    expected = executor.run(batch)
    nothing = executor.run(batch.without_samples())
    assert nothing.shape == (0, executor.spec.vocab_size)
    assert_close(executor.head(batch.sample_rows), expected)
    assert executor.argmax(batch.sample_rows).token_ids.tolist() == expected.argmax(axis=1).tolist()
    assert executor.argmax(batch.sample_rows[:0]).token_ids.shape == (0,)
