"""Blocks and sequence slots: which request gets some, and which gives its own back where there are too few.

a running request needs a block       the tenant that was given most gives back its least urgent request's
a tenant below its fair share waits   a tenant above it gives back its least urgent request's blocks and slot
"""

from __future__ import annotations

from collections import Counter

from quire.kv.manager import KVCacheManager
from quire.kv.table import PrefixMatch
from quire.request import Request, RequestStatus
from quire.sched.places import Places
from quire.sched.step_pass import StepPass
from quire.sched.turns import Turns
from quire.units import cdiv


class Room:
    """The pool's blocks and the slots of a step, `max_running` of them. Without a cache (`keeps_kv`) nothing is preempted."""

    def __init__(self, places: Places, manager: KVCacheManager, max_running: int, *, keeps_kv: bool) -> None:
        self._places = places
        self._manager = manager
        self._max_running = max_running
        self._keeps_kv = keeps_kv

    def is_open(self, work: StepPass) -> bool:
        """Whether any further request may be let in."""
        return not work.is_full and len(self._places.running) < self._max_running and self._manager.pool.num_free > 0

    def tell(self, turns: Turns, work: StepPass) -> None:
        """Tells the turns of a step for which requests there is room: none that wait, or none of tenants with their share."""
        turns.admits = turns.admits and self.is_open(work)
        turns.closed = work.closed | self._satisfied()

    def grow(self, request: Request, num_tokens: int, work: StepPass) -> tuple[int, ...] | None:
        """Returns the table of a running request, long enough for tokens [0, num_tokens); None if it was preempted itself."""
        num_held = len(self._manager.block_ids(request.request_id))
        while (block_ids := self._manager.reserve(request.request_id, num_tokens)) is None:
            work.is_full = True
            if not self._keeps_kv:
                return None
            victim = self._places.victim()
            self._preempt(victim, work)
            if victim is request:
                return None
        work.num_blocks_before[request.request_id] = num_held
        return block_ids

    def let_in(self, request: Request, match: PrefixMatch, num_tokens: int, work: StepPass) -> tuple[int, ...] | None:
        """Lets a request run that was taken out of its line, with blocks for tokens [0, num_tokens); None if it does not fit."""
        block_ids = self._manager.admit(request, match, num_tokens, self._num_promised(work))
        if block_ids is None:
            return None
        self._places.start(request, match.num_tokens)
        work.admitted.add(request.request_id)
        work.begun.append(request)
        return block_ids

    def take_back(self, request: Request, work: StepPass) -> None:
        """Undoes for one request what a step that is abandoned has reserved."""
        request_id = request.request_id
        if request_id in work.admitted:
            self._places.put_back(request)
            self._manager.take_back_admission(request)
        elif request_id in work.num_blocks_before:
            self._manager.trim(request_id, work.num_blocks_before[request_id])

    def make_fair(self, work: StepPass) -> None:
        """Preempts requests of tenants above their fair share while one below it waits and does not fit."""
        if not self._places.waiting or work.is_full or not self._keeps_kv or (num_tenants := self._places.shares.num_active) < 2:
            return
        request = self._places.most_entitled()
        slots, blocks = self._held()
        need = cdiv(request.num_tokens, self._manager.pool.block_size)
        fair_slots, fair_blocks = max(1, self._max_running // num_tenants), self._manager.pool.num_blocks // num_tenants
        if slots[request.tenant] >= fair_slots or blocks[request.tenant] + need > fair_blocks:
            return
        while len(self._places.running) >= self._max_running and self._take_from_largest(slots, fair_slots, work):
            slots, blocks = self._held()
        while self._manager.pool.num_free - self._num_promised(work) < need and self._take_from_largest(
            blocks, fair_blocks, work
        ):
            slots, blocks = self._held()

    # -- inside ----------------------------------------------------------------------

    def _num_promised(self, work: StepPass) -> int:
        """Returns the blocks that begun prompts will need: they were free when each of them was let in."""
        running, size = RequestStatus.RUNNING, self._manager.pool.block_size
        tables = [(each, self._manager.block_ids(each.request_id)) for each in work.begun if each.status is running]
        return sum(max(0, cdiv(each.num_tokens, size) - len(block_ids)) for each, block_ids in tables)

    def _held(self) -> tuple[Counter[str], Counter[str]]:
        """Returns how many slots and how many blocks each tenant holds."""
        slots: Counter[str] = Counter()
        blocks: Counter[str] = Counter()
        for request in self._places.running:
            slots[request.tenant] += 1
            blocks[request.tenant] += len(self._manager.block_ids(request.request_id))
        return slots, blocks

    def _satisfied(self) -> set[str]:
        """Returns tenants with their fair share of slots, where those that are free are no more than waiting tenants below it."""
        waiting, num_tenants = self._places.waiting.by_tenant, self._places.shares.num_active
        if num_tenants < 2 or not waiting:
            return set()
        slots, _ = self._held()
        fair = max(1, self._max_running // num_tenants)
        num_below = sum(slots[tenant] < fair for tenant in waiting)
        is_scarce = self._max_running - len(self._places.running) <= num_below
        return {tenant for tenant in waiting if slots[tenant] >= fair} if is_scarce else set()

    def _take_from_largest(self, held: Counter[str], fair: int, work: StepPass) -> bool:
        tenant, num_held = max(held.items(), key=lambda item: item[1])
        if num_held <= fair:
            return False
        self._preempt(next(each for each in reversed(self._places.running) if each.tenant == tenant), work)
        return True

    def _preempt(self, request: Request, work: StepPass) -> None:
        work.drop(request.request_id)
        work.closed.add(request.tenant)
        self._places.stop(request)
        request.num_preemptions += 1
        request.waits_since_step = work.step
        work.preempted.append(request.request_id)
