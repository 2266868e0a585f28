"""The scheduler: which tokens of which requests a step computes.

There is no prefill phase and no decode phase. A request has `num_computed_tokens`, and a step gives it tokens until it has
caught up with `num_tokens`:

    [0 ........ num_cached_tokens) [.......... num_computed_tokens) [...... chunk ......) [.... num_tokens)
     found by the first admission    computed by earlier steps        this step            later steps

A chunk that reaches the last token samples a new one. Running requests are served first, most urgent first; then waiting
ones are let in while token budget, sequence slots and blocks last. When blocks run out, the least urgent running request
gives its blocks back and waits at its old place; it keeps its output, and its committed blocks stay findable.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence

from quire.config import KVCacheMode, PrefixCache, SchedulerConfig
from quire.errors import CapacityError, ConfigError, defect
from quire.kv.manager import KVCacheManager, PrefixMatch
from quire.request import FinishReason, Request, RequestStatus
from quire.sched.limits import ContextBound, RequestLimits
from quire.sched.plan import ScheduledChunk, StepPass, StepPlan
from quire.sched.queue import WaitingQueue, urgency

MAX_PASSED_OVER = 16
"""Waiting requests that one step may skip because their prefix is being computed; bounds the work of a step."""


class Scheduler:
    """Requests in, plans out. The only writer of the lower half of `Request`. Plans depend on the calls made, on nothing else.

    The order of calls is `plan_step`, run it, `complete_step` or `abandon`; `submit`, `abort` and `fail` may come
    at any time on the same thread. `num_cached_tokens` of a request is what its first admission found; what it finds again
    after a preemption is not counted as a saving.
    """

    def __init__(
        self,
        config: SchedulerConfig,
        manager: KVCacheManager,
        *,
        max_context: int,
        mode: KVCacheMode = KVCacheMode.PAGED,
        context_bound: ContextBound = ContextBound.MODEL,
    ) -> None:
        if mode is KVCacheMode.OFF and manager.prefix_cache is PrefixCache.ON:
            raise ConfigError("A prefix cache needs a KV cache", next_step="Use PrefixCache.OFF together with KVCacheMode.OFF.")
        self.manager = manager
        self.limits = RequestLimits(
            max_context=max_context,
            num_blocks=manager.pool.num_blocks,
            block_size=manager.pool.block_size,
            context_bound=context_bound,
        )
        self._config = config
        self._mode = mode
        self._block_size = manager.pool.block_size
        self._requests: dict[str, Request] = {}
        self._waiting = WaitingQueue()
        self._running: list[Request] = []  # sorted by urgency; the last one is preempted first
        self._num_arrived = 0
        self._num_steps = 0
        self._in_flight: StepPass | None = None

    @property
    def has_work(self) -> bool:
        return bool(self._requests)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_held_tokens(self) -> int:
        """Tokens whose K/V the held blocks have; those of a shared block count once."""
        size, pool, block_ids = self._block_size, self.manager.pool, self.manager.block_ids
        num_full, num_in_tails = pool.num_blocks - pool.num_free, 0
        for request in self._running:  # whatever is not filled is held by one request alone
            num_computed = request.num_computed_tokens
            num_full -= len(block_ids(request.request_id)) - num_computed // size
            num_in_tails += num_computed % size
        return num_full * size + num_in_tails

    # -- requests come and go --------------------------------------------------------

    def submit(self, request: Request) -> None:
        """Queues a request, or refuses at once what can never be answered.

        Raises EmptyPromptError, PromptTooLongError, CapacityError (also when the queue is full).
        """
        if request.request_id in self._requests:
            raise defect(f"request {request.request_id} is submitted twice")
        self.limits.check(request)
        if len(self._waiting) >= self._config.max_queued_requests:
            raise CapacityError(
                "The waiting queue is full",
                given=f"{len(self._waiting)} waiting requests",
                limit=self._config.max_queued_requests,
                next_step="Try again when some have been answered.",
            )
        self.manager.open(request.request_id, tenant=request.tenant, salt=request.cache_salt)
        request.arrival = self._num_arrived
        request.max_num_tokens = self.limits.max_num_tokens(request)
        self._num_arrived += 1
        self._requests[request.request_id] = request
        self._waiting.push(request)

    def abort(self, request_id: str) -> Request | None:
        """Ends a request and gives its blocks back; its committed prefix stays findable. None if the id is not in progress."""
        return self._end_early(request_id, FinishReason.ABORT)

    def fail(self, request_id: str) -> Request | None:
        """Ends a request that cannot be computed with FinishReason.ERROR; otherwise as `abort`."""
        return self._end_early(request_id, FinishReason.ERROR)

    # -- a step ----------------------------------------------------------------------

    def plan_step(self) -> StepPlan | None:
        """Reserves blocks for the next step and says what it computes; None when there is nothing to do."""
        if self._in_flight is not None:
            raise defect("a step is planned while another is in flight")
        if not self._requests:
            return None
        work = StepPass(self._config.max_num_batched_tokens)
        self.manager.begin_step(self._num_steps)
        self._serve_running(work)
        if self._waiting and not work.is_full:
            self._admit_waiting(work)
        if not work.chunks:
            raise defect(f"{len(self._requests)} requests are in progress but none can advance")
        work.plan = StepPlan(step=self._num_steps, scheduled=tuple(work.chunks), preempted=tuple(work.preempted))
        self._num_steps += 1
        self._in_flight = work
        return work.plan

    def complete_step(
        self, plan: StepPlan, sampled: Mapping[str, Sequence[int]], ended: Mapping[str, FinishReason] | None = None
    ) -> tuple[Request, ...]:
        """Records that the plan's tokens are computed, appends sampled tokens, and returns the requests that finished.

        `sampled` holds the new token ids of every request with sample rows that was not aborted or failed meanwhile. `ended`
        says why the last of them ends its request. Tokens beyond the request's length are dropped, and it ends by that.
        """
        work = self._landed(plan)
        alive = self._alive(work)
        for request, (_, _, _, _, num_sample_rows, _) in alive:
            if num_sample_rows and not sampled.get(request.request_id):
                raise defect(f"no token was sampled for request {request.request_id}")
        self._in_flight = None
        finished = []
        keeps_kv, block_size = self._mode is KVCacheMode.PAGED, self._block_size
        for request, (request_id, start, num_tokens, _, num_sample_rows, _) in alive:
            if keeps_kv:
                stop = request.num_computed_tokens = start + num_tokens
                if stop % block_size < num_tokens:  # a block was filled
                    self.manager.commit(request, stop)
            else:
                self.manager.release(request_id)
            if num_sample_rows:
                reason = _append(request, sampled[request_id], ended.get(request_id) if ended else None)
                if reason is not None:
                    self._finish(request, reason)
                    finished.append(request)
        return tuple(finished)

    def abandon(self, plan: StepPlan) -> None:
        """Takes a plan back whose run failed: what it reserved is free again, what it let in waits again.

        The next plan then schedules exactly the same chunks, unless this one preempted: blocks that a failed run may have
        overwritten are not given back to their old owners, and evicted content stays evicted.
        """
        work = self._landed(plan)
        self._in_flight = None
        self._num_steps -= 1
        for request, _ in reversed(self._alive(work)):
            if request.request_id in work.admitted:
                self._stop(request)
                if not request.num_preemptions:
                    request.num_cached_tokens = 0
            elif request.request_id in work.num_blocks_before:
                self.manager.trim(request.request_id, work.num_blocks_before[request.request_id])
        self.manager.abandon_step()

    # -- planning --------------------------------------------------------------------

    def _serve_running(self, work: StepPass) -> None:
        running_idx = 0
        while running_idx < len(self._running) and work.tokens_left and not work.is_full:
            running_idx += self._serve_decoding(running_idx, work)
            if running_idx < len(self._running) and work.tokens_left:
                self._serve(self._running[running_idx], work)
                running_idx += 1

    def _serve_decoding(self, running_idx: int, work: StepPass) -> int:
        """Schedules running requests up to the first that needs more than its newest token computed in blocks that it holds."""
        block_size, block_ids_of, chunks = self._block_size, self.manager.block_ids, work.chunks
        new = tuple.__new__  # a third less time than calling the class
        num_before = len(chunks)
        for request in self._running[running_idx : running_idx + work.tokens_left]:
            start, num_output = request.num_computed_tokens, len(request.output_token_ids)
            block_ids = block_ids_of(request.request_id)
            is_decode = num_output and len(request.prompt_token_ids) + num_output == start + 1
            if not is_decode or start >= len(block_ids) * block_size:
                break
            work.requests.append(request)
            chunks.append(new(ScheduledChunk, (request.request_id, start, 1, block_ids, 1, 0)))
        num_served = len(chunks) - num_before
        work.tokens_left -= num_served
        return num_served

    def _serve(self, request: Request, work: StepPass) -> None:
        """Schedules a running request: its rest as far as the budget goes, with the blocks that it needs."""
        num_pending = request.num_pending_tokens
        num_tokens = self._chunk_tokens(num_pending, work)
        if num_tokens is None:
            work.is_full = True
            return
        stop = request.num_computed_tokens + num_tokens
        held = self.manager.block_ids(request.request_id)
        block_ids = held if stop <= len(held) * self._block_size else self._grow(request, stop, work)
        if block_ids is not None:
            work.add(request, num_tokens, block_ids, is_last=num_tokens == num_pending)

    def _grow(self, request: Request, num_tokens: int, work: StepPass) -> tuple[int, ...] | None:
        num_held = len(self.manager.block_ids(request.request_id))
        while (block_ids := self.manager.reserve(request.request_id, num_tokens)) is None:
            work.is_full = True
            if self._mode is KVCacheMode.OFF:
                return None
            victim = self._running[-1]
            self._stop(victim)
            victim.num_preemptions += 1
            work.preempted.append(victim.request_id)
            if victim is request:
                return None
        work.num_blocks_before[request.request_id] = num_held
        return block_ids

    def _admit_waiting(self, work: StepPass) -> None:
        passed_over: list[Request] = []
        while work.tokens_left and len(self._running) < self._config.max_num_seqs and len(passed_over) < MAX_PASSED_OVER:
            if not self.manager.pool.num_free or (request := self._waiting.pop()) is None:
                break
            match = self.manager.match(request)
            if self.manager.is_being_computed(match):
                passed_over.append(request)
            elif not self._admit(request, match, work):
                passed_over.append(request)
                break
        for request in passed_over:
            self._waiting.push(request)

    def _admit(self, request: Request, match: PrefixMatch, work: StepPass) -> bool:
        num_pending = request.num_tokens - match.num_tokens
        num_tokens = self._chunk_tokens(num_pending, work)
        if num_tokens is None:
            return False
        block_ids = self.manager.admit(request, match, match.num_tokens + num_tokens)
        if block_ids is None:
            return False
        if not request.num_preemptions:
            request.num_cached_tokens = match.num_tokens
        self._start(request, match.num_tokens)
        work.admitted.add(request.request_id)
        work.add(request, num_tokens, block_ids, is_last=num_tokens == num_pending)
        return True

    def _chunk_tokens(self, num_pending: int, work: StepPass) -> int | None:
        if num_pending <= work.tokens_left:
            return num_pending
        if self._mode is KVCacheMode.PAGED:
            return work.tokens_left
        return None if work.chunks else num_pending

    # -- changing places -------------------------------------------------------------

    def _alive(self, work: StepPass) -> list[tuple[Request, ScheduledChunk]]:
        running = RequestStatus.RUNNING
        return [pair for pair in zip(work.requests, work.chunks, strict=True) if pair[0].status is running]

    def _landed(self, plan: StepPlan) -> StepPass:
        work = self._in_flight
        if work is None or work.plan is not plan:
            raise defect(f"step {plan.step} is completed or abandoned but is not in flight")
        return work

    def _start(self, request: Request, num_computed: int) -> None:
        request.status = RequestStatus.RUNNING
        request.num_computed_tokens = num_computed
        insort(self._running, request, key=urgency)

    def _stop(self, request: Request) -> None:
        self._leave_running(request)
        self.manager.release(request.request_id)
        request.status = RequestStatus.WAITING
        request.num_computed_tokens = 0
        self._waiting.push(request)

    def _leave_running(self, request: Request) -> None:
        del self._running[bisect_left(self._running, urgency(request), key=urgency)]

    def _end_early(self, request_id: str, reason: FinishReason) -> Request | None:
        request = self._requests.get(request_id)
        if request is not None:
            self._finish(request, reason)
        return request

    def _finish(self, request: Request, reason: FinishReason) -> None:
        if request.status is RequestStatus.RUNNING:
            self._leave_running(request)
        else:
            self._waiting.remove(request.request_id)
        self.manager.close(request.request_id)
        del self._requests[request.request_id]
        request.status = RequestStatus.FINISHED
        request.finish_reason = reason


def _append(request: Request, token_ids: Sequence[int], reason: FinishReason | None) -> FinishReason | None:
    """Appends tokens to the output as far as its length allows; returns why it ends with them, or None where it goes on."""
    output = request.output_token_ids
    num_room = request.max_num_tokens - len(request.prompt_token_ids) - len(output)
    if len(token_ids) < num_room:
        output += token_ids
        return reason
    output += token_ids[:num_room]
    return FinishReason.LENGTH if reason is None or len(token_ids) > num_room else reason
