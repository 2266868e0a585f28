"""How much may be open at once. What is refused here gets 429 and a time to come back; what is admitted is answered."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from quire.server.errors import ApiError, Refusal
from quire.server.limits import Limits

MAX_RETRY_S = 120
"""Clients give up on a longer time."""

_WINDOW_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a call adds: choices to compute, and tokens of its prompts."""

    num_requests: int
    num_tokens: int


class Admission:
    """Counts what is open against the limits and measures how fast it is done. `now` is seconds of any steady clock."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._num_requests = 0
        self._num_tokens = 0
        self._ends: deque[float] = deque()

    @property
    def num_requests(self) -> int:
        """Choices that are computed or wait."""
        return self._num_requests

    def require_room(self, now: float) -> None:
        """Raises ApiError (429) where not even a request of one token would be admitted: known before any work."""
        if self._num_requests >= self._limits.open_requests or self._num_tokens >= self._limits.open_tokens:
            raise self._overload(now)

    def admit(self, load: Load, now: float) -> None:
        """Counts a call as open; raises ApiError (429) where that exceeds a limit. An idle server admits any call."""
        num_requests, num_tokens = self._num_requests + load.num_requests, self._num_tokens + load.num_tokens
        is_too_much = num_requests > self._limits.open_requests or num_tokens > self._limits.open_tokens
        if self._num_requests and is_too_much:
            raise self._overload(now)
        self._num_requests, self._num_tokens = num_requests, num_tokens

    def release(self, load: Load, now: float) -> None:
        """Counts a call that was admitted as done."""
        self._num_requests -= load.num_requests
        self._num_tokens -= load.num_tokens
        self._ends.extend([now] * load.num_requests)
        self._forget_before(now - _WINDOW_S)

    def retry_after_s(self, now: float) -> int:
        """Returns the seconds after which what is open now should be done, as fast as the last half minute was."""
        self._forget_before(now - _WINDOW_S)
        if not self._ends:
            return MAX_RETRY_S // 4
        rate = len(self._ends) / max(now - self._ends[0], 1.0)
        return min(max(math.ceil(self._num_requests / rate), 1), MAX_RETRY_S)

    def _forget_before(self, oldest: float) -> None:
        while self._ends and self._ends[0] < oldest:
            self._ends.popleft()

    def _overload(self, now: float) -> ApiError:
        seconds = self.retry_after_s(now)
        return ApiError(
            "too many requests are waiting",
            limit=f"{self._limits.open_requests} requests, {self._limits.open_tokens} prompt tokens",
            next_step=f"Try again in {seconds} s.",
            refusal=Refusal(
                status=429, code="overloaded", headers={"retry-after": str(seconds), "retry-after-ms": str(seconds * 1000)}
            ),
        )
