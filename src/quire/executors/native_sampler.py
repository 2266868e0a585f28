"""From rows of logits to tokens on the compiled core: a whole batch per call, without the GIL and on several threads.

Same tokens and same bits as `quire.sample.definition`, on every instruction set and with any number of threads: see
`quire.sample.buckets`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from quire.arrays import Float32Array
from quire.executors.core_errors import translated_errors
from quire.executors.core_types import Core
from quire.request import Draw, Greedy
from quire.sample.buckets import sharpness
from quire.sample.definition import RowToken, Score, logprobs_of
from quire.sample.draw import least_nats
from quire.sample.filters import SampleRow, changes_to

if TYPE_CHECKING:
    from quire.native import _core


class NativeSampler:
    """Samples with a sampler of the core; one call at a time. Raises ExecutorError for a second one."""

    def __init__(self, core: Core, sampler: _core.BatchSampler) -> None:
        self._core = core
        self._sampler = sampler

    def sample(self, logits: Float32Array, rows: Sequence[SampleRow]) -> list[RowToken]:
        """Returns the token of each row of logits [S, V]."""
        choices = [self._choice(values, row) for values, row in zip(logits, rows, strict=True)]
        with translated_errors(self._core):
            results = self._sampler.sample(logits, choices)
        return _row_tokens(logits, results)

    def score(self, logits: Float32Array, token_ids: Sequence[int], num_top: int) -> list[RowToken]:
        """Returns the log-probabilities of one given token per row of logits [S, V]."""
        with translated_errors(self._core):
            results = self._sampler.score(logits, list(token_ids), num_top)
        return _row_tokens(logits, results)

    def _choice(self, logits: Float32Array, row: SampleRow) -> _core.RowChoice:
        """Returns how the core chooses the token of one row of logits [V]."""
        method, num_top = row.params.method, row.params.logprobs
        if isinstance(method, Greedy):
            choice = self._core.RowChoice(None, 0.0, num_top)
        else:
            noise = self._core.uniform(row.seed, row.position)
            choice = self._core.RowChoice(_draw_method(self._core, method), noise, num_top)
        changes = changes_to(logits, row)
        if changes is not None:
            choice.change(changes.ids.astype(np.int64, copy=False), changes.logits)
            if changes.mask is not None:
                choice.allow(changes.mask.words)
        return choice


def _draw_method(core: Core, method: Draw) -> _core.DrawMethod:
    return core.DrawMethod(sharpness(method.temperature), method.top_k, method.top_p, least_nats(method))


def _row_tokens(logits: Float32Array, results: Sequence[_core.RowResult]) -> list[RowToken]:
    return [_row_token(values, result) for values, result in zip(logits, results, strict=True)]


def _row_token(logits: Float32Array, result: _core.RowResult) -> RowToken:
    token_id, score = result.token_id, result.score
    if token_id is None or score is None:
        return RowToken(token_id, result.num_not_finite)
    parts = Score(score.best, score.exp_sum, score.num_before + 1, score.largest_ids)
    return RowToken(token_id, logprobs=logprobs_of(logits, token_id, parts))
