"""What one step will do: values passed from the scheduler to the engine, decided before anything runs.

They are named tuples, made in a third of the time of a frozen dataclass.
"""

from __future__ import annotations

from typing import NamedTuple

from quire.request import FinishReason


class ScheduledChunk(NamedTuple):
    """Tokens [start, start + num_tokens) of one request, computed in this step.

    `block_ids` is the request's whole block table, long enough for `start + num_tokens` tokens. `samples` is true when
    the chunk reaches the request's last token, so a new token is drawn from its last row. `wants_all_rows` asks for the
    logits of every row of the chunk (prompt log-probabilities) but the first `num_given_rows`, which belong to given context.
    """

    request_id: str
    start: int
    num_tokens: int
    block_ids: tuple[int, ...]
    samples: bool
    wants_all_rows: bool
    num_given_rows: int = 0

    @property
    def stop(self) -> int:
        return self.start + self.num_tokens


class StepPlan(NamedTuple):
    """The chunks of step number `step`, and the requests that gave their blocks back to make room for them."""

    step: int
    scheduled: tuple[ScheduledChunk, ...]
    preempted: tuple[str, ...]

    @property
    def num_tokens(self) -> int:
        return sum(chunk.num_tokens for chunk in self.scheduled)


class Sampled(NamedTuple):
    """The token drawn for a request in a step, and whether it ends the request."""

    token_id: int
    finish_reason: FinishReason | None = None
