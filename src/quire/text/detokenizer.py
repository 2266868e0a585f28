"""Decodes a stream of tokens: a character is released when its last byte has arrived, never before."""

from __future__ import annotations

from codecs import utf_8_decode
from collections.abc import Sequence
from itertools import islice, takewhile

from quire.text.tokenizer import Tokenizer

_REPLACEMENT = "\ufffd"
_MAX_TOKENS_OF_A_CHARACTER = 4
"""UTF-8 characters have at most four bytes, so no more tokens than that share one."""


class IncrementalDetokenizer:
    """Turns a stream of token ids into pieces of text that, joined, are the text of all of them.

    Joined pieces equal `tokenizer.decode` of all tokens, with one exception: `tokenizers` replaces every byte of a run of
    SentencePiece byte tokens when any of them is invalid, and here only the invalid ones become U+FFFD. `after` holds
    the tokens that precede the first pushed one (the prompt): their text is not repeated, but a word then keeps
    the space that separates it from them. A push costs the token's own length.
    """

    __slots__ = ("_num_spaces", "_pending", "_released", "_skipped", "_tokenizer", "_unread", "_whole_texts")

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool, after: Sequence[int] = ()) -> None:
        rule = tokenizer.token_bytes
        self._tokenizer = tokenizer
        self._skipped = tokenizer.special_ids if skip_special else frozenset()
        self._whole_texts = tokenizer.whole_texts  # without special tokens
        self._unread = b""  # of a character whose last byte has not come
        self._released: list[int] = []
        self._pending: list[int] = []
        visible = list(islice((i for i in reversed(after) if i not in self._skipped), _MAX_TOKENS_OF_A_CHARACTER + 1))
        is_start = len(visible) <= _MAX_TOKENS_OF_A_CHARACTER
        self._num_spaces = rule.num_leading_spaces if rule is not None and is_start else 0
        for token_id in visible[_MAX_TOKENS_OF_A_CHARACTER - 1 :: -1]:
            self.push(token_id)

    def push(self, token_id: int) -> str:
        """Returns the text that this token completes, empty while it ends inside a character."""
        whole = self._whole_texts.get(token_id)
        if whole is not None and not self._unread and not self._num_spaces:
            return whole
        if token_id in self._skipped:
            return ""
        text = self._take(token_id)
        return self._without_leading_spaces(text) if self._num_spaces else text

    def push_all(self, token_id: int) -> tuple[str, str]:
        """Returns two parts of what this token adds: hidden text (a special token, a dropped space), then what `push` returns."""
        if token_id in self._skipped:
            return self.text_behind(token_id), ""
        text = self._take(token_id)
        shown = self._without_leading_spaces(text) if self._num_spaces else text
        return text[: len(text) - len(shown)], shown

    def text_behind(self, token_id: int) -> str:
        """Returns the text that a token would add after all pushed ones, which do not change."""
        content = self._tokenizer.bytes_of(token_id)
        return self._text_in_context([token_id]) if content is None else content.decode(errors="replace")

    def finish(self) -> str:
        """Returns U+FFFD for a character that remained incomplete, or nothing."""
        if self._pending:
            text = self._text_in_context(self._pending)
            self._released, self._pending = self._pending, []
            return text
        text, _ = utf_8_decode(self._unread, "replace", True)
        self._unread = b""
        return self._without_leading_spaces(text)

    def _without_leading_spaces(self, text: str) -> str:
        num_dropped = len(list(takewhile(lambda character: character == " ", text[: self._num_spaces])))
        self._num_spaces = self._num_spaces - num_dropped if num_dropped == len(text) else 0
        return text[num_dropped:]

    def _take(self, token_id: int) -> str:
        content = self._tokenizer.bytes_of(token_id)
        if content is None:
            return self._take_in_context(token_id)
        is_start = not self._unread
        content = self._unread + content
        text, num_read = utf_8_decode(content, "replace", False)
        self._unread = content[num_read:]
        if is_start and not self._unread and token_id not in self._tokenizer.special_ids:
            self._whole_texts[token_id] = text
        return text

    def _take_in_context(self, token_id: int) -> str:
        """For decoders that look at neighbors: the text of the last released tokens and this one, beyond that of the former."""
        self._pending.append(token_id)
        text = self._text_in_context(self._pending)
        if text.endswith(_REPLACEMENT) and len(self._pending) < _MAX_TOKENS_OF_A_CHARACTER:
            return ""
        self._released, self._pending = self._pending, []
        return text

    def _text_in_context(self, token_ids: list[int]) -> str:
        before = self._tokenizer.decode(self._released, skip_special=False)
        return self._tokenizer.decode([*self._released, *token_ids], skip_special=False)[len(before) :]
