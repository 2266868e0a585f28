"""What is open, what is refused, and when a client may come back."""

from __future__ import annotations

import pytest

from quire.server.admission import MAX_RETRY_S, Admission, Load
from quire.server.errors import ApiError
from quire.server.limits import Limits

LIMITS = Limits(open_requests=3, open_tokens=100)


def load(num_requests: int = 1, num_tokens: int = 10) -> Load:
    return Load(num_requests=num_requests, num_tokens=num_tokens)


def test_requests_and_tokens_are_counted_until_they_are_released() -> None:
    admission = Admission(LIMITS)
    admission.admit(load(num_requests=2), 0.0)
    admission.admit(load(num_tokens=90), 0.0)
    with pytest.raises(ApiError) as caught:
        admission.admit(load(), 0.0)
    assert caught.value.refusal.status == 429
    with pytest.raises(ApiError):
        admission.require_room(0.0)
    admission.release(load(num_requests=2), 1.0)
    admission.require_room(1.0)
    with pytest.raises(ApiError):
        admission.admit(load(num_tokens=11), 1.0)
    admission.admit(load(), 1.0)


def test_what_is_refused_counts_nothing() -> None:
    admission = Admission(LIMITS)
    admission.admit(load(), 0.0)
    with pytest.raises(ApiError):
        admission.admit(load(num_requests=3), 0.0)
    assert admission.num_requests == 1


def test_idle_server_admits_what_is_larger_than_the_limit() -> None:
    admission = Admission(LIMITS)
    admission.admit(load(num_tokens=1000), 0.0)
    assert admission.num_requests == 1


def test_time_to_come_back_follows_the_rate_and_is_bounded() -> None:
    admission = Admission(Limits(open_requests=1000))
    admission.admit(load(num_requests=100), 0.0)
    assert 1 <= admission.retry_after_s(0.0) <= MAX_RETRY_S
    for second in range(10):
        admission.admit(load(), float(second))
        admission.release(load(), float(second))
    assert admission.retry_after_s(10.0) == 100, "one per second"
    assert admission.retry_after_s(35.0) <= MAX_RETRY_S
