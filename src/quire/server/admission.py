"""How much may be open at once. What is refused here gets 429 and a time to come back; what is admitted is answered.

    reading()   a place for a request whose body is read and tokenized     429 where there is none
    admit()     its choices and tokens, now known, are open                429 where they do not fit
    release()   they are done, and count as what was done lately

Under overload most requests must be refused before they are tokenized. The length of a body bounds its tokens from above only (a
token takes a byte or more, and fields that are ignored take bytes too), so it can say that a request fits, never that it does
not. Hence: once a tenant's request was refused for its tokens, others of that tenant are refused unread while there is no room
for as many tokens, except bodies that are so short that they fit whatever they hold.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from quire.server.errors import ApiError, Refusal
from quire.server.limits import Limits

MAX_RETRY_S = 120
"""Clients give up on a longer time."""

_WINDOW_S = 60.0
_UNKNOWN_S = 30
"""What a client is told before anything was done."""

_WANTED_PART = 8
"""One part in so many of the tokens is the most that a refused request keeps free."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a call adds: choices to compute, and tokens of its prompts."""

    num_requests: int
    num_tokens: int
    tenant: str = ""

    def __add__(self, other: Load) -> Load:
        num_requests, num_tokens = self.num_requests + other.num_requests, self.num_tokens + other.num_tokens
        return Load(num_requests=num_requests, num_tokens=num_tokens, tenant=self.tenant)

    def __sub__(self, other: Load) -> Load:
        num_requests, num_tokens = self.num_requests - other.num_requests, self.num_tokens - other.num_tokens
        return Load(num_requests=num_requests, num_tokens=num_tokens, tenant=self.tenant)


_NOTHING = Load(num_requests=0, num_tokens=0)


class Admission:
    """Counts what is open against the limits and measures how fast it is done. `now` is seconds of any steady clock.

    Where keys are told apart, none may fill more than its part of the limits.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._most = replace(_NOTHING, num_requests=limits.open_requests, num_tokens=limits.open_tokens)
        self._most_of_key = replace(_NOTHING, num_requests=limits.open_requests_per_key, num_tokens=limits.open_tokens_per_key)
        self._open = _NOTHING
        self._open_of: dict[str, Load] = {}
        self._num_reading = 0
        self._wanted_of: dict[str, int] = {}  # tokens of the latest request of a tenant that was refused for them
        self._done: deque[tuple[int, Load]] = deque()  # what was done, second by second

    @property
    def num_requests(self) -> int:
        """Choices that are computed or wait."""
        return self._open.num_requests

    @property
    def num_tokens(self) -> int:
        """Prompt tokens of these."""
        return self._open.num_tokens

    @contextmanager
    def reading(self, now: float, tenant: str = "", num_bytes: int | None = None) -> Iterator[None]:
        """Keeps a place for a request while its body, of `num_bytes` if that is known, is read.

        Raises ApiError (429) where not even a request of one token would be admitted, or where so many tokens as the tenant's
        last request had are known not to fit.
        """
        self.require_room(now, tenant, num_bytes)
        self._num_reading += 1
        try:
            yield
        finally:
            self._num_reading -= 1

    def require_room(self, now: float, tenant: str = "", num_bytes: int | None = None) -> None:
        """Raises ApiError (429) as `reading` does."""
        if not self._open.num_requests and not self._num_reading:
            return
        num_free, wanted = self._num_free(tenant), self._wanted_of.get(tenant, 0)
        if num_free >= wanted:
            self._wanted_of.pop(tenant, None)
        elif num_bytes is not None and num_bytes > num_free:
            raise self._overload(now, self._most)
        self._require_fit(Load(num_requests=1 + self._num_reading, num_tokens=1 + self._num_reading, tenant=tenant), now)

    def admit(self, load: Load, now: float) -> None:
        """Counts a call as open; raises ApiError (429) where that exceeds a limit. An idle server admits any call."""
        if self._open.num_requests:
            if load.num_tokens > self._num_free(load.tenant):
                self._wanted_of[load.tenant] = min(load.num_tokens, self._most.num_tokens // _WANTED_PART)
            self._require_fit(load, now)
        self._open += load
        self._open_of[load.tenant] = self._open_of.get(load.tenant, _NOTHING) + load

    def release(self, load: Load, now: float) -> None:
        """Counts a call that was admitted as done."""
        self._open -= load
        left = self._open_of[load.tenant] - load
        if left.num_requests:
            self._open_of[load.tenant] = left
        else:
            del self._open_of[load.tenant]
            self._wanted_of.pop(load.tenant, None)
        second = int(now)
        if self._done and self._done[-1][0] == second:
            self._done[-1] = (second, self._done[-1][1] + load)
        else:
            self._done.append((second, load))
        self._forget(now)

    def retry_after_s(self, now: float) -> int:
        """Returns the seconds in which what is open should be done, as fast as requests and tokens were done lately."""
        self._forget(now)
        if not self._done:
            return _UNKNOWN_S
        done = sum((load for _, load in self._done), _NOTHING)
        seconds = max(now - self._done[0][0], 1.0)
        for_requests = self._open.num_requests * seconds / max(done.num_requests, 1)
        for_tokens = self._open.num_tokens * seconds / max(done.num_tokens, 1)
        return min(max(math.ceil(max(for_requests, for_tokens)), 1), MAX_RETRY_S)

    # -- inside ----------------------------------------------------------------------

    def _require_fit(self, load: Load, now: float) -> None:
        bounds = [(self._open, self._most)]
        if load.tenant and load.tenant in self._open_of:
            bounds.append((self._open_of[load.tenant], self._most_of_key))
        for is_open, most in bounds:
            after = is_open + load
            if after.num_requests > most.num_requests or after.num_tokens > most.num_tokens:
                raise self._overload(now, most)

    def _num_free(self, tenant: str) -> int:
        """Returns the prompt tokens for which a tenant has room."""
        num_free = self._most.num_tokens - self._open.num_tokens
        if not tenant:
            return num_free
        return min(num_free, self._most_of_key.num_tokens - self._open_of.get(tenant, _NOTHING).num_tokens)

    def _forget(self, now: float) -> None:
        while self._done and self._done[0][0] < now - _WINDOW_S:
            self._done.popleft()

    def _overload(self, now: float, most: Load) -> ApiError:
        seconds = self.retry_after_s(now)
        whose = "of this key " if most is self._most_of_key else ""
        return ApiError(
            f"too many requests {whose}are waiting",
            limit=f"{most.num_requests} requests, {most.num_tokens} prompt tokens",
            next_step=f"Try again in {seconds} s.",
            refusal=Refusal(
                status=429, code="overloaded", headers={"retry-after": str(seconds), "retry-after-ms": str(seconds * 1000)}
            ),
        )
