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
    assert admission.retry_after_s(75.0) <= MAX_RETRY_S


def test_time_to_come_back_follows_tokens_where_they_are_what_takes_time() -> None:
    admission = Admission(LIMITS_OF_KEYS)
    admission.admit(load(num_tokens=900), 0.0)
    admission.admit(load(num_tokens=50), 0.0)
    admission.release(load(num_tokens=50), 1.0)
    assert admission.retry_after_s(2.0) == 18, "900 tokens are left, at 50 a second"


def test_what_was_done_is_kept_in_a_bounded_number_of_entries() -> None:
    admission = Admission(LIMITS)
    for number in range(100_000):
        admission.admit(load(), number / 100)
        admission.release(load(), number / 100)
    assert len(admission._done) <= 62


# -- before a body is read ---------------------------------------------------------------------


def test_requests_that_are_read_take_places() -> None:
    admission = Admission(LIMITS)
    admission.admit(load(), 0.0)
    with admission.reading(0.0), admission.reading(0.0):
        with pytest.raises(ApiError) as caught, admission.reading(0.0):
            pass
        assert caught.value.refusal.status == 429
    with pytest.raises(ValueError, match="a body"), admission.reading(0.0):
        raise ValueError("a body that cannot be read")
    with admission.reading(0.0), admission.reading(0.0):
        pass


def test_after_a_refusal_for_tokens_long_bodies_are_refused_unread_until_there_is_room() -> None:
    admission = Admission(Limits(open_requests=100, open_tokens=1000))
    admission.admit(load(num_tokens=940), 0.0)
    admission.require_room(0.0, num_bytes=5_000)
    with pytest.raises(ApiError):
        admission.admit(load(num_tokens=100), 0.0)
    with pytest.raises(ApiError):
        admission.require_room(0.0, num_bytes=5_000)
    admission.require_room(0.0, num_bytes=60)
    admission.require_room(0.0, num_bytes=None)
    admission.release(load(num_tokens=940), 1.0)
    admission.admit(load(num_tokens=800), 1.0)
    admission.require_room(1.0, num_bytes=5_000)


def test_a_giant_keeps_free_no_more_than_a_part() -> None:
    admission = Admission(Limits(open_requests=100, open_tokens=1000))
    admission.admit(load(num_tokens=500), 0.0)
    with pytest.raises(ApiError):
        admission.admit(load(num_tokens=5_000), 0.0)
    admission.require_room(0.0, num_bytes=100_000)


# -- several keys --------------------------------------------------------------------------------

LIMITS_OF_KEYS = Limits(open_requests=8, open_tokens=1000, open_requests_per_key=4, open_tokens_per_key=500)


def of_key(tenant: str, num_requests: int = 1, num_tokens: int = 10) -> Load:
    return Load(num_requests=num_requests, num_tokens=num_tokens, tenant=tenant)


@pytest.mark.parametrize("more", [of_key("a"), of_key("a", num_tokens=460)])
def test_one_key_cannot_fill_the_queue(more: Load) -> None:
    admission = Admission(LIMITS_OF_KEYS)
    admission.admit(of_key("a", num_requests=more.num_requests if more.num_tokens > 10 else 4, num_tokens=50), 0.0)
    with pytest.raises(ApiError, match="of this key"):
        admission.admit(more, 0.0)
    admission.admit(of_key("b", num_requests=2, num_tokens=400), 0.0)
    admission.release(of_key("b", num_requests=2, num_tokens=400), 1.0)
    assert list(admission._open_of) == ["a"], "nothing is kept of a key without requests"


def test_refusals_of_one_key_close_no_door_of_another() -> None:
    admission = Admission(LIMITS_OF_KEYS)
    admission.admit(of_key("a", num_tokens=480), 0.0)
    with pytest.raises(ApiError):
        admission.admit(of_key("a", num_tokens=100), 0.0)
    with pytest.raises(ApiError):
        admission.require_room(0.0, "a", num_bytes=5_000)
    admission.require_room(0.0, "b", num_bytes=5_000)


def test_a_single_key_may_fill_the_queue() -> None:
    admission = Admission(LIMITS_OF_KEYS)
    for _ in range(8):
        admission.admit(of_key(""), 0.0)
    with pytest.raises(ApiError):
        admission.admit(of_key(""), 0.0)
