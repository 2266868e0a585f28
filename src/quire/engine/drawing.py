"""From a step's logits to its tokens and prompt scores; a row that cannot be used is blamed on its request alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from quire.engine.batch import num_logit_rows
from quire.engine.isolate import failure_message
from quire.executors.protocol import Float32Array
from quire.request import TokenLogprobs
from quire.sample.sampler import SampledToken, SampleRow, sample, score
from quire.sched.plan import ScheduledChunk


@dataclass(slots=True)
class StepTokens:
    """By request id: tokens drawn, scores of prompt tokens (from `chunk.start + 1` on), and reasons of failure."""

    tokens: dict[str, SampledToken] = field(default_factory=dict)
    scores: dict[str, list[TokenLogprobs]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def draw_tokens(logits: Float32Array, chunks: Sequence[ScheduledChunk], rows: Mapping[str, SampleRow]) -> StepTokens:
    """Draws a token for every chunk that samples and scores the prompt tokens of every chunk that wants all rows."""
    drawn = StepTokens()
    sampling_ids: list[str] = []
    sampling_rows: list[int] = []
    first = 0
    for chunk in chunks:
        num_rows = num_logit_rows(chunk)
        if chunk.wants_all_rows:
            _score(logits[first : first + num_rows], chunk, rows[chunk.request_id], drawn)
        first += num_rows
        if chunk.samples:
            sampling_ids.append(chunk.request_id)
            sampling_rows.append(first - 1)
    wanted = logits if len(sampling_rows) == len(logits) else logits[np.array(sampling_rows, dtype=np.intp)]
    _sample(wanted, sampling_ids, [rows[request_id] for request_id in sampling_ids], drawn)
    return drawn


def _sample(logits: Float32Array, request_ids: Sequence[str], rows: Sequence[SampleRow], drawn: StepTokens) -> None:
    try:
        drawn.tokens |= zip(request_ids, sample(logits, rows), strict=True)
    except Exception as error:
        if len(rows) == 1:
            drawn.failures[request_ids[0]] = failure_message(error)
            return
        for row_idx, request_id in enumerate(request_ids):
            _sample(logits[row_idx : row_idx + 1], [request_id], [rows[row_idx]], drawn)


def _score(logits: Float32Array, chunk: ScheduledChunk, row: SampleRow, drawn: StepTokens) -> None:
    targets = row.prompt_token_ids[chunk.start + 1 : chunk.stop + 1]
    num_top = row.params.prompt_logprobs or 0
    try:
        drawn.scores[chunk.request_id] = score(logits[: len(targets)], targets, num_top)
    except Exception as error:
        drawn.failures[chunk.request_id] = failure_message(error)
