"""A text of so many bytes has at least so many tokens, where a tokenizer promises that."""

from __future__ import annotations

import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, normalizers, pre_tokenizers

from quire.text.tokenizer import Tokenizer
from support import tiny_tokenizers as tiny

BYTE_LEVEL = tiny.byte_level()
PIECES = st.sampled_from(["The capital of France", " ", "\n", "\u00e9", "<|bos|>", "\U0001f600", "\0", "a" * 50]) | st.text(
    max_size=5
)


@given(st.lists(PIECES, max_size=30))
def test_no_token_stands_for_more_bytes_than_it_may(pieces: list[str]) -> None:
    text, widest = "".join(pieces), BYTE_LEVEL.max_bytes_per_token
    assert widest is not None
    assert len(text.encode()) <= widest * len(BYTE_LEVEL.encode(text))


def test_widest_token_stands_for_as_many_bytes_as_it_may() -> None:
    widest = max((BYTE_LEVEL.bytes_of(token_id) or b"" for token_id in range(BYTE_LEVEL.vocab_size)), key=len)
    assert BYTE_LEVEL.max_bytes_per_token == len(widest)


def test_tokenizers_that_shorten_or_leave_out_text_promise_nothing() -> None:
    assert tiny.sentencepiece().max_bytes_per_token is None
    assert tiny.word_piece().max_bytes_per_token is None
    assert all(_widest_of(change) is None for change in (_normalize, _remove_spaces, _take_spaces_along))


def test_tokenizer_that_lacks_bytes_promises_nothing() -> None:
    model = tokenizers.models.BPE(vocab={"a": 0, "b": 1}, merges=[])
    lacking = tokenizers.Tokenizer(model)
    lacking.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    lacking.decoder = tokenizers.decoders.ByteLevel()
    assert tiny.wrapped(lacking).encode("cccc") == [], "what is not in the vocabulary is left out"
    assert tiny.wrapped(lacking).max_bytes_per_token is None


def _widest_of(change: object) -> int | None:
    backend = tiny.byte_level_backend()
    assert callable(change)
    change(backend)
    tokenizer: Tokenizer = tiny.wrapped(backend)
    return tokenizer.max_bytes_per_token


def _normalize(backend: tokenizers.Tokenizer) -> None:
    backend.normalizer = normalizers.NFC()


def _remove_spaces(backend: tokenizers.Tokenizer) -> None:
    steps = [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)


def _take_spaces_along(backend: tokenizers.Tokenizer) -> None:
    backend.add_special_tokens([AddedToken("<|end|>", rstrip=True)])
