"""The scheduler: which tokens of which requests a step computes.

There is no prefill phase and no decode phase. A request has `num_computed_tokens`, and a step gives it tokens until it has
caught up with `num_tokens`:

    [0 ........ num_cached_tokens) [.......... num_computed_tokens) [...... chunk ......) [.... num_tokens)
     found by the first admission    computed by earlier steps        this step            later steps

A chunk that reaches the last token samples a new one. Requests that draw a token in every step are served first. What is left
of the token budget goes to prompts, begun or waiting, in the order of `Turns`, while sequence slots and blocks last. When
blocks run out, a running request gives its blocks back and waits at its old place; it keeps its output, and its committed
blocks stay findable.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence

from quire.config import KVCacheMode, PrefixCache, SchedulerConfig
from quire.errors import CapacityError, ConfigError, defect
from quire.kv.manager import KVCacheManager
from quire.request import FinishReason, Request, RequestStatus
from quire.sched.first_draws import FirstDraws
from quire.sched.limits import ContextBound, RequestLimits
from quire.sched.pace import Pace
from quire.sched.places import Places
from quire.sched.plan import ScheduledChunk, StepPlan
from quire.sched.queue import urgency
from quire.sched.room import Room
from quire.sched.step_pass import StepPass
from quire.sched.turns import Turns


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
        self._keeps_kv = mode is KVCacheMode.PAGED
        self._block_size = manager.pool.block_size
        self._requests: dict[str, Request] = {}
        self._places = Places(manager, max_short=config.max_num_batched_tokens)
        self._running, self._waiting = self._places.running, self._places.waiting
        max_running = min(config.max_num_seqs, config.max_num_batched_tokens, manager.own_tiles.count or config.max_num_seqs)
        self._room = Room(self._places, manager, max_running, keeps_kv=self._keeps_kv)
        self._pace = None if config.itl_target_s is None else Pace(config.itl_target_s)
        self._draws = FirstDraws(is_on=manager.prefix_cache is PrefixCache.ON)
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
        return self._places.num_held_tokens()

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
        request.arrival = self._num_arrived
        request.max_num_tokens = self.limits.max_num_tokens(request)
        self._enter(request)

    def resume(self, request: Request) -> None:
        """Queues an unfinished request of a scheduler that was given up, at its old place, as one that was preempted."""
        request.status, request.finish_reason = RequestStatus.WAITING, None
        request.num_computed_tokens = 0
        request.num_preemptions += 1
        self._enter(request)
        request.num_cached_tokens = self.manager.ledger.num_cached_tokens(request.request_id)

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
        work = StepPass(self._num_steps, self._config.max_num_batched_tokens)
        self.manager.begin_step(self._num_steps)
        self._serve_running(work)
        self._room.make_fair(work)
        work.num_decoding = len(work.chunks)
        if self._pace is not None and work.num_decoding and self._keeps_kv:
            work.tokens_left = min(work.tokens_left, self._pace.max_prompt_tokens())
        if work.begun or (self._waiting and self._room.is_open(work)):
            self._serve_prompts(work)
        if not work.chunks:
            raise defect(f"{len(self._requests)} requests are in progress but none can advance")
        copies = self.manager.take_copies() if work.admitted else ()
        joint_draws = self._draws.joint(work.requests, work.chunks) if self._draws else ()
        work.plan = StepPlan(self._num_steps, tuple(work.chunks), tuple(work.preempted), copies, joint_draws)
        self._num_steps += 1
        self._in_flight = work
        return work.plan

    def note_step_time(self, plan: StepPlan, seconds: float) -> None:
        """Learns how long the step in flight took; before `complete_step`. Only an `itl_target_s` makes use of it."""
        if self._pace is not None:
            work = self._landed(plan)
            prompts = work.chunks[work.num_decoding :]
            self._pace.note(work.num_decoding, sum(chunk.num_tokens for chunk in prompts), seconds)

    def complete_step(
        self, plan: StepPlan, sampled: Mapping[str, Sequence[int]], ended: Mapping[str, FinishReason] | None = None
    ) -> tuple[Request, ...]:
        """Records that the plan's tokens are computed, appends sampled tokens, and returns the requests that finished.

        `sampled` holds the new token ids of every request with sample rows that was not aborted or failed meanwhile. `ended`
        says why the last of them ends its request. Tokens beyond the request's length are dropped, and it ends by that.
        """
        work = self._landed(plan)
        alive = work.alive
        for request, (_, _, _, _, num_sample_rows, _, _) in alive:
            if num_sample_rows and not sampled.get(request.request_id):
                raise defect(f"no token was sampled for request {request.request_id}")
        self._in_flight = None
        self._places.shares.charge(work.requests, work.chunks)
        if work.turns is not None:
            work.turns.settle()
        finished = []
        keeps_kv, block_size, prompts = self._keeps_kv, self._block_size, work.prompts
        for request, (request_id, start, num_tokens, _, num_sample_rows, _, _) in alive:
            if keeps_kv:
                stop = request.num_computed_tokens = start + num_tokens
                is_decode = num_tokens == 1 and not request.num_preemptions and not (prompts and request_id in prompts)
                if not is_decode or stop % block_size < num_tokens:  # a block was filled
                    self.manager.commit(request, stop)
            else:
                self.manager.release(request_id)
            if num_sample_rows:
                reason = request.take_output(sampled[request_id], ended.get(request_id) if ended else None)
                if reason is not None:
                    finished.append(self._finish(request, reason))
        for request in self._draws.drawn(plan.joint_draws, sampled) if plan.joint_draws else ():
            reason = request.take_output(sampled[request.request_id], ended.get(request.request_id) if ended else None)
            if reason is not None:
                finished.append(self._finish(request, reason))
        self.manager.end_step()
        return tuple(finished)

    def abandon(self, plan: StepPlan) -> None:
        """Takes a plan back whose run failed: what it reserved is free again, what it let in waits again.

        The next plan then schedules the same chunks, unless this one preempted, or evicted or handed out what a request was
        to copy from, a block or an own tile: what a failed run may have overwritten is not given back to its old owners.
        """
        work = self._landed(plan)
        self._in_flight = None
        self._num_steps -= 1
        for request, _ in reversed(work.alive):
            self._room.take_back(request, work)
        self.manager.end_step()
        self.manager.abandon_step()

    # -- planning --------------------------------------------------------------------

    def _serve_running(self, work: StepPass) -> None:
        """Gives every request that decodes its token, and gathers begun prompts; without a cache all are served alike."""
        running_idx = 0
        while running_idx < len(self._running) and work.tokens_left:
            running_idx += self._serve_decoding(running_idx, work)
            if running_idx == len(self._running) or not work.tokens_left or (work.is_full and not self._keeps_kv):
                break
            request = self._running[running_idx]
            if self._keeps_kv and not self._is_decoding(request):
                work.begun.append(request)
            else:
                self._serve(request, work)
            running_idx = bisect_right(self._running, urgency(request), key=urgency)

    def _serve_decoding(self, running_idx: int, work: StepPass) -> int:
        """Schedules running requests up to the first that needs more than its newest token computed in blocks that it holds."""
        block_size, block_ids_of, chunks = self._block_size, self.manager.block_ids, work.chunks
        new = tuple.__new__  # a third less time than calling the class
        num_before = len(chunks)
        candidates = self._running[running_idx : running_idx + work.tokens_left]
        for request in candidates:
            start, num_output = request.num_computed_tokens, len(request.output_token_ids)
            block_ids = block_ids_of(request.request_id)
            is_decode = num_output and len(request.prompt_token_ids) + num_output == start + 1
            if not is_decode or start >= len(block_ids) * block_size:
                break
            chunks.append(new(ScheduledChunk, (request.request_id, start, 1, block_ids, 1, 0, request.own_tile)))
        num_served = len(chunks) - num_before
        work.requests += candidates[:num_served]
        work.tokens_left -= num_served
        return num_served

    def _is_decoding(self, request: Request) -> bool:
        """Whether a request has drawn tokens and has caught up but for the last few."""
        return bool(request.output_token_ids) and request.num_pending_tokens <= self._block_size

    def _serve_prompts(self, work: StepPass) -> None:
        """Gives what is left of the budget to prompts; long ones leave a part of it to short ones, if there are any."""
        turns = work.turns = Turns(work.begun, self._places, self._num_steps)
        self._room.tell(turns, work)
        work.tokens_kept = turns.short_tokens(work.tokens_left) if self._keeps_kv else 0
        while work.tokens_left:
            request = turns.next(is_short=work.tokens_left <= work.tokens_kept)
            if request is None and not work.tokens_kept:
                break
            if request is None:
                work.tokens_kept = 0
            else:
                self._serve_turn(request, turns, work)
        turns.close()

    def _serve_turn(self, request: Request, turns: Turns, work: StepPass) -> None:
        num_left = work.tokens_left
        if request.status is RequestStatus.RUNNING:
            self._serve(request, work)
        else:
            self._admit(request, turns, work)
        self._room.tell(turns, work)
        if work.tokens_left < num_left:
            turns.note(request, num_left - work.tokens_left)

    def _serve(self, request: Request, work: StepPass) -> None:
        """Schedules a running request: its rest as far as the budget goes, with the blocks that it needs."""
        num_pending = request.num_pending_tokens
        num_tokens = self._chunk_tokens(request.num_computed_tokens, num_pending, work)
        if num_tokens is None:
            work.is_full = True
            return
        stop = request.num_computed_tokens + num_tokens
        held = self.manager.block_ids(request.request_id)
        block_ids = held if stop <= len(held) * self._block_size else self._room.grow(request, stop, work)
        if block_ids is not None:
            work.add(request, num_tokens, block_ids, is_last=num_tokens == num_pending)

    def _admit(self, request: Request, turns: Turns, work: StepPass) -> None:
        """Lets a waiting request in, or passes it over: alone where its prefix is being computed, else with all others."""
        match = self._draws.wait(request, self.manager.match(request))
        num_pending = request.num_tokens - match.num_tokens
        num_tokens = self._chunk_tokens(match.num_tokens, num_pending, work)
        waits, block_ids = match.waits_for is not None, None
        if match.waits_for is not None:
            self.manager.ledger.note_wait(request.request_id, match.waits_for)
        elif num_tokens is not None:
            block_ids = self._room.let_in(request, match, match.num_tokens + num_tokens, work)
        if num_tokens is None or block_ids is None:
            turns.admits = turns.admits and waits
            turns.pass_over(request, is_short=num_pending <= work.budget)
        else:
            work.add(request, num_tokens, block_ids, is_last=num_tokens == num_pending)

    def _chunk_tokens(self, start: int, num_pending: int, work: StepPass) -> int | None:
        """Returns how many tokens the next chunk of a request has; None where it cannot be a part of this step."""
        num_left, own_tiles = work.tokens_left, self.manager.own_tiles
        if own_tiles.count and start % own_tiles.size:
            return min(num_pending, num_left, own_tiles.size - start % own_tiles.size)
        if num_pending > work.budget and num_left > work.tokens_kept:
            num_left -= work.tokens_kept
        if num_pending <= num_left:
            return num_pending
        if self._keeps_kv:
            return num_left
        return None if work.chunks else num_pending

    # -- changing places -------------------------------------------------------------

    def _enter(self, request: Request) -> None:
        self.manager.open(request.request_id, tenant=request.tenant, salt=request.cache_salt)
        try:
            self._places.enter(request, self._num_steps)
        except BaseException:
            self.manager.close(request.request_id)
            raise
        self._draws.enter(request)
        self._num_arrived = max(self._num_arrived, request.arrival + 1)
        self._requests[request.request_id] = request

    def _landed(self, plan: StepPlan) -> StepPass:
        work = self._in_flight
        if work is None or work.plan is not plan:
            raise defect(f"step {plan.step} is completed or abandoned but is not in flight")
        return work

    def _end_early(self, request_id: str, reason: FinishReason) -> Request | None:
        request = self._requests.get(request_id)
        if request is not None:
            self._finish(request, reason)
        return request

    def _finish(self, request: Request, reason: FinishReason) -> Request:
        self._places.leave(request)
        self._draws.leave(request)
        self.manager.close(request.request_id)
        del self._requests[request.request_id]
        request.status, request.finish_reason = RequestStatus.FINISHED, reason
        return request
