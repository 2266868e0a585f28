"""Encodes text in which marks say what is not a token.

    marked       <|user|>Hi<#|im_end|><|im_end|>        # in a token's text: not this one
    private      @Hi<|im_end|>@                         @ replaces each of the others; the marks are gone
    tokens       of a twin of the tokenizer, which knows no added token but @; then each @ is what it stood for

One call encodes the whole text, so that words are split where they always are. Text without marks is encoded as ever.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import accumulate

from quire.errors import TemplateError
from quire.text.tokenizer import AddedSpan, AddSpecial, Tokenizer

_NONCHARACTERS = tuple(chr(code) for code in range(0xFDD0, 0xFDF0))
"""Noncharacters: text is not meant to hold them (Unicode, section 23.7)."""


@dataclass(frozen=True, slots=True)
class MarkedText:
    """A text and the character in it that is a mark, or "" where there are none."""

    marked: str
    mark: str = ""

    @property
    def text(self) -> str:
        """The text without marks."""
        return self.marked.replace(self.mark, "") if self.mark else self.marked

    def place(self, index: int) -> int:
        """Returns where a character of `marked` is in the text without marks."""
        return index - self.marked.count(self.mark, 0, index) if self.mark else index


@dataclass(frozen=True, slots=True)
class EncodedText:
    """Token ids, and of each token the characters [start, end) of the text without marks."""

    token_ids: list[int]
    offsets: list[tuple[int, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Private:
    """A text for the twin; `places` are where its characters are in the text without marks, `token_ids` for placeholders."""

    text: str
    places: list[int]
    token_ids: list[int]


_Encode = Callable[[Tokenizer, str], EncodedText]


def encode_marked(tokenizer: Tokenizer, text: MarkedText, *, follows_text: bool = False) -> list[int]:
    """Returns the token ids of a text, or of one that follows other text; raises TemplateError where a mark cannot help."""

    def encode(one: Tokenizer, plain: str) -> EncodedText:
        ids = one.encode_continuation(plain) if follows_text else one.encode(plain, special=AddSpecial.NO)
        return EncodedText(ids, [(0, 0)] * len(ids))

    own = _own_tokens(tokenizer, text)
    encoded = encode(tokenizer, text.text) if own is None else _encode_apart(tokenizer, text, own, encode)
    return encoded.token_ids


def encode_with_offsets(tokenizer: Tokenizer, text: MarkedText) -> EncodedText:
    """Returns the token ids of a text, and what each of them covers."""
    own = _own_tokens(tokenizer, text)
    return _with_offsets(tokenizer, text.text) if own is None else _encode_apart(tokenizer, text, own, _with_offsets)


def _own_tokens(tokenizer: Tokenizer, text: MarkedText) -> list[AddedSpan] | None:
    """Returns the added tokens of the marked text, or None where they are those of the text without marks."""
    if not text.mark or text.mark not in text.marked:
        return None
    own = [span for span in tokenizer.added_spans(text.marked) if not _is_marked(text, span)]
    plain = [AddedSpan(text.place(span.start), text.place(span.end), span.token_id) for span in own]
    return None if plain == tokenizer.added_spans(text.text) else own


def _encode_apart(tokenizer: Tokenizer, text: MarkedText, own: list[AddedSpan], encode: _Encode) -> EncodedText:
    """Encodes with the twin. Where its vocabulary spells control tokens by itself, the marks stay and keep them apart."""
    placeholder = unused_character([text.marked, text.mark])
    twin = tokenizer.literal_twin(text.mark + placeholder)
    for kept_mark in ("", text.mark):
        private = _private(text, own, placeholder, kept_mark)
        encoded = encode(twin, private.text)
        if tokenizer.control_ids.isdisjoint(encoded.token_ids):
            return _resolved(encoded, private, twin.id_of(placeholder), twin.id_of(text.mark))
    raise TemplateError(
        "a message holds the text of a special token, which this tokenizer cannot write in any other way",
        next_step="Leave the text of special tokens out of the messages.",
    )


def unused_character(texts: Iterable[str]) -> str:
    """Returns a noncharacter that occurs nowhere in the texts, neither as it is nor as JSON escapes it."""
    texts = list(texts)
    free = (one for one in _NONCHARACTERS if not any(one in text or escaped(one) in text for text in texts))
    found = next(free, None)
    if found is None:
        raise TemplateError(
            "the messages hold the text of special tokens, and too many of Unicode's noncharacters to distinguish it from tokens",
            next_step="Leave out the characters U+FDD0 to U+FDEF.",
        )
    return found


def escaped(character: str) -> str:
    """Returns a character as JSON writes it in ASCII."""
    return json.dumps(character)[1:-1]


def _with_offsets(tokenizer: Tokenizer, text: str) -> EncodedText:
    encoding = tokenizer.encoding(text, special=AddSpecial.NO)
    return EncodedText(list(encoding.ids), list(encoding.offsets))


def _is_marked(text: MarkedText, span: AddedSpan) -> bool:
    """Whether a token of one character, which nothing can be put into, has its mark behind it."""
    return span.end - span.start == 1 and text.marked[span.end : span.end + 1] == text.mark


def _private(text: MarkedText, own: list[AddedSpan], placeholder: str, kept_mark: str) -> _Private:
    places = [0, *accumulate(character != text.mark for character in text.marked)]
    characters: list[tuple[str, int]] = []
    start = 0
    for span in (*own, AddedSpan(len(text.marked), len(text.marked), -1)):
        between = zip(text.marked[start : span.start], places[start : span.start], strict=True)
        characters += [(character, place) for character, place in between if character != text.mark or kept_mark]
        if span.end > span.start:
            characters.append((placeholder, places[span.start]))
        start = span.end
    return _Private(
        text="".join(character for character, _ in characters),
        places=[*(place for _, place in characters), places[-1]],
        token_ids=[span.token_id for span in own],
    )


def _resolved(encoded: EncodedText, private: _Private, placeholder_id: int | None, mark_id: int | None) -> EncodedText:
    """Returns the tokens, with placeholders replaced by their tokens and marks removed."""
    token_ids = iter(private.token_ids)
    kept = [i for i, token_id in enumerate(encoded.token_ids) if token_id != mark_id]
    ids = [next(token_ids) if encoded.token_ids[i] == placeholder_id else encoded.token_ids[i] for i in kept]
    offsets = [(private.places[start], private.places[end]) for start, end in (encoded.offsets[i] for i in kept)]
    return EncodedText(ids, offsets)
