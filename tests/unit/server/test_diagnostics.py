"""Digests, notes and verdicts of cache diagnostics, without an engine."""

from __future__ import annotations

import random
from typing import Any

import pytest

from quire.server.diagnostics import (
    Change,
    Comparison,
    Diagnosis,
    Verdict,
    anthropic_diagnostics,
    change_of,
    openai_diagnostics,
)
from quire.server.diagnostics_digests import ChatDigests, Digester, num_equal_tokens
from quire.server.diagnostics_notes import PromptNote, PromptNotes
from quire.server.limits import Limits

_BLOCK = 4
DIGESTER = Digester()


def chat(*texts: str, system: str = "Be brief.", **inputs: Any) -> ChatDigests:
    roles = ("user", "assistant")
    said = [{"role": roles[idx % 2], "content": text} for idx, text in enumerate(texts)]
    return DIGESTER.chat([{"role": "system", "content": system}, *said], inputs)


def note(
    token_ids: list[int], of: ChatDigests | None = None, *, owner: str = "", answer_id: str = "a", salt: str = ""
) -> PromptNote:
    return PromptNote(
        owner=owner,
        answer_id=answer_id,
        tokens=DIGESTER.tokens(token_ids),
        chat=of,
        salt=DIGESTER.digest(salt),
        label=None,
        request_ids=("request-1",),
        lengths=(len(token_ids),),
        created=0,
    )


def diagnosis(earlier: PromptNote | None, later: PromptNote, num_cached: int) -> Diagnosis:
    return Comparison(earlier=earlier, later=later, block_size=_BLOCK).diagnosis(num_cached)


# -- digests ---------------------------------------------------------------------------


def test_first_differing_token_is_found_at_any_place() -> None:
    rng = random.Random(1)
    for length in range(1, 200):
        left = [rng.randrange(200_000) for _ in range(length)]
        place = rng.randrange(length)
        right = [*left[:place], left[place] ^ 1, *(rng.randrange(200_000) for _ in range(rng.randrange(9)))]
        assert num_equal_tokens(DIGESTER.tokens(left), DIGESTER.tokens(right)) == place
        longer = DIGESTER.tokens([*left, 5, 6])
        assert num_equal_tokens(DIGESTER.tokens(left), longer) == num_equal_tokens(longer, DIGESTER.tokens(left)) == length


def test_equal_tokens_have_other_digests_at_other_places_and_in_other_processes() -> None:
    digests = DIGESTER.tokens([7] * 1000)
    assert len(digests) == 3000
    assert len({digests[start : start + 3] for start in range(0, 3000, 3)}) > 990
    assert num_equal_tokens(digests, Digester().tokens([7] * 1000)) < 2


def test_digests_hold_no_text_and_no_token_id() -> None:
    phrase = "correct horse battery staple"
    made = chat(phrase, system=phrase)
    kept = made.system + made.messages + made.thinking + made.tools
    assert phrase.encode() not in kept
    assert made.num_bytes == len(kept) == 2 * 8
    ids = b"".join((12345).to_bytes(3, "little") for _ in range(100))
    assert not set(zip(*[iter(DIGESTER.tokens([12345] * 100))] * 3, strict=True)) & {tuple(ids[:3])}


# -- what changed ----------------------------------------------------------------------

_TOOLS = [{"type": "function", "function": {"name": "f"}}]


@pytest.mark.parametrize(
    ("later", "change"),
    [
        (chat("a", "b", "c", system="Be long."), Change.SYSTEM),
        (chat("a", "b", "c", documents=[{"text": "x"}]), Change.SYSTEM),
        (chat("a", "b", "c", tools=_TOOLS), Change.TOOLS),
        (chat("a", "B", "c"), Change.MESSAGES),
        (chat("a", "b"), Change.MESSAGES),
        (chat("a", "b", "c", variables={"enable_thinking": False}), Change.THINKING),
        (chat("a", "b", "c", "d", "e"), Change.RENDERING),
        (DIGESTER.chat([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "c"}], {}), Change.HISTORY_CUT),
    ],
)
def test_what_changed_is_named(later: ChatDigests, change: Change) -> None:
    assert change_of(chat("a", "b", "c"), later) is change


def test_history_is_cut_where_it_goes_on_from_the_same_last_message() -> None:
    earlier = chat("one", "two", "three", "four", "five")
    assert change_of(earlier, chat("three", "four", "five", "six", "seven")) is Change.HISTORY_CUT
    assert change_of(earlier, chat("a summary", "x", "five", "six")) is Change.HISTORY_CUT
    assert change_of(earlier, chat("one", "2", "three", "four", "five")) is Change.MESSAGES
    assert change_of(earlier, chat("something else")) is Change.MESSAGES


def test_a_system_message_that_is_appended_is_no_changed_system_text() -> None:
    first = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    longer = [*first, {"role": "system", "content": "from now on"}, {"role": "user", "content": "v"}]
    assert DIGESTER.chat(longer, {}).messages.startswith(DIGESTER.chat(first, {}).messages)
    assert DIGESTER.chat(longer, {}).system == DIGESTER.chat(first, {}).system


# -- verdicts --------------------------------------------------------------------------


def test_nothing_that_could_be_reused_was_computed_again() -> None:
    first = note([1, 2, 3, 4, 5, 6, 7, 8, 9])
    assert diagnosis(first, note([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]), 8).verdict is Verdict.HIT
    assert diagnosis(first, first, 8).verdict is Verdict.HIT
    assert diagnosis(note([1, 2, 3, 4, 5, 6, 7, 8]), note([1, 2, 3, 4, 5, 6, 7, 8]), 4).verdict is Verdict.HIT  # the last token
    assert diagnosis(note([1, 2, 3]), note([7, 8, 9]), 0).verdict is Verdict.HIT  # less than a block: nothing to reuse
    assert diagnosis(first, note([9, 9, 9, 9, 9, 9, 9, 9, 9]), 8).verdict is Verdict.HIT  # found through another request


def test_counts_of_a_miss_add_up() -> None:
    first = note([1, 2, 3, 4, 5, 6, 7, 8, 9], chat("a"))
    missed = diagnosis(first, note([1, 2, 3, 4, 5, 0, 7, 8, 9, 10], chat("b")), 4)
    assert missed == Diagnosis(verdict=Verdict.MISS, change=Change.MESSAGES, num_missed=4, num_reusable=8)
    shorter = diagnosis(first, note([0, 2, 3, 4, 5, 6], chat("b")), 0)
    assert (shorter.num_missed, shorter.num_reusable) == (4, 4)


def test_equal_prompts_that_miss_are_unavailable() -> None:
    first = note([1, 2, 3, 4, 5, 6, 7, 8, 9], chat("a"))
    longer = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    assert diagnosis(first, note(longer, chat("a", "b")), 4).verdict is Verdict.UNAVAILABLE
    assert diagnosis(first, note(longer, chat("a", "b"), salt="mine"), 0).verdict is Verdict.UNAVAILABLE
    assert diagnosis(None, note(longer), 0).verdict is Verdict.NOT_FOUND


def test_words_of_both_vendors() -> None:
    def miss(change: Change) -> Diagnosis:
        return Diagnosis(verdict=Verdict.MISS, change=change, num_missed=32, num_reusable=64)

    openai_words = {change: openai_diagnostics(miss(change))["reason"] for change in Change}
    assert openai_words[Change.TOOLS] == "tools_changed"
    assert openai_words[Change.HISTORY_CUT] == "context_compacted"
    assert openai_words[Change.THINKING] == "reasoning_effort_changed"
    assert openai_words[Change.SYSTEM] == openai_words[Change.MESSAGES] == "input_changed"
    reason = {"type": "system_changed", "cache_missed_input_tokens": 32}
    assert anthropic_diagnostics(miss(Change.SYSTEM)) == {"cache_miss_reason": reason}
    assert anthropic_diagnostics(miss(Change.THINKING)) == {"cache_miss_reason": {"type": "unavailable"}}
    assert anthropic_diagnostics(Diagnosis(verdict=Verdict.HIT)) is None
    assert openai_diagnostics(Diagnosis(verdict=Verdict.UNAVAILABLE)) == {"type": "unavailable"}


# -- notes -----------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_notes_are_found_by_their_owner_alone_and_for_a_time() -> None:
    clock = Clock()
    notes = PromptNotes(Limits(noted_s=10.0), clock)
    notes.put(note([1], owner="me"))
    assert notes.get("me", "a") is not None
    assert notes.get("you", "a") is None
    clock.now = 10.0
    assert notes.get("me", "a") is None
    assert len(notes) == notes.num_bytes == 0


def test_one_owner_cannot_push_out_what_others_keep() -> None:
    notes = PromptNotes(Limits(noted_answers=4, noted_bytes=10**9))
    notes.put(note([1], owner="quiet"))
    for number in range(20):
        notes.put(note([1], owner="loud", answer_id=str(number)))
    assert notes.get("quiet", "a") is not None
    assert [noted.note.answer_id for noted in notes.newest("loud", 0, 9)] == ["19", "18", "17"]
    assert [noted.note.answer_id for noted in notes.newest("loud", 1, 1)] == ["18"]


def test_notes_are_bounded_in_bytes() -> None:
    notes = PromptNotes(Limits(noted_bytes=100_000))
    for number in range(50):
        notes.put(note([1] * 2000, owner="a", answer_id=str(number)))
    assert 0 < notes.num_bytes <= 100_000
    assert len(notes) == 100_000 // (6000 + 1024 + 512)
