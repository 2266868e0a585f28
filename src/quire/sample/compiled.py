"""From rows of logits to tokens on the compiled core: a whole batch per call, without the GIL and on several threads.

Same tokens and same bits as `definition`, on every instruction set and with any number of threads: see `buckets`. Importing this
module raises ImportError where the core was not built.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from quire.environment import default_threads
from quire.native import _core
from quire.request import Draw, Greedy
from quire.sample.arrays import Float32Array
from quire.sample.buckets import sharpness
from quire.sample.definition import RowToken, Score, logprobs_of
from quire.sample.draw import least_nats
from quire.sample.filters import SampleRow, changes_to

_FASTEST = ""  # the name of an instruction set


def choose_tokens(logits: Float32Array, rows: Sequence[SampleRow]) -> list[RowToken]:
    """Returns the token of each row of logits [S, V]."""
    choices = [row_choice(values, row) for values, row in zip(logits, rows, strict=True)]
    return _row_tokens(logits, _sampler().sample(logits, choices))


def score_tokens(logits: Float32Array, token_ids: Sequence[int], num_top: int) -> list[RowToken]:
    """Returns the log-probabilities of one given token per row of logits [S, V]."""
    return _row_tokens(logits, _sampler().score(logits, list(token_ids), num_top))


def row_choice(logits: Float32Array, row: SampleRow) -> _core.RowChoice:
    """Returns how the core chooses the token of one row of logits [V]."""
    method, num_top = row.params.method, row.params.logprobs
    if isinstance(method, Greedy):
        choice = _core.RowChoice(None, 0.0, num_top)
    else:
        choice = _core.RowChoice(draw_method(method), _core.uniform(row.seed, row.position), num_top)
    changes = changes_to(logits, row)
    if changes is not None:
        choice.change(changes.ids.astype(np.int64, copy=False), changes.logits)
        if changes.mask is not None:
            choice.allow(changes.mask.words)
    return choice


def draw_method(method: Draw) -> _core.DrawMethod:
    """Returns the core's form of a way to draw."""
    return _core.DrawMethod(sharpness(method.temperature), method.top_k, method.top_p, least_nats(method))


@cache
def _sampler() -> _core.BatchSampler:
    """Returns the sampler of this process, with threads of its own; calls that overlap do not wait for each other."""
    return _core.BatchSampler(_FASTEST, default_threads())


def _row_tokens(logits: Float32Array, results: Sequence[_core.RowResult]) -> list[RowToken]:
    return [_row_token(values, result) for values, result in zip(logits, results, strict=True)]


def _row_token(logits: Float32Array, result: _core.RowResult) -> RowToken:
    token_id, score = result.token_id, result.score
    if token_id is None or score is None:
        return RowToken(token_id, result.num_not_finite)
    parts = Score(score.best, score.exp_sum, score.num_before + 1, score.largest_ids)
    return RowToken(token_id, logprobs=logprobs_of(logits, token_id, parts))
