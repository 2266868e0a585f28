"""Which requests get the tokens of a step that are left for prompts: begun prompts and waiting requests, side by side.

1. The tenant for which the fewest tokens were computed (`Shares`).
2. Its most urgent request. Its oldest one goes before that, for one step, if it got nothing for `PATIENCE` steps: no priority
   starves.

A part of every step goes to short prompts before that, in the same order, so that they need not wait until a long one is done.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from quire.request import Request, RequestStatus
from quire.sched.places import Places
from quire.sched.queue import Line, age, urgency

PATIENCE = 16
"""Steps without tokens after which a tenant's oldest request goes before its more urgent ones, for one step."""

SHORT_PART = 4
"""One part in so many of a step's prompt tokens goes to short prompts, where long ones ask for them too."""

MAX_PASSED_OVER = 16
"""Waiting requests that one step may skip because their prefix is being computed; bounds the work of a step."""


class Turns:
    """The candidates of one step. A request that `next` has returned is not returned again.

    `admits` is whether waiting requests are among them.
    """

    def __init__(self, begun: Sequence[Request], places: Places, step: int) -> None:
        self.admits = True
        self.closed: set[str] = set()
        self._begun: dict[str, list[Request]] = {}
        for request in begun:
            self._begun.setdefault(request.tenant, []).append(request)
        self._places, self._lines, self._shares, self._max_short = places, places.waiting, places.shares, places.max_short
        self._step = step
        self._given: Counter[str] = Counter()  # tokens of this step by tenant
        self._served: list[Request] = []
        self._had_turn: set[str] = set()  # tenants whose oldest waiting request was let in
        self._passed_over: list[tuple[Request, bool]] = []

    def short_tokens(self, num_left: int) -> int:
        """Returns how many of the tokens left in the step are for short prompts: their part, or what they ask for if less."""
        num_tokens, limit = 0, num_left // SHORT_PART
        for requests in self._begun.values():
            num_tokens += sum(pending for each in requests if (pending := each.num_pending_tokens) <= self._max_short)
        for line in self._lines.by_tenant.values() if self.admits else ():
            for request in line.short:
                if num_tokens >= limit:
                    return limit
                num_tokens += request.num_tokens
        return min(num_tokens, limit)

    def next(self, *, is_short: bool) -> Request | None:
        """Takes the next request, among short ones only if `is_short`; None when there is none."""
        firsts = [first for tenant in self._tenants() if (first := self._first(tenant)) is not None]
        if is_short and firsts:
            highest = min(self._rank(first)[0] for first in firsts) + self._max_short
            tenants = [first.tenant for first in firsts if self._rank(first)[0] <= highest]
            firsts = [short for tenant in tenants if (short := self._first_short(tenant)) is not None]
        request = min(firsts, key=self._rank, default=None)
        if request is None:
            return None
        if request.status is RequestStatus.WAITING:
            self._lines.remove(request)
        else:
            self._begun[request.tenant].remove(request)
        return request

    def note(self, request: Request, num_tokens: int) -> None:
        """Counts the tokens that a request gets."""
        self._given[request.tenant] += num_tokens
        self._served.append(request)
        line = self._lines.by_tenant.get(request.tenant)
        oldest = None if line is None else line.by_age.first()
        if oldest is None or request.arrival < oldest.arrival:
            self._had_turn.add(request.tenant)

    def pass_over(self, request: Request, *, is_short: bool) -> None:
        """Lets a waiting request keep its place; after too many of them no other is let in."""
        self._passed_over.append((request, is_short))
        self.admits = self.admits and len(self._passed_over) < MAX_PASSED_OVER

    def close(self) -> None:
        """Puts back the requests that were passed over."""
        for request, _ in self._passed_over:
            self._lines.push(request)

    def settle(self) -> None:
        """Remembers which requests and tenants had a turn, and which requests are short now, once the step is computed."""
        for request in self._served:
            request.waits_since_step = self._step
        for tenant in self._had_turn:
            self._shares.note_turn(tenant, self._step)
        for request, is_short in self._passed_over:
            self._places.reconsider(request, is_short=is_short)

    # -- inside ----------------------------------------------------------------------

    def _line(self, tenant: str) -> Line | None:
        return self._lines.by_tenant.get(tenant) if self.admits and tenant not in self.closed else None

    def _tenants(self) -> Iterable[str]:
        """Returns the tenants that have candidates, each once, in a fixed order."""
        return dict.fromkeys([*self._begun, *self._lines.by_tenant]) if self.admits else self._begun

    def _rank(self, request: Request) -> tuple[int, int, int, int]:
        account = self._shares.account(request.tenant)
        return account.num_served + self._given[request.tenant], account.num_open, *urgency(request)

    def _first(self, tenant: str) -> Request | None:
        """Returns the request that a tenant wants to have served: its oldest one where that has waited too long."""
        begun = [each for each in self._begun.get(tenant, ()) if each.status is RequestStatus.RUNNING]
        line = self._line(tenant)
        oldest = None if line is None else line.by_age.first()
        if oldest is not None and self._has_starved(oldest, self._shares.account(tenant).last_turn):
            return oldest
        starved = min(begun, key=age, default=None)
        if starved is not None and self._has_starved(starved):
            return starved
        return _most_urgent(begun, None if line is None else line.by_urgency.first())

    def _first_short(self, tenant: str) -> Request | None:
        begun = [each for each in self._begun.get(tenant, ()) if each.status is RequestStatus.RUNNING]
        line = self._line(tenant)
        shorts = [each for each in begun if each.num_pending_tokens <= self._max_short]
        return _most_urgent(shorts, None if line is None else line.short.first())

    def _has_starved(self, request: Request, last_turn: int = 0) -> bool:
        is_new_turn = request.tenant not in self._had_turn
        return is_new_turn and self._step - max(request.waits_since_step, last_turn) >= PATIENCE


def _most_urgent(begun: Sequence[Request], waiting: Request | None) -> Request | None:
    return min(begun if waiting is None else [*begun, waiting], key=urgency, default=None)
