"""Streams of tokens and of text: however they are cut, the whole comes out the same."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from quire.text.automaton import Automaton
from quire.text.chat import ChatTemplate
from quire.text.conversation import Conversation
from quire.text.detokenizer import IncrementalDetokenizer
from quire.text.stop import StopMatcher
from quire.text.tokenizer import AddSpecial, Tokenizer
from support import tiny_tokenizers as tiny

MAKERS = [tiny.byte_level, tiny.sentencepiece, tiny.word_piece]
ROUND_TRIP = MAKERS[:2]
UNICODE = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
FAMILIAR = st.lists(st.sampled_from([*tiny.TEXTS, *tiny.SPECIALS, " ", "\n", "ab", "\N{FAMILY}", "é"]), max_size=5).map("".join)
TEXTS = st.one_of(UNICODE, FAMILIAR)


def streamed(
    tokenizer: Tokenizer, token_ids: Sequence[int], *, skip_special: bool = True, after: Sequence[int] = ()
) -> list[str]:
    detokenizer = IncrementalDetokenizer(tokenizer, skip_special=skip_special, after=after)
    return [*map(detokenizer.push, token_ids), detokenizer.finish()]


@pytest.mark.parametrize("make", ROUND_TRIP)
@given(text=TEXTS, skip_special=st.booleans())
@settings(max_examples=200, deadline=None)
def test_pieces_of_a_text_join_to_what_decode_returns(make: Callable[[], Tokenizer], text: str, skip_special: bool) -> None:
    tokenizer = make()
    token_ids = tokenizer.encode(text)
    pieces = streamed(tokenizer, token_ids, skip_special=skip_special)
    assert "".join(pieces) == tokenizer.decode(token_ids, skip_special=skip_special)
    assert "\ufffd" in text or not any("\ufffd" in piece for piece in pieces)


@given(data=st.data(), skip_special=st.booleans())
@settings(max_examples=400, deadline=None)
def test_any_byte_level_tokens_join_to_what_decode_returns(data: st.DataObject, skip_special: bool) -> None:
    """Also where the bytes are no valid text at all, as an untrained model produces them."""
    tokenizer = tiny.byte_level()
    token_ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size + 2), max_size=30))
    pieces = streamed(tokenizer, token_ids, skip_special=skip_special)
    assert "".join(pieces) == tokenizer.decode(token_ids, skip_special=skip_special)


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_sentencepiece_tokens_join_to_decode_wherever_their_bytes_are_valid(data: st.DataObject) -> None:
    tokenizer = tiny.sentencepiece()
    token_ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=12))
    whole = tokenizer.decode(token_ids)
    assume("\ufffd" not in whole)
    assert "".join(streamed(tokenizer, token_ids)) == whole


@given(data=st.data())
@settings(deadline=None)
def test_tokens_whose_text_depends_on_neighbors_join_to_what_decode_returns(data: st.DataObject) -> None:
    tokenizer = tiny.word_piece()
    token_ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=12))
    assert "".join(streamed(tokenizer, token_ids)) == tokenizer.decode(token_ids)


@pytest.mark.parametrize("make", ROUND_TRIP)
@given(text=TEXTS, data=st.data())
@settings(max_examples=100, deadline=None)
def test_prompt_and_continuation_join_to_the_whole_text(make: Callable[[], Tokenizer], text: str, data: st.DataObject) -> None:
    tokenizer = make()
    token_ids = tokenizer.encode(text)
    cut = data.draw(st.integers(0, len(token_ids)))
    prompt = streamed(tokenizer, token_ids[:cut])[:-1]
    rest = streamed(tokenizer, token_ids[cut:], after=token_ids[:cut])
    assert "".join(prompt + rest) == tokenizer.decode(token_ids)


@pytest.mark.parametrize("make", ROUND_TRIP)
@given(first=TEXTS, second=TEXTS)
@settings(max_examples=100, deadline=None)
def test_text_encoded_in_two_parts_decodes_to_both(make: Callable[[], Tokenizer], first: str, second: str) -> None:
    assume("\u2581" not in first + second)
    assume("<|" not in first + second or make is not tiny.sentencepiece)  # it puts a space behind special tokens
    tokenizer = make()
    token_ids = tokenizer.encode("x" + first, special=AddSpecial.NO) + tokenizer.encode_continuation(second)
    assert "".join(streamed(tokenizer, token_ids, skip_special=False)) == "x" + first + second


def naive_stop(text: str, stops: tuple[str, ...], *, keeps_stop: bool) -> tuple[str, str | None]:
    """Looks at ever longer beginnings of the text until one ends with a stop."""
    for end in range(len(text) + 1):
        found = sorted((stop for stop in stops if text[:end].endswith(stop)), key=len)
        if found:
            return text[: end if keeps_stop else end - len(found[-1])], found[-1]
    return text, None


STOPS = st.lists(st.text("ab\u00e9", min_size=1, max_size=5), max_size=5).map(tuple)


@given(pieces=st.lists(st.text("ab\u00e9", max_size=6), max_size=8), stops=STOPS, keeps_stop=st.booleans())
@settings(max_examples=500, deadline=None)
def test_stops_are_found_wherever_the_text_is_cut(pieces: list[str], stops: tuple[str, ...], keeps_stop: bool) -> None:
    matcher = StopMatcher(Automaton[str](stops), keeps_stop=keeps_stop)
    shown, matched = "", None
    for piece in pieces:
        result = matcher.push(piece)
        shown, matched = shown + result.emit, result.matched
    shown += matcher.finish()
    assert (shown, matched) == naive_stop("".join(pieces), stops, keeps_stop=keeps_stop)


@given(text=st.text("ab\u00e9", max_size=30), stops=STOPS)
@settings(max_examples=300, deadline=None)
def test_only_text_that_can_still_become_a_stop_is_held_back(text: str, stops: tuple[str, ...]) -> None:
    matcher = StopMatcher(Automaton[str](stops), keeps_stop=False)
    shown = ""
    for end, character in enumerate(text, start=1):
        result = matcher.push(character)
        if result.matched is not None:
            return
        shown += result.emit
        beginnings = {stop[:size] for stop in stops for size in range(1, len(stop))}
        held = max((part for part in beginnings if text[:end].endswith(part)), key=len, default="")
        assert shown + held == text[:end]


CHATML = ChatTemplate(
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    special_tokens={},
)
TRIMMING = ChatTemplate(
    "{% for m in messages %}{{ '[' + m.role + ']' + m.content | trim + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}",
    special_tokens={},
)


@pytest.mark.parametrize("make", ROUND_TRIP)
@pytest.mark.parametrize("template", [CHATML, TRIMMING])
@given(turns=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4), system=TEXTS)
@settings(max_examples=60, deadline=None)
def test_tokens_of_a_conversation_only_grow(
    make: Callable[[], Tokenizer], template: ChatTemplate, turns: list[tuple[str, str]], system: str
) -> None:
    tokenizer = make()
    chat = Conversation(template, tokenizer)
    chat.add_system(system)
    before: tuple[int, ...] = ()
    for question, reply in turns:
        answer = tokenizer.encode(re.sub(r"<\|\w+\|>", "", reply), special=AddSpecial.NO)
        chat.add_user(question)
        prompt = chat.prompt_token_ids()
        assert prompt[: len(before)] == before
        assert len(prompt) > len(before)
        chat.add_assistant([*answer, *tokenizer.eos_token_ids])
        before = (*prompt, *answer)
    assert chat.prompt_token_ids()[: len(before)] == before
    assert chat.num_rewritten_tokens == 0
