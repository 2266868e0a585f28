"""From a step's logits to its tokens and prompt scores; a row that cannot be used is blamed on its request alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from quire.engine.completion import CompletionState
from quire.errors import failure_message, is_failure
from quire.executors.protocol import ArgmaxTokens, Executor, Float32Array, Int32Array
from quire.request import TokenLogprobs
from quire.sample.sampler import not_finite, sample, score
from quire.sched.plan import ScheduledChunk

States = Mapping[str, CompletionState]
Joined = Mapping[str, Sequence[str]]


@dataclass(slots=True)
class StepTokens:
    """By request id: token ids drawn, log-probabilities of each where they were asked for, scores of prompt tokens from
    `ScheduledChunk.first_scored` on, and reasons of failure."""

    token_ids: dict[str, list[int]] = field(default_factory=dict)
    logprobs: dict[str, list[TokenLogprobs]] = field(default_factory=dict)
    scores: dict[str, list[TokenLogprobs]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def take(self, other: StepTokens) -> None:
        """Adds what was drawn for other requests of the same step."""
        self.token_ids |= other.token_ids
        self.logprobs |= other.logprobs
        self.scores |= other.scores
        self.failures |= other.failures


class StepSampler:
    """Consumes the logit rows of a step's chunks, in their order and in slices of any size.

    On the executor, it draws a token from the sample row of a chunk and scores prompt tokens with its scored rows. No result
    depends on where slices end. Completions are found in `states` by request id. `joined` are those, by the id of a request, that
    draw from its sample row as well; none is greedy, as greedy completions of one prompt are refused.
    """

    def __init__(self, chunks: Sequence[ScheduledChunk], states: States, executor: Executor, joined: Joined) -> None:
        self.drawn = StepTokens()
        self._joined = joined
        self._chunks = chunks
        self._states = states
        self._executor = executor
        self._num_read = 0

    @property
    def needs_logits(self) -> bool:
        """Whether anything but the argmax is wanted of any row."""
        states = self._states
        for request_id, _, _, _, num_sample_rows, num_scored_rows, _ in self._chunks:
            if num_scored_rows or (num_sample_rows and not states[request_id].row.takes_best):
                return True
        return False

    def consume_argmax(self, best: ArgmaxTokens) -> None:
        """Takes the argmax of the next rows [R] of a step that needs no logits: one row for each chunk that samples."""
        sampling = [chunk.request_id for chunk in self._chunks if chunk.num_sample_rows]
        request_ids = sampling[self._num_read : self._num_read + len(best.token_ids)]
        self._num_read += len(request_ids)
        self.drawn.token_ids.update(zip(request_ids, best.token_ids[:, np.newaxis].tolist(), strict=True))
        if np.count_nonzero(best.num_not_finite):
            self._blame(request_ids, best.num_not_finite)

    def consume_logits(self, logits: Float32Array) -> None:
        """Takes the next rows [R, V]."""
        sampling_ids: list[str] = []
        sampling_rows: list[int] = []
        begin = -self._num_read  # of a chunk's rows within this slice; before it when negative
        for chunk in self._chunks:
            stop = begin + chunk.num_scored_rows
            if begin < len(logits) and stop > max(0, begin):
                first = max(0, begin)
                self._score(logits[first:stop], chunk.first_scored + first - begin, chunk.request_id)
            if chunk.num_sample_rows and 0 <= stop < len(logits):
                request_ids = chunk.request_id, *self._joined.get(chunk.request_id, ())
                sampling_ids += request_ids
                sampling_rows += [stop] * len(request_ids)
            begin = stop + chunk.num_sample_rows
        self._num_read += len(logits)
        wanted = (
            logits if len(sampling_rows) == len(logits) and not self._joined else logits[np.array(sampling_rows, dtype=np.intp)]
        )
        self._sample(wanted, sampling_ids)

    def _blame(self, request_ids: Sequence[str], num_not_finite: Int32Array) -> None:
        for row_idx, request_id in enumerate(request_ids):
            if num_not_finite[row_idx]:
                error = not_finite(row_idx, int(num_not_finite[row_idx]), self._executor.spec.vocab_size)
                del self.drawn.token_ids[request_id]
                self.drawn.failures[request_id] = failure_message(error)

    def _sample(self, logits: Float32Array, request_ids: Sequence[str]) -> None:
        try:
            tokens = sample(self._executor, logits, [self._states[each].row for each in request_ids])
            for request_id, token in zip(request_ids, tokens, strict=True):
                self.drawn.token_ids[request_id] = [token.token_id]
                if token.logprobs is not None:
                    self.drawn.logprobs[request_id] = [token.logprobs]
        except BaseException as error:
            if not is_failure(error):
                raise
            if len(request_ids) == 1:
                self.drawn.failures[request_ids[0]] = failure_message(error)
                return
            for row_idx, request_id in enumerate(request_ids):
                self._sample(logits[row_idx : row_idx + 1], [request_id])

    def _score(self, logits: Float32Array, position: int, request_id: str) -> None:
        """Scores the prompt's tokens from `position` on."""
        row = self._states[request_id].row
        targets = row.prompt_token_ids[position : position + len(logits)]
        try:
            found = score(self._executor, logits, targets, row.params.prompt_logprobs or 0)
            self.drawn.scores.setdefault(request_id, []).extend(found)
        except BaseException as error:
            if not is_failure(error):
                raise
            self.drawn.failures[request_id] = failure_message(error)
