"""The short-lived notes of one scheduling pass: the budget that is left, and what `abandon` needs to take it back."""

from __future__ import annotations

from quire.request import Request
from quire.sched.plan import ScheduledChunk, StepPlan


class StepPass:
    """Filled by `plan_step`, kept while the step is in flight, dropped by `complete_step` or `abandon`.

    tokens_left        token budget not given to a chunk yet
    requests, chunks   who is scheduled, and with which tokens; same order
    num_blocks_before  blocks that a running request held before this step gave it more
    admitted           ids of the requests that this step let in
    is_full            nobody else may be scheduled: memory or budget stopped a running request
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

    def add(self, request: Request, num_tokens: int, block_ids: tuple[int, ...], samples: bool) -> None:
        """Schedules the next `num_tokens` tokens of a request, which `samples` if these are all, and pays for them."""
        start = request.num_computed_tokens
        num_given, is_scored = 0, False
        if not request.output_token_ids and request.needs_prompt_logits:
            num_given = max(0, request.first_logits_at - start)
            is_scored = num_given < num_tokens
        chunk = ScheduledChunk(
            request.request_id, start, num_tokens, block_ids, samples, is_scored, num_given if is_scored else 0
        )
        self.requests.append(request)
        self.chunks.append(chunk)
        self.tokens_left = max(0, self.tokens_left - num_tokens)
