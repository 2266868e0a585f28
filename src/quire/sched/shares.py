"""Fair shares: tokens computed for each tenant are counted, and the tenant with the fewest is served next.

    tenant   served   a newcomer enters at the least count of those that have requests, so nothing is owed for the past
    A         5,120   -> B enters with 5,120; whichever has fewer now gets the next chunk
    B             -

After "Fairness in Serving Large Language Models" (Sheng et al., 2024), with one weight for all tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

from quire.request import Request
from quire.sched.plan import ScheduledChunk
from quire.sched.queue import urgency

MAX_REMEMBERED = 1024
"""Tenants without requests whose counts are kept: what they had beyond their share counts when they come back."""


class Account:
    """One tenant: its requests in progress, the tokens computed for it, and the last step that let in its oldest request."""

    __slots__ = ("last_turn", "num_open", "num_served")

    def __init__(self) -> None:
        self.num_open = 0
        self.num_served = 0
        self.last_turn = 0


class Shares:
    """The accounts of the tenants that have requests in progress, and of some that had."""

    __slots__ = ("_accounts", "num_active")

    def __init__(self) -> None:
        self.num_active = 0  # tenants that have requests in progress
        self._accounts: dict[str, Account] = {}

    def account(self, tenant: str) -> Account:
        """Returns the account of a tenant that has requests in progress."""
        return self._accounts[tenant]

    def enter(self, tenant: str, step: int) -> None:
        """Counts a new request of a tenant."""
        account = self._accounts.get(tenant)
        if account is None:
            account = self._accounts[tenant] = Account()
        if not account.num_open:
            active = [other.num_served for other in self._accounts.values() if other.num_open]
            account.num_served = max(account.num_served, min(active, default=0))
            account.last_turn = step
            self.num_active += 1
        account.num_open += 1

    def note_turn(self, tenant: str, step: int) -> None:
        """Remembers the step that let in a tenant's oldest request."""
        if (account := self._accounts.get(tenant)) is not None:
            account.last_turn = step

    def leave(self, tenant: str) -> None:
        """Counts a request that has ended. Without requests there are no debts."""
        self._accounts[tenant].num_open -= 1
        if self._accounts[tenant].num_open:
            return
        self.num_active -= 1
        if not self.num_active or len(self._accounts) > MAX_REMEMBERED:
            self._accounts = {name: account for name, account in self._accounts.items() if account.num_open}

    def charge(self, requests: Sequence[Request], chunks: Sequence[ScheduledChunk]) -> None:
        """Counts the tokens that a step has computed; nothing while there is only one tenant."""
        if len(self._accounts) > 1:
            for request, chunk in zip(requests, chunks, strict=True):
                if (account := self._accounts.get(request.tenant)) is not None:
                    account.num_served += chunk.num_tokens

    def victim(self, running: Sequence[Request]) -> Request:
        """Returns the request to preempt: the least urgent one of the tenant that has been given most."""
        if len(self._accounts) == 1:
            return running[-1]
        return max(running, key=lambda request: (self._accounts[request.tenant].num_served, *urgency(request)))
