"""From rows of logits to tokens, as NumPy defines it: one row after the other."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from quire.arrays import Float32Array
from quire.request import Greedy, Logprob, TokenLogprobs
from quire.sample.draw import draw
from quire.sample.filters import SampleRow, adjusted, changes_to
from quire.sample.noise import uniform
from quire.sample.ranking import exp_sum, largest_ids, num_before


class RowToken(NamedTuple):
    """The token of one row; without one, the number of logits that are not finite, or 0 where every token is banned."""

    token_id: int | None
    num_not_finite: int = 0
    logprobs: TokenLogprobs | None = None


class Score(NamedTuple):
    """What the log-probabilities of a token and of the most likely ones are made of; its rank counts from 1."""

    best: float
    exp_sum: float
    rank: int
    largest_ids: Sequence[int]


class NumPySampler:
    """Samples by this definition, one row after the other."""

    def sample(self, logits: Float32Array, rows: Sequence[SampleRow]) -> list[RowToken]:
        """Returns the token of each row of logits [S, V]."""
        return [_choose(values, row) for values, row in zip(logits, rows, strict=True)]

    def score(self, logits: Float32Array, token_ids: Sequence[int], num_top: int) -> list[RowToken]:
        """Returns the log-probabilities of one given token per row of logits [S, V]."""
        return [_scored(values, token_id, num_top) for values, token_id in zip(logits, token_ids, strict=True)]


def logprobs_of(logits: Float32Array, token_id: int, score: Score) -> TokenLogprobs:
    """Returns the token first, then the most likely ones; no two tokens of a row share a rank."""
    log_total = math.log(score.exp_sum)

    def entry(each: int, rank: int) -> Logprob:
        return Logprob(logprob=float(logits[each]) - score.best - log_total, rank=rank)

    candidates = {token_id: entry(token_id, score.rank)}
    for rank, each in enumerate(score.largest_ids, start=1):
        if each != token_id:
            candidates[each] = entry(each, rank)
    return candidates


def _choose(logits: Float32Array, row: SampleRow) -> RowToken:
    if not np.isfinite(logits).all():
        return _not_finite(logits)
    changes = changes_to(logits, row)
    changed = logits if changes is None else adjusted(logits, changes)
    token_id = int(changed.argmax())
    if changed[token_id] == -np.inf:
        return RowToken(None)
    method, num_top = row.params.method, row.params.logprobs
    if not isinstance(method, Greedy):
        token_id = draw(changed, method, uniform(row.seed, row.position))
    return RowToken(token_id) if num_top is None else _scored(logits, token_id, num_top)


def _scored(logits: Float32Array, token_id: int, num_top: int) -> RowToken:
    if not np.isfinite(logits).all():
        return _not_finite(logits)
    top: Iterable[int] = largest_ids(logits, num_top).tolist() if num_top else ()
    score = Score(float(logits.max()), exp_sum(logits), num_before(logits, token_id) + 1, tuple(top))
    return RowToken(token_id, logprobs=logprobs_of(logits, token_id, score))


def _not_finite(logits: Float32Array) -> RowToken:
    return RowToken(None, num_not_finite=int(np.count_nonzero(~np.isfinite(logits))))
