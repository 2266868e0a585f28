"""What a freshly trained tokenizer promises: any text survives, single digits and capitals, the same ids in every library."""

from __future__ import annotations

import json
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import pytest
import tokenizers
import transformers
from hypothesis import given
from hypothesis import strategies as st

from quire.errors import ConfigError
from quire.models.families.sizes import MAX_VOCAB
from quire.text.tokenizer import Tokenizer
from quire.train.tokenizer import CHAT_TEMPLATE, END, MIN_VOCAB_SIZE, SPECIAL_TOKENS, save_tokenizer, train_tokenizer

TEXTS = (
    "Paris is the capital of France, and Rome is the capital of Italy.",
    "Reverse QXKZ and HTMLParser: 12 + 345 = 357.",
    "法国的首都是巴黎。你好世界。",
    "  indented\n\tlines",
) * 4
MIXED = "In Paris the HTMLParser read QXKZ, 120 times; 法国 ÄÖÜß\n  <|end|><|user|> ABBA<|user|>ABBA"


@pytest.fixture(scope="module")
def trained() -> tokenizers.Tokenizer:
    return train_tokenizer(TEXTS, 400)


@pytest.fixture(scope="module")
def directory(trained: tokenizers.Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(trained, directory, max_context=512)
    return directory


def pieces(tokenizer: tokenizers.Tokenizer, text: str) -> list[str]:
    return [tokenizer.decode([token_id]) for token_id in tokenizer.encode(text).ids]


@given(text=st.text())
def test_any_text_survives_the_way_there_and_back(trained: tokenizers.Tokenizer, text: str) -> None:
    assert trained.decode(trained.encode(text).ids, skip_special_tokens=False) == text


@given(text=st.text(alphabet="ABCZ\N{LATIN CAPITAL LETTER A WITH DIAERESIS}xyz 019"))
def test_no_token_holds_two_capitals_in_a_row_or_two_digits(trained: tokenizers.Tokenizer, text: str) -> None:
    for piece in pieces(trained, text):
        assert not any(left.isupper() and right.isupper() for left, right in pairwise(piece))
        assert piece.isdigit() <= (len(piece) == 1)


def test_capitals_of_a_run_are_the_same_tokens_wherever_they_stand(trained: tokenizers.Tokenizer) -> None:
    assert pieces(trained, "QXKZ") == ["Q", "X", "K", "Z"]
    assert pieces(trained, " ZKXQ.") == [" ", "Z", "K", "X", "Q", "."]


def test_common_words_are_one_token(trained: tokenizers.Tokenizer) -> None:
    assert pieces(trained, "Paris is the capital of Italy") == ["Paris", " is", " the", " capital", " of", " Italy"]


def test_digits_are_single(trained: tokenizers.Tokenizer) -> None:
    assert pieces(trained, "12345") == list("12345")


def test_special_tokens_have_the_first_ids(trained: tokenizers.Tokenizer) -> None:
    assert [trained.token_to_id(token) for token in SPECIAL_TOKENS] == [0, 1, 2, 3]


def test_equal_texts_give_equal_tokenizers(trained: tokenizers.Tokenizer) -> None:
    assert train_tokenizer(iter(TEXTS), 400).to_str() == trained.to_str()


def test_vocabulary_is_as_large_as_asked_or_as_the_texts_allow() -> None:
    assert train_tokenizer(TEXTS, 300).get_vocab_size() == 300
    assert train_tokenizer(["x"], 400).get_vocab_size() == MIN_VOCAB_SIZE


def test_quire_and_transformers_load_the_same_tokenizer(trained: tokenizers.Tokenizer, directory: Path) -> None:
    theirs = transformers.AutoTokenizer.from_pretrained(directory)
    ours = Tokenizer.from_directory(directory)
    assert trained.encode(MIXED).ids == ours.encode(MIXED) == theirs(MIXED)["input_ids"]
    assert ours.decode(ours.encode(MIXED), skip_special=False) == MIXED == theirs.decode(theirs(MIXED)["input_ids"])
    assert ours.eos_token_ids == {theirs.eos_token_id} == {trained.token_to_id(END)}
    assert theirs.model_max_length == 512


def test_explicit_fast_class_loads_it_too(directory: Path) -> None:
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(directory)
    assert theirs(MIXED)["input_ids"] == Tokenizer.from_directory(directory).encode(MIXED)


def test_chat_template_wraps_messages_in_special_tokens(directory: Path) -> None:
    theirs = transformers.AutoTokenizer.from_pretrained(directory)
    messages = [{"role": "user", "content": "Hi"}]
    text = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<|user|>Hi<|end|><|assistant|>"


def test_chat_template_is_that_of_the_bundled_model() -> None:
    assert (files("quire.models") / "bundled" / "chat_template.jinja").read_text(encoding="utf-8") == CHAT_TEMPLATE


def test_every_byte_and_special_token_needs_a_place_in_the_vocabulary() -> None:
    with pytest.raises(ConfigError, match=f"at least {MIN_VOCAB_SIZE}"):
        train_tokenizer(TEXTS, MIN_VOCAB_SIZE - 1)
    assert len(json.loads(train_tokenizer(TEXTS, MIN_VOCAB_SIZE).to_str())["model"]["merges"]) == 0


@pytest.mark.parametrize("vocab_size", [MAX_VOCAB + 1, 100_000_000_000, 2**70])
def test_a_vocabulary_beyond_any_model_is_refused_before_a_text_is_read(vocab_size: int) -> None:
    texts = iter(TEXTS)
    with pytest.raises(ConfigError, match=f"at most {MAX_VOCAB}"):
        train_tokenizer(texts, vocab_size)
    assert list(texts) == list(TEXTS)


@pytest.mark.parametrize("texts", [[], [""], [" \n", "\t"]])
def test_blank_texts_are_refused(texts: list[str]) -> None:
    with pytest.raises(ConfigError, match="no text"):
        train_tokenizer(texts, 300)


def test_text_that_is_no_unicode_is_refused_with_its_place() -> None:
    with pytest.raises(ConfigError, match="character 2 of text 1"):
        train_tokenizer(["fine", "ab\ud800"], 300)
