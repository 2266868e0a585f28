"""From a step's logits to its tokens and prompt scores; a row that cannot be used is blamed on its request alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from quire.engine.batch import num_logit_rows
from quire.engine.failure import failure_message
from quire.executors.protocol import Float32Array
from quire.request import TokenLogprobs
from quire.sample.sampler import SampledToken, SampleRow, sample, score
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


class Drawing:
    """Reads the logit rows of a step's chunks, in their order and in slices of any size.

    Draws a token for every chunk that samples and scores the prompt tokens of every chunk that wants all rows. No result
    depends on where slices end.
    """

    def __init__(self, chunks: Sequence[ScheduledChunk], rows: Mapping[str, SampleRow]) -> None:
        self.drawn = StepTokens()
        self._chunks = chunks
        self._rows = rows
        self._num_read = 0

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
            self.drawn.tokens |= zip(request_ids, sample(logits, [self._rows[each] for each in request_ids]), strict=True)
        except Exception as error:
            if len(request_ids) == 1:
                self.drawn.failures[request_ids[0]] = failure_message(error)
                return
            for row_idx, request_id in enumerate(request_ids):
                self._sample(logits[row_idx : row_idx + 1], [request_id])

    def _score(self, logits: Float32Array, position: int, request_id: str) -> None:
        """Scores the prompt's tokens from `position` on; the last row of a prompt has none to score."""
        row = self._rows[request_id]
        targets = row.prompt_token_ids[position : position + len(logits)]
        try:
            found = score(logits[: len(targets)], targets, row.params.prompt_logprobs or 0)
            self.drawn.scores.setdefault(request_id, []).extend(found)
        except Exception as error:
            self.drawn.failures[request_id] = failure_message(error)
