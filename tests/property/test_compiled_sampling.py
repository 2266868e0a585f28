"""The compiled sampler against its definition in NumPy: the same tokens and the same bits, on every instruction set."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.executors.native import available_isas, load_core
from quire.executors.native_sampler import NativeSampler
from quire.request import Draw, SamplingParams
from quire.sample import ranking
from quire.sample.buckets import LEAST, Buckets, sharpness
from quire.sample.definition import NumPySampler
from quire.sample.draw import draw, least_nats
from quire.sample.mask import TokenMask
from quire.sample.noise import uniform
from quire.sample.sampler import SampleRow

pytestmark = pytest.mark.skipif(not available_isas(), reason="the native core is not compiled here")

Row = npt.NDArray[Any]
METHODS = st.builds(
    Draw,
    temperature=st.sampled_from([5e-324, 1e-300, 0.05, 0.7, 1.0, 3.0, 100.0]),
    top_k=st.one_of(st.none(), st.sampled_from([1, 2, 3, 20, 100, 5000])),
    top_p=st.sampled_from([1e-9, 0.1, 0.5, 0.93, 1 - 1e-12, 1.0]),
    min_p=st.sampled_from([0.0, 1e-30, 0.02, 0.4, 1.0]),
)
NOISE = st.one_of(st.floats(0, 1, exclude_max=True), st.sampled_from([0.0, 0.5, 1 - 2**-53]))


@st.composite
def logits(draw_value: st.DrawFn) -> npt.NDArray[np.float32]:
    """Rows of up to three hundred blocks: flat, coarse (many equal ones), narrow and wide."""
    size = draw_value(st.one_of(st.integers(1, 200), st.sampled_from([4096, 4097, 19_001])))
    generator = np.random.default_rng(draw_value(st.integers(0, 2**32)))
    values = generator.normal(size=size) * draw_value(st.sampled_from([0.0, 1e-6, 1.0, 4.0, 60.0]))
    if draw_value(st.booleans()):
        values = np.round(values)
    return values.astype(np.float32)


def banned_ids(row: Row) -> npt.NDArray[np.int64]:
    return np.arange(1, row.size, 3)


def with_bans(row: Row) -> npt.NDArray[np.float64]:
    changed = row.astype(np.float64)
    changed[banned_ids(row)] = -np.inf
    return changed


def choices_of(row: Row, method: Draw, noise: float) -> list[Any]:
    """Returns four ways to ask for a draw: from the row, from the row with bans, and both from changed logits."""
    core = load_core()
    drawn = core.DrawMethod(sharpness(method.temperature), method.top_k, method.top_p, least_nats(method))
    choices = [core.RowChoice(drawn, noise, None) for _ in range(4)]
    mask = TokenMask.banning([banned_ids(row)], row.size)
    for choice in choices[1::2]:
        if mask is not None:
            choice.allow(mask.words)
    for choice in choices[2:]:
        choice.change(np.arange(row.size), row.astype(np.float64))
    return choices


def drawn_everywhere(row: npt.NDArray[np.float32], choices: list[Any]) -> set[tuple[int | None, ...]]:
    """Returns the tokens of these choices, on every instruction set, alone and on two threads."""
    rows = np.repeat(row[None], len(choices), axis=0)
    samplers = [load_core().BatchSampler(isa, threads) for isa in available_isas() for threads in (1, 2)]
    return {tuple(result.token_id for result in sampler.sample(rows, choices)) for sampler in samplers}


@given(row=logits(), method=METHODS, noise=NOISE)
@settings(max_examples=300, deadline=None)
def test_the_core_draws_what_the_definition_draws(row: npt.NDArray[np.float32], method: Draw, noise: float) -> None:
    plain, banned = draw(row, method, noise), draw(with_bans(row), method, noise)
    assert drawn_everywhere(row, choices_of(row, method, noise)) == {(plain, banned, plain, banned)}


@pytest.mark.parametrize("weight", [3e-6, 1e-7, 1e-9])
def test_a_goal_among_light_tokens_is_met_by_the_right_one(weight: float) -> None:
    generator = np.random.default_rng(5)
    row = (math.log(weight) + 1e-3 * generator.normal(size=20_000)).astype(np.float32)
    row[7_000] = 0.0
    banned = with_bans(row)
    lightest = 1 - 20_000 * weight
    choices: list[Any] = []
    expected: list[int] = []
    for top_p, noise in zip(generator.uniform(lightest, 1, size=20), generator.uniform(lightest, 1, size=20), strict=True):
        for method in (
            Draw(temperature=1.0, top_k=None, top_p=top_p, min_p=0.0),
            Draw(temperature=1.0, top_k=None, top_p=1.0, min_p=0.0),
        ):
            choices += choices_of(row, method, noise)
            expected += [draw(row, method, noise), draw(banned, method, noise)] * 2
    assert drawn_everywhere(row, choices) == {tuple(expected)}


@given(row=logits(), count=st.sampled_from([1, 2, 7, 64, 300, 5000]))
@settings(max_examples=150, deadline=None)
def test_the_core_ranks_and_sums_as_the_definition_does(row: npt.NDArray[np.float32], count: int) -> None:
    token_id = row.size * 2 // 3
    for isa in available_isas():
        (result,) = load_core().BatchSampler(isa, 1).score(row[None], [token_id], count)
        assert result.token_id == token_id
        assert result.score.best == float(row.max())
        assert result.score.exp_sum == ranking.exp_sum(row)
        assert result.score.num_before == ranking.num_before(row, token_id)
        assert result.score.largest_ids == ranking.largest_ids(row, count).tolist()


@given(row=logits(), bans=st.booleans())
@settings(max_examples=150, deadline=None)
def test_the_core_finds_the_largest_logit(row: npt.NDArray[np.float32], bans: bool) -> None:
    values = with_bans(row) if bans else row
    choices = [load_core().RowChoice(None, 0.0, None)]
    mask = TokenMask.banning([banned_ids(row)], row.size) if bans else None
    if mask is not None:
        choices[0].allow(mask.words)
    assert drawn_everywhere(row, choices) == {(int(values.argmax()),)}


@given(row=logits(), spoiled=st.integers(0, 10**6), value=st.sampled_from([np.nan, np.inf, -np.inf]))
@settings(deadline=None)
def test_a_row_that_is_not_finite_has_no_token(row: npt.NDArray[np.float32], spoiled: int, value: float) -> None:
    row[spoiled % row.size] = value
    for isa in available_isas():
        sampler = load_core().BatchSampler(isa, 1)
        for result in (*sampler.sample(row[None], [load_core().RowChoice(None, 0.0, 3)]), *sampler.score(row[None], [0], 3)):
            assert (result.token_id, result.num_not_finite, result.score) == (None, 1, None)


@given(seed=st.integers(0, 2**64 - 1), position=st.integers(0, 2**64 - 1))
def test_the_core_makes_the_noise_of_the_definition(seed: int, position: int) -> None:
    assert load_core().uniform(seed, position) == uniform(seed, position)


@st.composite
def owners(draw_value: st.DrawFn, vocab_size: int) -> SampleRow:
    """Requests that draw or take the best, with and without bans, bias, penalties and log-probabilities."""
    method = draw_value(METHODS)
    token_ids = st.lists(st.integers(0, vocab_size - 1), max_size=6).map(tuple)
    drawn = {"temperature": method.temperature, "top_k": method.top_k or 0, "top_p": method.top_p, "min_p": method.min_p}
    params = SamplingParams(
        **draw_value(st.sampled_from([{"temperature": 0}, drawn])),
        logprobs=draw_value(st.one_of(st.none(), st.integers(0, 5))),
        logit_bias=draw_value(st.dictionaries(st.integers(0, vocab_size - 1), st.sampled_from([-100.0, 2.5]), max_size=3)),
        repetition_penalty=draw_value(st.sampled_from([1.0, 1.3])),
        frequency_penalty=draw_value(st.sampled_from([0.0, 0.4])),
        presence_penalty=draw_value(st.sampled_from([0.0, -0.2])),
        min_tokens=draw_value(st.sampled_from([0, 9])),
        stop_token_ids=draw_value(token_ids),
    )
    return SampleRow(
        params=params,
        seed=draw_value(st.integers(0, 2**63 - 1)),
        prompt_token_ids=draw_value(token_ids),
        output_token_ids=draw_value(token_ids),
        eos_token_ids=frozenset(draw_value(token_ids)),
    )


@given(data=st.data(), row=logits(), num_rows=st.integers(1, 5), num_top=st.integers(0, 5))
@settings(max_examples=200, deadline=None)
def test_a_batch_is_sampled_and_scored_as_the_definition_does(
    data: st.DataObject, row: npt.NDArray[np.float32], num_rows: int, num_top: int
) -> None:
    rows = np.stack([np.roll(row, shift) for shift in range(num_rows)])
    requests = [data.draw(owners(row.size)) for _ in range(num_rows)]
    before = rows.copy()
    compiled, definition = NativeSampler(load_core(), load_core().BatchSampler("", 2)), NumPySampler()
    assert compiled.sample(rows, requests) == definition.sample(rows, requests)
    targets = [row.size - 1] * num_rows
    assert compiled.score(rows, targets, num_top) == definition.score(rows, targets, num_top)
    assert np.array_equal(rows, before)


@given(row=logits())
@settings(deadline=None)
def test_the_sum_of_weights_is_that_of_exponentials(row: npt.NDArray[np.float32]) -> None:
    expected = math.fsum(math.exp(float(value) - float(row.max())) for value in row)
    # One weight errs by 4e-15, the sum of V of them by V roundings more, and what is lighter than e^-44 is left out.
    rel_tol = 4e-15 + row.size * (2**-53 + math.exp(LEAST))
    assert math.isclose(Buckets(row).total, expected, rel_tol=rel_tol)


@pytest.mark.parametrize("temperature", [5e-324, sys.float_info.min, 1e-300])
def test_the_smallest_temperatures_draw_the_best_token(temperature: float) -> None:
    method = Draw(temperature=temperature, top_k=None, top_p=1.0, min_p=0.0)
    row = np.array([1.0, 3.0, 3.0, 2.0], dtype=np.float32)
    assert [draw(row, method, noise) for noise in (0.0, 0.4, 0.6, 1 - 2**-53)] == [1, 1, 2, 2]
