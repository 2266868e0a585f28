"""What one step will do: values passed from the scheduler to the engine, decided before anything runs.

They are named tuples, made in a third of the time of a frozen dataclass.
"""

from __future__ import annotations

from typing import NamedTuple

from quire.kv.copies import BlockCopy
from quire.sched.first_draws import JointDraw


class ScheduledChunk(NamedTuple):
    """Tokens [start, start + num_tokens) of one request, computed in this step.

    `block_ids` is the request's whole block table, long enough for `start + num_tokens` tokens. In a KV format with own tiles,
    `own_tile` is where its last tile is written, and a chunk that begins inside a tile ends in it. Logits are wanted of the
    chunk's last rows only:

        [ rows whose K/V are all that is wanted | num_scored_rows | num_sample_rows ]
                                                  score a prompt    draw new tokens: one where the chunk reaches
                                                  token each        the request's last token, else none
    """

    request_id: str
    start: int
    num_tokens: int
    block_ids: tuple[int, ...]
    num_sample_rows: int
    num_scored_rows: int = 0
    own_tile: int = 0

    @property
    def stop(self) -> int:
        return self.start + self.num_tokens

    @property
    def num_logit_rows(self) -> int:
        """Rows of logits that the executor returns for the chunk."""
        return self.num_scored_rows + self.num_sample_rows

    @property
    def first_scored(self) -> int:
        """Position of the first prompt token that the scored rows score: a row predicts the token after it."""
        return self.start + self.num_tokens - self.num_logit_rows + 1


class StepPlan(NamedTuple):
    """The chunks of step number `step`, and the requests that gave their blocks back to make room for them.

    `copies` are made once, in their order, before the first chunk is computed. `joint_draws` name requests without a chunk.
    """

    step: int
    scheduled: tuple[ScheduledChunk, ...]
    preempted: tuple[str, ...]
    copies: tuple[BlockCopy, ...] = ()
    joint_draws: tuple[JointDraw, ...] = ()

    @property
    def num_tokens(self) -> int:
        return sum(chunk.num_tokens for chunk in self.scheduled)
