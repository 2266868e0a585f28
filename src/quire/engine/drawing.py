"""From a step's logits to its tokens and prompt scores; a row that cannot be used is blamed on its request alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from quire.engine.batch import num_logit_rows
from quire.engine.failure import failure_message
from quire.errors import is_failure
from quire.executors.protocol import ArgmaxTokens, Float32Array, Int32Array
from quire.request import TokenLogprobs
from quire.sample.sampler import SampledToken, SampleRow, not_finite, sample, score
from quire.sched.plan import ScheduledChunk


@dataclass(slots=True)
class StepTokens:
    """By request id: tokens drawn, scores of prompt tokens (see `first_scored`), and reasons of failure."""

    tokens: dict[str, SampledToken] = field(default_factory=dict)
    scores: dict[str, list[TokenLogprobs]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def take(self, other: StepTokens) -> None:
        """Adds what was drawn for other requests of the same step."""
        self.tokens |= other.tokens
        self.scores |= other.scores
        self.failures |= other.failures


def first_scored(chunk: ScheduledChunk) -> int:
    """Returns the position of the first prompt token that the logits of a chunk score: a row speaks of the token behind it."""
    return chunk.start + chunk.num_given_rows + 1


class RowSource(Protocol):
    """Whatever knows what decides a request's next token."""

    @property
    def row(self) -> SampleRow: ...


class Drawing:
    """Reads the logit rows of a step's chunks, in their order and in slices of any size.

    Draws a token for every chunk that samples and scores the prompt tokens of every chunk that wants all rows. No result
    depends on where slices end.
    """

    def __init__(self, chunks: Sequence[ScheduledChunk], members: Mapping[str, RowSource], vocab_size: int) -> None:
        self.drawn = StepTokens()
        self._chunks = chunks
        self._members = members
        self._vocab_size = vocab_size
        self._num_read = 0

    @property
    def needs_logits(self) -> bool:
        """Whether anything but the best token is wanted of any row."""
        members = self._members
        for chunk in self._chunks:
            if chunk.wants_all_rows or (chunk.samples and not members[chunk.request_id].row.takes_best):
                return True
        return False

    def read_best(self, best: ArgmaxTokens) -> None:
        """Takes the best tokens of the next rows [R] of a step that needs no logits: one row for each chunk that samples."""
        sampling = [chunk.request_id for chunk in self._chunks if chunk.samples]
        request_ids = sampling[self._num_read : self._num_read + len(best.token_ids)]
        self._num_read += len(request_ids)
        tokens = self.drawn.tokens
        for request_id, token_id in zip(request_ids, best.token_ids.tolist(), strict=True):
            tokens[request_id] = SampledToken(token_id, None)
        if best.num_not_finite.any():
            self._blame(request_ids, best.num_not_finite)

    def _blame(self, request_ids: Sequence[str], num_not_finite: Int32Array) -> None:
        for row_idx, request_id in enumerate(request_ids):
            if num_not_finite[row_idx]:
                error = not_finite(row_idx, int(num_not_finite[row_idx]), self._vocab_size)
                del self.drawn.tokens[request_id]
                self.drawn.failures[request_id] = failure_message(error)

    def read(self, logits: Float32Array) -> None:
        """Takes the next rows [R, V]."""
        sampling_ids: list[str] = []
        sampling_rows: list[int] = []
        begin = -self._num_read  # of a chunk's rows within this slice; before it when negative
        for chunk in self._chunks:
            end = begin + num_logit_rows(chunk)
            if chunk.wants_all_rows and begin < len(logits) and end > 0:
                first = max(0, begin)
                self._score(logits[first:end], first_scored(chunk) + first - begin, chunk.request_id)
            if chunk.samples and 0 < end <= len(logits):
                sampling_ids.append(chunk.request_id)
                sampling_rows.append(end - 1)
            begin = end
        self._num_read += len(logits)
        wanted = logits if len(sampling_rows) == len(logits) else logits[np.array(sampling_rows, dtype=np.intp)]
        self._sample(wanted, sampling_ids)

    def _sample(self, logits: Float32Array, request_ids: Sequence[str]) -> None:
        try:
            self.drawn.tokens |= zip(request_ids, sample(logits, [self._members[each].row for each in request_ids]), strict=True)
        except BaseException as error:
            if not is_failure(error):
                raise
            if len(request_ids) == 1:
                self.drawn.failures[request_ids[0]] = failure_message(error)
                return
            for row_idx, request_id in enumerate(request_ids):
                self._sample(logits[row_idx : row_idx + 1], [request_id])

    def _score(self, logits: Float32Array, position: int, request_id: str) -> None:
        """Scores the prompt's tokens from `position` on; the last row of a prompt has none to score."""
        row = self._members[request_id].row
        targets = row.prompt_token_ids[position : position + len(logits)]
        try:
            found = score(logits[: len(targets)], targets, row.params.prompt_logprobs or 0)
            self.drawn.scores.setdefault(request_id, []).extend(found)
        except BaseException as error:
            if not is_failure(error):
                raise
            self.drawn.failures[request_id] = failure_message(error)
