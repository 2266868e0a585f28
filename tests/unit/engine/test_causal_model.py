"""`model(input_ids, past_kvs)`: the seed's loop, branching, memory; over the fake whose K/V are the tokens themselves."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.engine.causal_model import CausalModel
from quire.engine.past_kvs import PastKVs, PastStore
from quire.errors import CapacityError, EmptyPromptError, ExecutorError, PromptTooLongError, RequestError, TokenizerError
from quire.executors.protocol import Float32Array
from quire.sched.limits import PoolBound
from support.fake_engine import BLOCK_SIZE, MAX_CONTEXT, VOCAB_SIZE, FakeExecutor

IDS = np.array([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]])


def _model(num_blocks: int = 64, **faults: int) -> CausalModel:
    return CausalModel(PastStore(FakeExecutor(num_blocks, **faults)), MAX_CONTEXT, Path("nowhere"))


def _past(result: tuple[Float32Array, PastKVs | None]) -> PastKVs:
    past = result[1]
    if past is None:
        raise ValueError("no cache came back")
    return past


def test_logits_have_a_row_for_every_token() -> None:
    logits, past = _model()(IDS)
    assert (logits.shape, logits.dtype) == ((2, 5, VOCAB_SIZE), np.float32)
    assert past is not None
    assert (past.num_tokens, past.batch_size, len(past)) == (5, 2, 1)


def test_keys_and_values_have_the_seeds_shape() -> None:
    model = _model()
    past = _past(model(IDS))
    keys, values = past[0]
    assert keys.shape == values.shape == (2, 1, 5, 2)
    np.testing.assert_array_equal(keys[:, 0, :, 0], IDS)
    assert [pair[0].shape for pair in past] == [(2, 1, 5, 2)]
    np.testing.assert_array_equal(past[-1][0], keys)
    with pytest.raises(IndexError):
        past[1]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 70), min_size=1, max_size=5), st.integers(0, 2**32))
def test_any_way_of_cutting_gives_the_same_logits(sizes: list[int], seed: int) -> None:
    tokens = np.random.default_rng(seed).integers(0, VOCAB_SIZE, (2, sum(sizes)))
    whole, nothing = _model()(tokens, use_cache=False)
    assert nothing is None
    model = _model()
    past: PastKVs | None = None
    pieces = []
    for piece in np.split(tokens, np.cumsum(sizes)[:-1], axis=1):
        logits, past = model(piece, past_kvs=past)
        pieces.append(logits)
    np.testing.assert_array_equal(np.concatenate(pieces, axis=1), whole)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(1, 40)), min_size=1, max_size=14),
    st.lists(st.booleans(), min_size=14, max_size=14),
)
def test_branches_never_disturb_each_other(extensions: list[tuple[int, int]], dropped: list[bool]) -> None:
    model = _model(200)
    rng = np.random.default_rng(len(extensions))
    living: list[tuple[np.ndarray, PastKVs | None]] = [(np.zeros((2, 0), dtype=int), None)]
    for (origin, num_new), drops in zip(extensions, dropped, strict=False):
        tokens, past = living[origin % len(living)]
        new = rng.integers(0, VOCAB_SIZE, (2, num_new))
        grown = np.concatenate([tokens, new], axis=1)
        if grown.shape[1] > MAX_CONTEXT:
            continue
        logits, longer = model(new, past_kvs=past)
        np.testing.assert_array_equal(logits[:, -1], _model()(grown, use_cache=False)[0][:, -1])
        if drops and past is not None:
            del living[origin % len(living)]
        living.append((grown, longer))
        for expected, held in living:
            if held is not None:
                np.testing.assert_array_equal(held[0][0][:, 0, :, 0], expected)
        model.check()
    del living, past, longer, held
    assert model.num_free_blocks == 200


def test_branches_share_full_blocks_and_copy_only_a_tail_that_grew() -> None:
    model = _model()
    past = _past(model([[1] * (BLOCK_SIZE + 3)]))
    in_place = _past(model([[2]], past_kvs=past))
    assert (in_place.rows[0].block_ids, model.num_free_blocks) == (past.rows[0].block_ids, 62)
    copied = _past(model([[3]], past_kvs=past))
    assert copied.rows[0].block_ids[0] == past.rows[0].block_ids[0]
    assert copied.rows[0].block_ids[1] != past.rows[0].block_ids[1]
    assert model.num_free_blocks == 61


def test_dropped_handles_give_their_blocks_back() -> None:
    model = _model()
    past = _past(model(IDS))
    longer = _past(model(IDS, past_kvs=past))
    del past
    gc.collect()
    assert model.num_free_blocks == 62
    del longer
    assert model.num_free_blocks == 64
    model.check()


def test_without_cache_nothing_stays_in_memory() -> None:
    model = _model()
    past = _past(model(IDS))
    logits, nothing = model(IDS, past_kvs=past, use_cache=False)
    assert (nothing, model.num_free_blocks) == (None, 62)
    np.testing.assert_array_equal(logits, model(IDS, past_kvs=past)[0])


def test_running_out_of_memory_is_an_error_that_leaves_everything_as_it_was() -> None:
    model = _model(4)
    past = _past(model([[1] * 40, [2] * 40]))
    with pytest.raises(CapacityError, match="4 blocks"):
        model([[1] * 30, [2] * 30], past_kvs=past)
    assert model.num_free_blocks == 0
    model.check()
    np.testing.assert_array_equal(past[0][0][:, 0, :, 0], [[1] * 40, [2] * 40])
    assert model([[3], [3]], past_kvs=past)[0].shape == (2, 1, VOCAB_SIZE)


def test_tails_of_an_extension_that_did_not_fit_are_written_on_and_not_copied() -> None:
    model = _model(3)
    past = _past(model([[1], [2]]))
    with pytest.raises(CapacityError):
        model([[1] * BLOCK_SIZE, [2] * BLOCK_SIZE], past_kvs=past)
    longer = _past(model([[3], [4]], past_kvs=past))
    assert [row.block_ids for row in longer.rows] == [row.block_ids for row in past.rows]
    assert model.num_free_blocks == 1


@pytest.mark.parametrize("bound", PoolBound)
def test_advice_when_memory_is_out_names_the_option_that_bounds_it(bound: PoolBound) -> None:
    model = CausalModel(PastStore(FakeExecutor(1), bound), MAX_CONTEXT, Path("nowhere"))
    with pytest.raises(CapacityError, match=f"more {bound.value}"):
        model([[1] * 40])


def test_context_that_is_the_models_cannot_be_raised() -> None:
    with pytest.raises(PromptTooLongError) as caught:
        _model()([[1] * (MAX_CONTEXT + 1)])
    assert caught.value.next_step == "Start again with fewer tokens."


def test_failing_forward_pass_leaves_the_past_usable() -> None:
    model = _model(poison=9)
    past = _past(model([[1, 2, 3]]))
    with pytest.raises(ExecutorError):
        model([[9]], past_kvs=past)
    assert model.num_free_blocks == 63
    expected = _model()([[1, 2, 3, 4]], use_cache=False)[0][:, -1]
    np.testing.assert_array_equal(model([[4]], past_kvs=past)[0][:, -1], expected)


def test_large_batches_and_prompts_run_in_bounded_steps() -> None:
    executor = FakeExecutor(640)
    model = CausalModel(PastStore(executor), MAX_CONTEXT, Path("nowhere"))
    model(np.ones((600, 2), dtype=int))
    model(np.ones((2, 500), dtype=int))
    assert executor.max_rows <= 512


@pytest.mark.parametrize(
    ("ids", "error"),
    [
        ([[]], EmptyPromptError),
        ([1, 2], RequestError),
        ([[1.5]], RequestError),
        ([[1, 2], [3]], RequestError),
        ("hello", RequestError),
        ([[VOCAB_SIZE]], RequestError),
        ([[-1]], RequestError),
        ([[1] * (MAX_CONTEXT + 1)], PromptTooLongError),
    ],
)
def test_bad_tokens_are_refused(ids: list[object], error: type[Exception]) -> None:
    model = _model()
    with pytest.raises(error):
        model(ids)
    assert model.num_free_blocks == 64


def test_past_must_fit_the_model_and_the_batch() -> None:
    model, other = _model(), _model()
    past = _past(model(IDS))
    with pytest.raises(RequestError, match="another model"):
        other(IDS, past_kvs=past)
    with pytest.raises(RequestError, match="rows"):
        model(IDS[:1], past_kvs=past)


@pytest.mark.parametrize("past", [(), "x", 0, [None]])
def test_what_is_no_cache_is_refused(past: object) -> None:
    with pytest.raises(RequestError, match="or None to begin"):
        _model()(IDS, past_kvs=past)  # type: ignore[arg-type]


def test_tokenizer_is_only_read_when_asked_for() -> None:
    model = _model()
    assert model(IDS)[0].shape == (2, 5, VOCAB_SIZE)
    with pytest.raises(TokenizerError):
        _ = model.tokenizer
