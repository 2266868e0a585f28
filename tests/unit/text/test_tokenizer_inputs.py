"""What a tokenizer is asked to encode or decode: texts and token ids, and one typed error for everything else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from quire.errors import RequestError
from quire.text.tokenizer import Tokenizer
from support import tiny_tokenizers as tiny

KINDS = {"byte level": tiny.byte_level, "SentencePiece": tiny.sentencepiece, "WordPiece": tiny.word_piece}
NO_TEXT: list[Any] = [5, None, b"ab", ["a"], np.array(["a"]), "\ud800"]
NO_IDS: list[Any] = [5, None, "ab", b"ab", {1: 2}, {1}, iter([1]), [None], ["a"], [1.5], [[1]], [-1], [2**32], [10**5000]]
NO_IDS += [np.array([1.0]), np.array([[1]]), np.array(1)]

encoders: dict[str, Callable[[Tokenizer, Any], object]] = {
    "encode": lambda tokenizer, text: tokenizer.encode(text),
    "encode_continuation": lambda tokenizer, text: tokenizer.encode_continuation(text),
    "encode_batch": lambda tokenizer, text: tokenizer.encode_batch(["a", text]),
    "id_of": lambda tokenizer, text: tokenizer.id_of(text),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("encode", encoders)
@pytest.mark.parametrize("text", NO_TEXT, ids=repr)
def test_what_is_no_text_is_refused(kind: str, encode: str, text: Any) -> None:
    with pytest.raises(RequestError, match=r"only a text can be encoded|not valid Unicode"):
        encoders[encode](KINDS[kind](), text)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("token_ids", NO_IDS, ids=lambda ids: str(type(ids)))
@pytest.mark.parametrize("skip_special", [True, False])
def test_what_is_no_list_of_token_ids_is_refused(kind: str, token_ids: Any, skip_special: bool) -> None:
    with pytest.raises(RequestError, match="only a list of token ids can be decoded"):
        KINDS[kind]().decode(token_ids, skip_special=skip_special)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("token_id", ["x", None, -1, 2**40, 1.5])
def test_what_is_no_token_id_has_no_text(kind: str, token_id: Any) -> None:
    with pytest.raises(RequestError, match="token id"):
        KINDS[kind]().token_text(token_id)


@pytest.mark.parametrize("kind", KINDS)
def test_any_sequence_or_array_of_integers_is_decoded(kind: str) -> None:
    tokenizer = KINDS[kind]()
    ids = tokenizer.encode("ab a")
    for same in (tuple(ids), np.array(ids), np.array(ids, np.uint16), list(np.array(ids))):
        assert tokenizer.decode(same) == tokenizer.decode(ids)


@pytest.mark.parametrize("texts", [5, None, "ab", b"ab"])
def test_only_a_list_of_texts_is_encoded_at_once(texts: Any) -> None:
    with pytest.raises(RequestError, match="only a list of texts"):
        tiny.byte_level().encode_batch(texts)


@pytest.mark.parametrize("special", [True, False, None, "yes"])
def test_a_switch_about_special_tokens_is_not_guessed(special: Any) -> None:
    with pytest.raises(RequestError, match="special is not a member of AddSpecial"):
        tiny.byte_level().encode("a", special=special)
