"""What a caller of the sampler can see, one behavior at a time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import pytest

from quire.errors import ExecutorError, SampleRowError, SamplingError
from quire.request import Draw, SamplingParams
from quire.sample import sampler
from quire.sample.definition import NumPySampler
from quire.sample.draw import draw
from quire.sample.noise import uniform
from quire.sample.sampler import SampleRow, TokenCounts, require_known_tokens

sample, score = partial(sampler.sample, NumPySampler()), partial(sampler.score, NumPySampler())
GREEDY = SamplingParams(temperature=0)


def row_of(params: SamplingParams, *, output: tuple[int, ...] = (), seed: int = 0, **more: object) -> SampleRow:
    return SampleRow(
        params=params,
        seed=seed,
        prompt_token_ids=(1, 2),
        output_token_ids=output,
        eos_token_ids=frozenset({0}),
        **more,  # type: ignore[arg-type]
    )


def logits_of(*values: float) -> npt.NDArray[np.float32]:
    return np.asarray([values], dtype=np.float32)


def test_greedy_takes_the_smallest_id_of_equal_logits() -> None:
    assert sample(logits_of(1, 3, 3, 2), [row_of(GREEDY)])[0].token_id == 1


def test_the_same_seed_and_position_draw_the_same_token_whatever_came_before() -> None:
    logits = np.zeros((1, 500), dtype=np.float32)
    row = row_of(SamplingParams(), seed=7, output=(3, 4))
    first = sample(logits, [row])
    sample(logits, [row_of(SamplingParams(), seed=8)])
    assert sample(logits, [row]) == first


def test_noise_differs_between_positions_and_between_seeds() -> None:
    drawn = {uniform(seed, position) for seed in range(20) for position in range(20)}
    assert len(drawn) == 400
    assert all(0 <= value < 1 for value in drawn)
    assert 0.45 < sum(drawn) / 400 < 0.55


def test_noise_is_the_published_stream_of_philox() -> None:
    """A change here changes every seeded answer ever given, so the numbers are pinned."""
    assert uniform(5, 7) == (14843759927929523615 >> 11) * 2.0**-53


@pytest.mark.parametrize("noise", [0.0, 0.5, 1 - 2**-53])
def test_a_flat_distribution_over_a_large_vocabulary_draws_in_id_order(noise: float) -> None:
    size = 30_000
    plain = Draw(temperature=1.0, top_k=None, top_p=1.0, min_p=0.0)
    assert draw(np.zeros(size, dtype=np.float32), plain, noise) == int(noise * size)


def test_the_drawn_token_does_not_depend_on_how_far_the_order_was_sorted() -> None:
    logits = np.random.default_rng(3).normal(size=20_000).astype(np.float32)
    order = np.argsort(-logits, kind="stable")
    weights = np.exp(logits.astype(np.float64) - logits.max())
    cumulative = np.cumsum(weights[order])
    plain = Draw(temperature=1.0, top_k=None, top_p=1.0, min_p=0.0)
    for noise in (0.0, 1e-3, 0.02, 0.3, 0.9, 0.9999):
        assert draw(logits, plain, noise) == order[np.searchsorted(cumulative, noise * weights.sum(), side="right")]


def test_top_k_cuts_equal_logits_by_id() -> None:
    method = Draw(temperature=1.0, top_k=2, top_p=1.0, min_p=0.0)
    drawn = {draw(np.asarray([1, 5, 5, 5], dtype=np.float32), method, noise / 10) for noise in range(10)}
    assert drawn == {1, 2}


def test_min_tokens_bans_eos_and_stop_ids_until_it_is_reached() -> None:
    params = SamplingParams(temperature=0, min_tokens=2, stop_token_ids=(1,))
    logits = logits_of(9, 8, 1)
    assert [sample(logits, [row_of(params, output=output)])[0].token_id for output in [(), (2,), (2, 2)]] == [2, 2, 0]


class Banned:
    """Bans some tokens behind each output of a length."""

    def __init__(self, *by_length: tuple[int, ...]) -> None:
        self._by_length = by_length

    def after(self, output_token_ids: Sequence[int]) -> npt.NDArray[np.int32]:
        return np.array(self._by_length[len(output_token_ids)], dtype=np.int32)


@pytest.mark.parametrize(
    "params", [GREEDY, SamplingParams(temperature=1e-3), SamplingParams(temperature=0, logit_bias={3: 100.0})]
)
def test_a_banned_token_is_not_chosen_whatever_else_speaks_for_it(params: SamplingParams) -> None:
    ban = Banned((), (3,), (1, 3))
    rows = [row_of(params, output=output, ban=ban) for output in [(), (2,), (2, 1)]]
    assert [token.token_id for token in sample(np.repeat(logits_of(0, 8, 5, 9), 3, axis=0), rows)] == [3, 1, 2]


def test_a_row_that_bans_tokens_never_takes_the_best_unseen() -> None:
    assert row_of(GREEDY).takes_best
    assert not row_of(GREEDY, ban=Banned(())).takes_best


def test_banned_tokens_keep_their_logprobs() -> None:
    params = SamplingParams(temperature=0, logprobs=1)
    token = sample(logits_of(1, 2), [row_of(params, ban=Banned((1,)))])[0]
    assert token.logprobs is not None
    assert [(token_id, entry.rank) for token_id, entry in token.logprobs.items()] == [(0, 2), (1, 1)]


def test_banned_tokens_outside_the_models_vocabulary_change_nothing() -> None:
    assert sample(logits_of(1, 2), [row_of(GREEDY, ban=Banned((77,)))])[0].token_id == 1


def test_counts_kept_between_steps_change_no_token() -> None:
    params = SamplingParams(temperature=0, repetition_penalty=1.3, frequency_penalty=0.4, presence_penalty=0.2)
    counts = TokenCounts((1, 2))
    logits = np.random.default_rng(0).normal(size=(1, 8)).astype(np.float32)
    kept: list[int] = []
    fresh: list[int] = []
    for _ in range(20):
        kept.append(sample(logits, [row_of(params, output=tuple(kept), counts=counts)])[0].token_id)
        fresh.append(sample(logits, [row_of(params, output=tuple(fresh))])[0].token_id)
    assert kept == fresh
    assert len(set(kept)) > 1


def test_logprobs_describe_the_model_and_not_the_penalties() -> None:
    params = SamplingParams(temperature=0, logit_bias={1: 50.0}, logprobs=1)
    token = sample(logits_of(3, 0, 0), [row_of(params)])[0]
    assert token.token_id == 1
    assert token.logprobs is not None
    assert [(token_id, entry.rank) for token_id, entry in token.logprobs.items()] == [(1, 2), (0, 1)]
    assert token.logprobs[0].logprob - token.logprobs[1].logprob == pytest.approx(3.0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_names_itself(value: float) -> None:
    logits = np.zeros((3, 4), dtype=np.float32)
    logits[1, 2] = value
    with pytest.raises(ExecutorError) as caught:
        sample(logits, [row_of(GREEDY)] * 3)
    assert isinstance(caught.value, SampleRowError)
    assert caught.value.row_idx == 1
    with pytest.raises(SampleRowError, match="1 of 4 values"):
        score(logits, [0, 0, 0], 1)


def test_a_request_that_bans_every_token_names_its_row() -> None:
    with pytest.raises(SampleRowError, match="banned") as caught:
        sample(np.zeros((2, 2), dtype=np.float32), [row_of(GREEDY), row_of(GREEDY, ban=Banned((0, 1)))])
    assert caught.value.row_idx == 1


@pytest.mark.parametrize("params", [SamplingParams(logit_bias={8: 1.0}), SamplingParams(stop_token_ids=(8,))])
def test_token_ids_beyond_the_vocabulary_are_refused_at_admission(params: SamplingParams) -> None:
    require_known_tokens(params, 9)
    with pytest.raises(SamplingError, match="limit: 7"):
        require_known_tokens(params, 8)


def test_rows_and_logits_must_agree_in_number() -> None:
    with pytest.raises(ValueError, match="2 rows"):
        sample(np.zeros((2, 4), dtype=np.float32), [row_of(GREEDY)])
