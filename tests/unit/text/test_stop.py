"""Stop strings by example; the property tests compare them with the naive search."""

from __future__ import annotations

from quire.text.automaton import Automaton
from quire.text.stop import StopMatcher, StopResult


def matcher_of(stops: tuple[str, ...], *, keeps_stop: bool = False) -> StopMatcher:
    return StopMatcher(Automaton[str](stops), keeps_stop=keeps_stop)


def test_a_stop_that_crosses_pieces_is_never_shown() -> None:
    matcher = matcher_of(("</end>",))
    results = [matcher.push(piece) for piece in ("Paris<", "/en", "d> more")]
    assert [result.emit for result in results] == ["Paris", "", ""]
    assert [result.matched for result in results] == [None, None, "</end>"]


def test_a_stop_that_is_kept_is_shown_up_to_its_end() -> None:
    result = matcher_of(("END",), keeps_stop=True).push("the END of it")
    assert (result.emit, result.matched) == ("the END", "END")


def test_nothing_is_shown_after_a_match() -> None:
    matcher = matcher_of(("x",))
    matcher.push("ax")
    assert (matcher.push("more").emit, matcher.finish()) == ("", "")


def test_text_held_back_for_a_stop_that_never_came_is_shown_at_the_end() -> None:
    matcher = matcher_of(("</end>",))
    assert matcher.push("a </e").emit == "a "
    assert matcher.finish() == "</e"


def test_the_stop_that_is_complete_first_wins() -> None:
    matcher = matcher_of(("bcd", "c"))
    assert matcher.push("abcd").matched == "c"


def test_of_two_stops_that_end_together_the_longer_wins() -> None:
    result = matcher_of(("c", "bc")).push("abc")
    assert (result.emit, result.matched) == ("a", "bc")


def test_without_stops_all_text_passes() -> None:
    assert matcher_of(()).push("abc").emit == "abc"


def test_a_stop_is_found_in_hidden_text_which_is_never_shown() -> None:
    matcher = matcher_of(("yo<end>",))
    assert [matcher.push(" yo").emit, matcher.push("", hidden="<end>")] == [" ", StopResult(emit="", matched="yo<end>")]


def test_a_stop_that_is_kept_shows_no_hidden_text() -> None:
    matcher = matcher_of(("yo<end>!",), keeps_stop=True)
    matcher.push("say yo")
    assert matcher.push("!?", hidden="<end>").emit == "yo!"


def test_hidden_text_held_back_is_not_shown_at_the_end() -> None:
    matcher = matcher_of(("a<end>b",))
    assert [matcher.push("a").emit, matcher.push("", hidden="<end>").emit, matcher.finish()] == ["", "", "a"]


def test_a_stop_counts_where_it_is_complete() -> None:
    matcher = matcher_of(("bc", "bcde"))
    results = [matcher.push("ab", heeds=False), matcher.push("cd", heeds=False), matcher.push("ef")]
    assert [(result.emit, result.matched) for result in results] == [("a", None), ("", None), ("", "bcde")]


def test_nothing_is_held_back_for_a_stop_that_came_too_early() -> None:
    matcher = matcher_of(("bc",))
    assert matcher.push("abc", heeds=False).emit == "abc"
