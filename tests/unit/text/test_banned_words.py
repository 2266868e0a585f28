"""Banned words by example: which tokens would complete one. The property tests compare them with the naive search."""

from __future__ import annotations

import pytest

from quire.text.banned_words import BannedTokens, BannedWords
from quire.text.tokenizer import AddSpecial, Tokenizer
from quire.text.vocabulary import Vocabulary
from support import tiny_tokenizers as tiny


def banned_after(output: list[bytes], words: list[str], vocabulary: list[bytes], hidden: set[bytes] | None = None) -> set[bytes]:
    """Returns the tokens of a vocabulary that may not follow an output of its tokens."""
    hidden_ids = frozenset(map(vocabulary.index, hidden or ()))
    ban = BannedTokens(BannedWords(words, Vocabulary(vocabulary), hidden_ids))
    return {vocabulary[token_id] for token_id in ban.after([vocabulary.index(token) for token in output])}


CITY = [b"in", b"\n", b" ", b"London", b" London", b"Londoners", b"Lon", b" Lon", b"don", b"donkey", b"do", b"n", b"nn"]


def test_tokens_that_hold_a_word_are_banned_everywhere() -> None:
    assert banned_after([], ["London"], CITY) == {b"London", b" London", b"Londoners"}
    assert banned_after([b"in", b"\n"], ["London"], CITY) == {b"London", b" London", b"Londoners"}


def test_tokens_that_complete_a_begun_word_are_banned_behind_it() -> None:
    whole = {b"London", b" London", b"Londoners"}
    assert banned_after([b" Lon"], ["London"], CITY) == whole | {b"don", b"donkey"}
    assert banned_after([b"Lon", b"do"], ["London"], CITY) == whole | {b"n", b"nn"}
    assert banned_after([b"Lon", b" "], ["London"], CITY) == whole


def test_bytes_of_a_character_may_come_one_by_one() -> None:
    vocabulary = [b"caf", b"\xc3", b"\xa9", b"\xa8", "\u00e9".encode()]
    assert banned_after([b"caf", b"\xc3"], ["caf\u00e9"], vocabulary) == {b"\xa9"}
    assert banned_after([b"caf"], ["caf\u00e9"], vocabulary) == {"\u00e9".encode()}


def test_spaces_before_a_word_do_not_count_unless_it_is_nothing_else() -> None:
    assert banned_after([], [" London"], CITY) == banned_after([], ["London"], CITY)
    assert banned_after([], [" "], CITY) == {b" ", b" London", b" Lon"}
    assert banned_after([], ["\n"], CITY) == {b"\n"}


def test_special_tokens_are_their_text_and_hide_no_word() -> None:
    vocabulary = [b"ab", b"cd", b"<x>", b"d", b"c"]
    assert banned_after([], ["<x>"], vocabulary) == {b"<x>"}
    assert banned_after([b"ab"], ["b<x>c"], vocabulary, {b"<x>"}) == set()
    assert banned_after([b"ab", b"<x>"], ["b<x>c"], vocabulary, {b"<x>"}) == {b"cd", b"c"}
    assert banned_after([b"ab", b"<x>"], ["abc"], vocabulary, {b"<x>"}) == {b"cd", b"c"}
    assert banned_after([b"ab", b"<x>"], ["abc"], vocabulary) == set()


def test_an_output_that_became_shorter_is_read_again() -> None:
    ban = BannedTokens(BannedWords(["ab"], Vocabulary([b"a", b"b"]), frozenset()))
    assert [list(ban.after(output)) for output in ([0], [0, 0, 0], [], [0])] == [[1], [1], [], [1]]


def test_tokens_that_the_tokenizer_does_not_have_add_nothing() -> None:
    ban = BannedTokens(BannedWords(["ab"], Vocabulary([b"a", b"b"]), frozenset()))
    assert list(ban.after([0, 99])) == [1]


@pytest.mark.parametrize("make", [tiny.byte_level, tiny.sentencepiece])
@pytest.mark.parametrize("text", ["Paris", " Paris", "\nParis", "(Paris", "of Paris", "caf\u00e9 \N{GRINNING FACE}"])
def test_a_word_is_banned_however_the_tokenizer_writes_it(make: object, text: str) -> None:
    """Its last token is banned behind the others wherever the word stands."""
    tokenizer: Tokenizer = make()  # type: ignore[operator]
    ban = BannedTokens(BannedWords([text.rsplit(maxsplit=1)[-1].strip("(")], tokenizer.vocabulary, frozenset()))
    *before, last = tokenizer.encode(text, special=AddSpecial.NO)
    assert last in ban.after(before)


def test_tokens_that_depend_on_neighbors_count_as_they_are_written_behind_a_word() -> None:
    tokenizer = tiny.word_piece()
    hello, world, s = tokenizer.encode("hello worlds", special=AddSpecial.NO)
    ban = BannedTokens(BannedWords(["worlds", "hello"], tokenizer.vocabulary, tokenizer.special_ids))
    assert list(ban.after([])) == [hello]
    assert sorted(ban.after([world])) == sorted([hello, s])
