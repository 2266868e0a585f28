"""Where every request is: it waits in its tenant's line, or runs and holds blocks."""

from __future__ import annotations

from bisect import bisect_left, insort

from quire.kv.manager import KVCacheManager
from quire.request import Request, RequestStatus
from quire.sched.queue import Lines, urgency
from quire.sched.shares import Shares

MAX_LOOKED_UP = 256
"""Waiting requests beyond which a long prompt is not looked up in the cache when it is queued; so many wait for long anyway."""


class Places:
    """The requests that wait and those that run, in their orders, and the shares of their tenants.

    A request is short if at most `max_short` of its tokens are to be computed, as far as the cache goes when it is queued.
    """

    def __init__(self, manager: KVCacheManager, max_short: int) -> None:
        self.waiting = Lines()
        self.running: list[Request] = []  # sorted by urgency
        self.shares = Shares()
        self.max_short = max_short
        self._manager = manager

    def enter(self, request: Request, step: int) -> None:
        """Queues a new request; an error of the cache leaves nothing of it."""
        request.waits_as_short = self._is_short(request)
        request.waits_since_step = step
        self.shares.enter(request.tenant, step)
        self.waiting.push(request)

    def start(self, request: Request, num_computed: int) -> None:
        """Lets a request run that was taken out of its line; it holds its blocks already."""
        request.status = RequestStatus.RUNNING
        request.num_computed_tokens = num_computed
        insort(self.running, request, key=urgency)

    def stop(self, request: Request) -> None:
        """Takes the blocks of a running request away; it waits at its old place."""
        self._give_back(request)
        request.waits_as_short = self._is_short(request)
        self.waiting.push(request)

    def put_back(self, request: Request) -> None:
        """Takes back that a request was let in: it waits exactly as before."""
        self._give_back(request)
        self.waiting.push(request)

    def reconsider(self, request: Request, *, is_short: bool) -> None:
        """Moves a request that waits to the line of short prompts, or out of it."""
        if request.status is RequestStatus.WAITING and request.waits_as_short != is_short:
            self.waiting.remove(request)
            request.waits_as_short = is_short
            self.waiting.push(request)

    def leave(self, request: Request) -> None:
        """Forgets a request that ends."""
        if request.status is RequestStatus.RUNNING:
            self._leave_running(request)
        else:
            self.waiting.remove(request)
        self.shares.leave(request.tenant)

    def victim(self) -> Request:
        """Returns the running request to preempt first."""
        return self.shares.victim(self.running)

    def most_entitled(self) -> Request:
        """Returns the most urgent waiting request of the tenant that was given least. There must be one that waits."""
        firsts = [line.by_urgency.first() for line in self.waiting.by_tenant.values()]
        return min([first for first in firsts if first is not None], key=self.rank)

    def rank(self, request: Request) -> tuple[int, int, int, int]:
        """Returns the order in which tenants get their turns: those with less work computed, then those with less to do."""
        account = self.shares.account(request.tenant)
        return account.num_served, account.num_open, *urgency(request)

    def num_held_tokens(self) -> int:
        """Returns the tokens whose K/V the held blocks have; those of a shared block count once."""
        pool, block_ids = self._manager.pool, self._manager.block_ids
        num_full, num_in_tails = pool.num_blocks - pool.num_free, 0
        for request in self.running:  # a block that is not filled is held by one request alone
            num_computed = request.num_computed_tokens
            num_full -= len(block_ids(request.request_id)) - num_computed // pool.block_size
            num_in_tails += num_computed % pool.block_size
        return num_full * pool.block_size + num_in_tails

    def _is_short(self, request: Request) -> bool:
        num_tokens = request.num_tokens
        if num_tokens > self.max_short and len(self.waiting) < MAX_LOOKED_UP:
            num_tokens -= self._manager.match(request).num_tokens
        return num_tokens <= self.max_short

    def _give_back(self, request: Request) -> None:
        self._leave_running(request)
        self._manager.release(request.request_id)
        request.status = RequestStatus.WAITING
        request.num_computed_tokens = 0

    def _leave_running(self, request: Request) -> None:
        del self.running[bisect_left(self.running, urgency(request), key=urgency)]
