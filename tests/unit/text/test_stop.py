"""Stop strings by example; the property tests compare them with the naive search."""

from __future__ import annotations

from quire.text.stop import StopMatcher


def test_a_stop_that_crosses_pieces_is_never_shown() -> None:
    matcher = StopMatcher(("</end>",), keeps_stop=False)
    results = [matcher.push(piece) for piece in ("Paris<", "/en", "d> more")]
    assert [result.emit for result in results] == ["Paris", "", ""]
    assert [result.matched for result in results] == [None, None, "</end>"]


def test_a_stop_that_is_kept_is_shown_up_to_its_end() -> None:
    result = StopMatcher(("END",), keeps_stop=True).push("the END of it")
    assert (result.emit, result.matched) == ("the END", "END")


def test_nothing_is_shown_after_a_match() -> None:
    matcher = StopMatcher(("x",), keeps_stop=False)
    matcher.push("ax")
    assert (matcher.push("more").emit, matcher.finish()) == ("", "")


def test_text_held_back_for_a_stop_that_never_came_is_shown_at_the_end() -> None:
    matcher = StopMatcher(("</end>",), keeps_stop=False)
    assert matcher.push("a </e").emit == "a "
    assert matcher.finish() == "</e"


def test_the_stop_that_is_complete_first_wins() -> None:
    matcher = StopMatcher(("bcd", "c"), keeps_stop=False)
    assert matcher.push("abcd").matched == "c"


def test_of_two_stops_that_end_together_the_longer_wins() -> None:
    result = StopMatcher(("c", "bc"), keeps_stop=False).push("abc")
    assert (result.emit, result.matched) == ("a", "bc")


def test_without_stops_all_text_passes() -> None:
    assert StopMatcher((), keeps_stop=False).push("abc").emit == "abc"
