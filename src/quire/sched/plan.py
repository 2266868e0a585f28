"""What one step will do: values passed from the scheduler to the engine, decided before anything runs.

They are named tuples, made in a third of the time of a frozen dataclass.
"""

from __future__ import annotations

from typing import NamedTuple

from quire.request import Request


class ScheduledChunk(NamedTuple):
    """Tokens [start, start + num_tokens) of one request, computed in this step.

    `block_ids` is the request's whole block table, long enough for `start + num_tokens` tokens. Logits are wanted of the
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
    """The chunks of step number `step`, and the requests that gave their blocks back to make room for them."""

    step: int
    scheduled: tuple[ScheduledChunk, ...]
    preempted: tuple[str, ...]

    @property
    def num_tokens(self) -> int:
        return sum(chunk.num_tokens for chunk in self.scheduled)


class StepPass:
    """The short-lived notes of one scheduling pass: the budget that is left, and what `abandon` needs to take it back.

    Filled by `plan_step`, kept while the step is in flight, dropped by `complete_step` or `abandon`.

    tokens_left        token budget not given to a chunk yet
    requests, chunks   the scheduled requests and the tokens of each, in the same order
    num_blocks_before  blocks that a running request held before this step gave it more
    admitted           ids of the requests that this step let in
    is_full            no further request may be scheduled: memory or budget stopped a running one
    """

    __slots__ = ("admitted", "chunks", "is_full", "num_blocks_before", "plan", "preempted", "requests", "tokens_left")

    def __init__(self, tokens_left: int) -> None:
        self.tokens_left = tokens_left
        self.requests: list[Request] = []
        self.chunks: list[ScheduledChunk] = []
        self.num_blocks_before: dict[str, int] = {}
        self.admitted: set[str] = set()
        self.preempted: list[str] = []
        self.is_full = False
        self.plan: StepPlan | None = None

    def add(self, request: Request, num_tokens: int, block_ids: tuple[int, ...], *, is_last: bool) -> None:
        """Schedules the next `num_tokens` tokens of a request, its last ones if `is_last`, and pays for them."""
        start = request.num_computed_tokens
        num_sample, num_scored = int(is_last), 0
        if not request.output_token_ids and request.needs_prompt_logits:
            num_context = max(0, request.first_logits_at - start)
            num_scored = max(0, num_tokens - num_context - num_sample)
        self.requests.append(request)
        self.chunks.append(ScheduledChunk(request.request_id, start, num_tokens, block_ids, num_sample, num_scored))
        self.tokens_left = max(0, self.tokens_left - num_tokens)
