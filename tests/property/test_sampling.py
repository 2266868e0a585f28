"""The sampler against its naive twin: plain sorting, plain sums, one token at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.request import Draw, SamplingParams
from quire.sample import sampler
from quire.sample.definition import NumPySampler
from quire.sample.draw import draw
from quire.sample.noise import uniform
from quire.sample.ranking import largest_ids, log_softmax
from quire.sample.sampler import SampleRow, TokenCounts

sample, score = partial(sampler.sample, NumPySampler()), partial(sampler.score, NumPySampler())
VOCAB = 37
# Coarse values make equal logits common, which is where orders go wrong.
LOGITS = st.lists(st.integers(-40, 40).map(lambda value: value / 4), min_size=VOCAB, max_size=VOCAB)
TOKENS = st.lists(st.integers(0, VOCAB - 1), max_size=12)
METHODS = st.builds(
    Draw,
    temperature=st.sampled_from([1e-300, 0.05, 0.7, 1.0, 3.0, 100.0]),
    top_k=st.one_of(st.none(), st.integers(1, VOCAB + 3)),
    top_p=st.sampled_from([1e-9, 0.1, 0.5, 0.93, 1.0]),
    min_p=st.sampled_from([0.0, 0.02, 0.4, 1.0]),
)


def as_row(values: list[float]) -> npt.NDArray[np.float32]:
    return np.asarray(values, dtype=np.float32)


def naive_draw(logits: list[float], method: Draw, noise: float) -> int:
    """Textbook filters over a fully sorted list, in exactly rounded sums."""
    best = max(logits)
    weights = {i: math.exp(max((x - best) / method.temperature, -1e4)) for i, x in enumerate(logits)}
    order = sorted(weights, key=lambda i: (-logits[i], i))
    order = [i for i in order if weights[i] >= method.min_p]
    order = order[: method.top_k]
    mass = math.fsum(weights[i] for i in order)
    kept: list[int] = []
    for token_id in order:
        if method.top_p < 1 and kept and math.fsum(weights[i] for i in kept) >= method.top_p * mass * (1 - 1e-12):
            break
        kept.append(token_id)
    mass = math.fsum(weights[i] for i in kept)
    for count in range(1, len(kept) + 1):
        if math.fsum(weights[i] for i in kept[:count]) > noise * mass:
            return kept[count - 1]
    return kept[-1]


@dataclass(frozen=True)
class Banned:
    """Bans some tokens, and one that depends on the output."""

    ids: set[int]

    def after(self, output_token_ids: Sequence[int]) -> npt.NDArray[np.int32]:
        return np.array(sorted({*self.ids, len(output_token_ids)}), dtype=np.int32)


def naive_adjusted(logits: list[float], row: SampleRow) -> list[float]:
    params, prompt, output = row.params, list(row.prompt_token_ids), list(row.output_token_ids)
    values = list(logits)
    for token_id in range(len(values)):
        ends_early = len(output) < params.min_tokens and token_id in row.eos_token_ids | set(params.stop_token_ids)
        is_banned = row.ban is not None and token_id in row.ban.after(output)
        values[token_id] = -math.inf if ends_early or is_banned else values[token_id] + params.logit_bias.get(token_id, 0.0)
        if token_id in prompt + output:
            penalty = params.repetition_penalty
            values[token_id] *= 1 / penalty if values[token_id] > 0 else penalty
        values[token_id] -= params.frequency_penalty * output.count(token_id)
        values[token_id] -= params.presence_penalty if token_id in output else 0.0
    return values


@given(logits=LOGITS, method=METHODS, seed=st.integers(0, 2**63 - 1))
@settings(max_examples=400, deadline=None)
def test_draw_equals_its_naive_twin(logits: list[float], method: Draw, seed: int) -> None:
    noise = uniform(seed, 5)
    assert draw(as_row(logits), method, noise) == naive_draw(logits, method, noise)


@given(values=st.lists(st.integers(0, 9), min_size=1, max_size=60), count=st.integers(1, 70))
def test_largest_ids_are_a_stable_descending_head(values: list[int], count: int) -> None:
    expected = sorted(range(len(values)), key=lambda i: (-values[i], i))[:count]
    assert largest_ids(np.asarray(values, dtype=np.float64), count).tolist() == expected


@st.composite
def rows(draw_value: st.DrawFn) -> SampleRow:
    number = st.sampled_from([-2.0, -0.5, 0.0, 0.25, 2.0])
    params = SamplingParams(
        temperature=draw_value(st.sampled_from([0.0, 0.5, 1.0])),
        repetition_penalty=draw_value(st.sampled_from([0.5, 1.0, 2.0])),
        frequency_penalty=draw_value(number),
        presence_penalty=draw_value(number),
        logit_bias=draw_value(
            st.dictionaries(st.integers(0, VOCAB - 1), st.sampled_from([-100.0, -1.0, 2.0, 100.0]), max_size=4)
        ),
        stop_token_ids=tuple(draw_value(st.lists(st.integers(0, VOCAB - 1), max_size=2))),
        min_tokens=draw_value(st.integers(0, 8)),
        logprobs=draw_value(st.one_of(st.none(), st.integers(0, 5))),
    )
    return SampleRow(
        params=params,
        seed=draw_value(st.integers(0, 2**63 - 1)),
        prompt_token_ids=draw_value(TOKENS),
        output_token_ids=draw_value(TOKENS),
        eos_token_ids=frozenset(draw_value(st.lists(st.integers(0, VOCAB - 1), max_size=2))),
        ban=draw_value(st.one_of(st.none(), st.builds(Banned, st.sets(st.integers(0, VOCAB + 1), max_size=3)))),
    )


@given(logits=LOGITS, row=rows())
@settings(max_examples=300, deadline=None)
def test_a_sampled_token_equals_the_naive_twins(logits: list[float], row: SampleRow) -> None:
    values = naive_adjusted(logits, row)
    method = row.params.method
    greedy = values.index(max(values))
    expected = naive_draw(values, method, uniform(row.seed, row.position)) if isinstance(method, Draw) else greedy
    assert sample(as_row(logits)[None], [row])[0].token_id == expected


@given(logits=st.lists(LOGITS, min_size=2, max_size=4), owners=st.lists(rows(), min_size=4, max_size=4))
@settings(max_examples=100, deadline=None)
def test_a_row_does_not_see_its_neighbors(logits: list[list[float]], owners: list[SampleRow]) -> None:
    stacked = np.stack([as_row(values) for values in logits])
    before = stacked.copy()
    owners = owners[: len(logits)]
    together = sample(stacked, owners)
    alone = [sample(stacked[i : i + 1], owners[i : i + 1])[0] for i in range(len(owners))]
    assert together == alone
    assert np.array_equal(stacked, before)


@given(prompt=TOKENS, output=TOKENS, cuts=st.lists(st.integers(0, 12), max_size=5))
def test_counts_that_catch_up_equal_counts_made_at_once(prompt: list[int], output: list[int], cuts: list[int]) -> None:
    grown, fresh = TokenCounts(prompt), TokenCounts(prompt)
    for cut in [*cuts, len(output)]:
        grown.catch_up(output[:cut])
    fresh.catch_up(output)
    assert grown.seen_ids().tolist() == fresh.seen_ids().tolist() == sorted({*prompt, *output})
    counted = {tuple(sorted(zip(*map(np.ndarray.tolist, counts.output_counts()), strict=True))) for counts in (grown, fresh)}
    assert counted == {tuple(sorted({token: output.count(token) for token in output}.items()))}


@given(logits=LOGITS, target=st.integers(0, VOCAB - 1), num_top=st.integers(0, VOCAB + 2))
@settings(deadline=None)
def test_scores_hold_the_target_and_the_best_with_their_ranks(logits: list[float], target: int, num_top: int) -> None:
    (entry,) = score(as_row(logits)[None], [target], num_top)
    order = sorted(range(VOCAB), key=lambda i: (-logits[i], i))
    total = math.log(math.fsum(math.exp(x) for x in logits))
    assert next(iter(entry)) == target
    assert set(entry) == {target, *order[:num_top]}
    for token_id, candidate in entry.items():
        assert order[candidate.rank - 1] == token_id
        assert math.isclose(candidate.logprob, logits[token_id] - total, abs_tol=1e-12)


@given(logits=LOGITS)
def test_probabilities_sum_to_one(logits: list[float]) -> None:
    assert math.isclose(np.exp(log_softmax(as_row(logits))).sum(), 1.0, rel_tol=1e-12)


@given(seed=st.integers(0, 2**63 - 1), position=st.integers(0, 2**40))
@settings(max_examples=50, deadline=None)
def test_noise_is_numpys_philox(seed: int, position: int) -> None:
    word = int(np.random.Philox(key=seed, counter=position).random_raw())
    assert uniform(seed, position) == (word >> 11) * 2.0**-53
