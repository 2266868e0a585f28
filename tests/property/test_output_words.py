"""Stop strings and banned words against their naive twins: decode everything, and look."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.request import FinishReason
from quire.text.banned_words import BannedTokens, BannedWords
from quire.text.tokenizer import AddSpecial, Tokenizer
from quire.text.vocabulary import Vocabulary
from support import tiny_tokenizers as tiny
from support.fake_engine import make_core, run_all, submission
from support.scripted import ScriptedExecutor, answer

# -- stop strings --------------------------------------------------------------------

SPECIAL = "<|im_start|>"
PIECES = st.lists(
    st.sampled_from(["a", "b", "ab", " a", "\u4e16", "\N{GRINNING FACE}", SPECIAL, tiny.BOS]), min_size=1, max_size=8
)
STOPS = st.lists(
    st.lists(st.sampled_from(["a", "b", " ", "\u4e16", "\N{GRINNING FACE}", SPECIAL, "|>", "<"]), min_size=1, max_size=3).map(
        "".join
    ),
    min_size=1,
    max_size=3,
)


def naive_stop(
    tokenizer: Tokenizer, token_ids: Sequence[int], stops: Sequence[str], min_tokens: int, hidden_ids: frozenset[int]
) -> tuple[str, int, str | None]:
    """Returns shown text, number of tokens and stop of an answer of valid text, after ever more tokens."""
    characters: list[tuple[str, bool]] = []
    for num_tokens, token_id in enumerate(token_ids, start=1):
        content = b"".join(tokenizer.bytes_of(each) or b"" for each in token_ids[:num_tokens])
        for character in content.decode(errors="ignore")[len(characters) :]:
            characters.append((character, token_id not in hidden_ids))
            text = "".join(each for each, _ in characters)
            found = max((stop for stop in stops if text.endswith(stop)), key=len, default=None)
            if found is not None and num_tokens > min_tokens:
                return "".join(each for each, is_shown in characters[: -len(found)] if is_shown), num_tokens, found
    return "".join(each for each, is_shown in characters if is_shown), len(token_ids), None


@pytest.mark.parametrize("make", [tiny.byte_level, tiny.sentencepiece])
@given(pieces=PIECES, stops=STOPS, min_tokens=st.integers(0, 4), skips=st.booleans())
@settings(max_examples=100, deadline=None)
def test_an_answer_stops_where_its_text_with_special_tokens_holds_a_stop(
    make: Callable[[], Tokenizer], pieces: list[str], stops: list[str], min_tokens: int, skips: bool
) -> None:
    tokenizer = make()
    script = [token_id for piece in pieces for token_id in tokenizer.encode(piece, special=AddSpecial.NO)]
    params = {"stop": stops, "min_tokens": min(min_tokens, len(script)), "skip_special_tokens": skips, "ignore_eos": True}
    output, deltas = answer(tokenizer, script, tokenizer.encode("b", special=AddSpecial.NO)[-1], **params)
    hidden = tokenizer.special_ids if skips else frozenset[int]()
    text, num_tokens, stop = naive_stop(tokenizer, script, stops, params["min_tokens"], hidden)
    assert (output.text, output.token_ids, output.stop_reason) == (text, tuple(script[:num_tokens]), stop)
    assert output.finish_reason is (FinishReason.LENGTH if stop is None else FinishReason.STOP)
    assert "".join(delta.text for delta in deltas) == text


# -- banned words --------------------------------------------------------------------

CONTENT = st.lists(st.sampled_from([b"a", b"b", b" ", b"\xc3", b"\xa9", b"\xa8"]), max_size=4).map(b"".join)
WORDS = st.lists(st.text("ab \u00e9\u00e8", min_size=1, max_size=4), min_size=1, max_size=4)


def naive_ban(words: list[str], vocabulary: list[bytes], hidden: frozenset[int], output: list[int]) -> list[int]:
    """Tries every token: is there a word that ends with it?"""

    def completes(before: bytes, content: bytes) -> bool:
        ends = (before + content[:size] for size in range(1, len(content) + 1))
        return any(end.endswith((word.lstrip(" ") or word).encode()) for word, end in product(words, list(ends)))

    whole = b"".join(vocabulary[token_id] for token_id in output)
    shown = b"".join(vocabulary[token_id] for token_id in output if token_id not in hidden)
    tokens = enumerate(vocabulary)
    return [i for i, content in tokens if completes(whole, content) or (i not in hidden and completes(shown, content))]


@given(vocabulary=st.lists(CONTENT, min_size=1, max_size=20), words=WORDS, data=st.data())
@settings(max_examples=300, deadline=None)
def test_banned_tokens_are_those_that_complete_a_word(vocabulary: list[bytes], words: list[str], data: st.DataObject) -> None:
    ids = st.integers(0, len(vocabulary) - 1)
    hidden = frozenset(data.draw(st.sets(ids, max_size=3)))
    shared = BannedWords(words, Vocabulary(vocabulary), hidden)
    followed = BannedTokens(shared)
    output: list[int] = []
    for token_id in data.draw(st.lists(ids, max_size=6)):
        expected = naive_ban(words, vocabulary, hidden, output)
        assert followed.after(output).tolist() == BannedTokens(shared).after(output).tolist() == expected
        output.append(token_id)


@pytest.mark.parametrize("make", [tiny.byte_level, tiny.sentencepiece, tiny.word_piece])
@given(seed=st.integers(0, 2**32), data=st.data())
@settings(max_examples=40, deadline=None)
def test_no_text_holds_a_banned_word(make: Callable[[], Tokenizer], seed: int, data: st.DataObject) -> None:
    """Words are cut from what the same request writes without a ban, so that each of them stands in the way."""
    tokenizer = make()
    prompt_id = tokenizer.encode("hello", special=AddSpecial.NO)[-1]
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), min_size=1, max_size=3, unique=True))
    params = {"temperature": 1.0, "seed": seed, "logit_bias": dict.fromkeys(ids, 3.0), "max_tokens": 12, "ignore_eos": True}
    free, _ = answer(tokenizer, ids, prompt_id, **params)
    text = free.text.replace("\ufffd", "").strip() or "a"
    start = data.draw(st.integers(0, len(text) - 1))
    words = {text[start : start + data.draw(st.integers(1, 4))].strip() or "a", text[0]}
    output, _ = answer(tokenizer, ids, prompt_id, bad_words=words, **params)
    assert not [word for word in words if word in output.text]
    assert len(output.token_ids) == 12


@given(seed=st.integers(0, 2**32), words=st.sets(st.text("abcde ", min_size=1, max_size=2), min_size=1, max_size=4))
@settings(max_examples=10, deadline=None)
def test_a_ban_gives_the_same_tokens_alone_in_a_batch_and_after_preemption(seed: int, words: set[str]) -> None:
    tokenizer = tiny.byte_level()
    params = {"temperature": 1.0, "bad_words": sorted(words), "max_tokens": 40, "ignore_eos": True}
    work = [submission(name, (index,) * 20, seed=seed + index, **params) for index, name in enumerate("abc")]

    def tokens(num_blocks: int, *submissions: object) -> dict[str, tuple[int, ...]]:
        core = make_core(ScriptedExecutor([5, 6, 7], tokenizer.vocab_size, num_blocks), tokenizer)
        return {name: output.outputs[0].token_ids for name, output in run_all(core, *submissions).items()}  # type: ignore[arg-type]

    together = tokens(4, *work)
    assert together == tokens(64, *work)
    assert together == {name: ids for each in work for name, ids in tokens(64, each).items()}
