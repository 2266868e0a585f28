"""What one scheduling pass has decided so far, and how much of its budget is left."""

from __future__ import annotations

from quire.request import Request, RequestStatus
from quire.sched.plan import ScheduledChunk, StepPlan
from quire.sched.turns import Turns


class StepPass:
    """The short-lived notes of one scheduling pass: the budget that is left, and what `abandon` needs to take it back.

    Filled by `plan_step`, kept while the step is in flight, dropped by `complete_step` or `abandon`.

    budget             most tokens of the step; a prompt that wants no more is short
    tokens_left        tokens not given to a chunk yet
    tokens_kept        how many of them long prompts leave to short ones
    requests, chunks   the scheduled requests and the tokens of each, in the same order
    num_blocks_before  blocks that a running request held before this step gave it more
    admitted           ids of the requests that this step let in
    closed             tenants of preempted requests: no other of theirs is let in
    is_full            no further request may be let in: memory or budget stopped a running one
    num_decoding       chunks of requests that draw a token in every step; they are the first ones
    begun              running requests whose prompt is not computed yet
    turns              which of them, and of those that wait, were served; None where all decode
    """

    __slots__ = (
        "admitted",
        "begun",
        "budget",
        "chunks",
        "closed",
        "is_full",
        "num_blocks_before",
        "num_decoding",
        "plan",
        "preempted",
        "requests",
        "step",
        "tokens_kept",
        "tokens_left",
        "turns",
    )

    def __init__(self, step: int, budget: int) -> None:
        self.step = step
        self.budget = self.tokens_left = budget
        self.tokens_kept = self.num_decoding = 0
        self.begun: list[Request] = []
        self.turns: Turns | None = None
        self.requests: list[Request] = []
        self.chunks: list[ScheduledChunk] = []
        self.num_blocks_before: dict[str, int] = {}
        self.admitted: set[str] = set()
        self.preempted: list[str] = []
        self.closed: set[str] = set()
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
        chunk = ScheduledChunk(request.request_id, start, num_tokens, block_ids, num_sample, num_scored, request.own_tile)
        self.chunks.append(chunk)
        self.tokens_left = max(0, self.tokens_left - num_tokens)
        if request.num_pending_tokens <= self.budget:
            self.tokens_kept = max(0, self.tokens_kept - num_tokens)

    def drop(self, request_id: str) -> None:
        """Takes a request out of the step again, if it is in it."""
        for idx, chunk in enumerate(self.chunks):
            if chunk.request_id == request_id:
                self.tokens_left += chunk.num_tokens
                self.num_decoding -= int(idx < self.num_decoding)
                del self.requests[idx], self.chunks[idx]
                return

    @property
    def prompts(self) -> set[str]:
        """Ids of the requests whose prompt, or what was drawn before a preemption, is still being computed."""
        return {request.request_id for request in self.begun}

    @property
    def alive(self) -> list[tuple[Request, ScheduledChunk]]:
        """The scheduled requests that have not ended since."""
        running = RequestStatus.RUNNING
        return [pair for pair in zip(self.requests, self.chunks, strict=True) if pair[0].status is running]
