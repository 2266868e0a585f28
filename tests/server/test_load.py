"""Small forms of what scripts/load_server.py does at length. No time is asserted: the script alone looks at timings."""

from __future__ import annotations

from scripts.load.crowds import disconnects, streams
from scripts.load.endurance import heartbeats, sigterm, soak
from scripts.load.pressure import flood, overload, slow
from scripts.load.promises import broken, promise, timing

from quire.server.limits import Limits


def test_a_hundred_streams_at_once() -> None:
    assert broken(streams(num=100, max_tokens=8)) == []


def test_clients_that_leave_at_any_moment_leave_nothing_behind() -> None:
    assert broken(disconnects(num=120, seconds=3)) == []


def test_a_flood_from_one_key_changes_no_answer_of_another() -> None:
    assert broken(flood(seconds=2, num_flooding=12)) == []


def test_what_is_accepted_under_overload_is_answered_and_the_rest_refused() -> None:
    assert broken(overload(seconds=3, warm_s=3, max_tokens=60)) == []


def test_slow_clients_are_cut() -> None:
    assert broken(slow(seconds=3, num=4)) == []


def test_streams_come_to_their_end_after_sigterm() -> None:
    assert broken(sigterm(num=12, max_tokens=40)) == []


def test_no_stream_is_silent_while_a_prompt_takes_long() -> None:
    assert broken(heartbeats(prefill_s=1.5, limits=Limits(heartbeat_s=0.3))) == []


def test_a_minute_of_everything_is_right() -> None:
    assert broken(soak(minutes=0.1, num_clients=4)) == []


def test_only_what_holds_on_any_machine_counts_as_broken() -> None:
    assert broken([promise("a", 1, True), promise("b", 2, False), timing("c", "3", False)]) == ["b: 2"]
