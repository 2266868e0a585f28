"""Finds the parts of a text that a tokenizer would encode as a control token, and beginnings and ends of such parts."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

from quire.text.tokenizer import Tokenizer


class TokenTexts:
    """The texts of some control tokens. Those of white space alone are left out: every chat is full of them."""

    def __init__(self, texts: Iterable[str], tokenizer: Tokenizer) -> None:
        known = {text for text in texts if text and not text.isspace()}
        self._by_length: dict[int, set[str]] = defaultdict(set)
        for text in known:
            self._by_length[len(text)].add(text)
        self._starts = {text[:length] for text in known for length in range(1, len(text))}
        self._ends = {text[length:] for text in known for length in range(1, len(text))}
        self._folded = [text.casefold() for text in known]
        self._max_piece = max(self._by_length, default=1) - 1
        self._first = _any_of({text[0] for text in known})
        self._last = _any_of({text[-1] for text in known})
        self._tokenizer = tokenizer
        self._is_loose = tokenizer.finds_in_normalized_text

    def marked(self, text: str, mark: str) -> str:
        """Returns the text with `mark` inside every token's text, and where it ends or begins like a part of one."""
        cuts = sorted(self.cuts(text))
        return mark.join(text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True))

    def has_inside(self, text: str) -> bool:
        """Whether a token's text holds this one, in any case and without spaces around it: the rest may be a template's."""
        word = text.strip().casefold()
        return bool(word) and any(word in token for token in self._folded)

    def cuts(self, text: str) -> set[int]:
        """Returns the places where a mark keeps the text from becoming a token, alone or with text before or behind it."""
        cuts = {start + 1 for start in self._occurrences(text)}
        pieces = range(1, min(self._max_piece, len(text)) + 1)
        if self._last.search(text[: len(pieces)]) and any(_is_piece(text[:length], self._ends) for length in pieces):
            cuts.add(0)
        if self._first.search(text[-len(pieces) :]) and any(_is_piece(text[-length:], self._starts) for length in pieces):
            cuts.add(len(text))
        if self._is_loose:
            special = [span for span in self._tokenizer.added_spans(text) if span.token_id in self._tokenizer.special_ids]
            cuts.update(*(range(span.start + 1, span.end) for span in special))
        return cuts

    def _occurrences(self, text: str) -> Iterable[int]:
        for match in self._first.finditer(text):
            start = match.start()
            if any(text[start : start + length] in same for length, same in self._by_length.items()):
                yield start


def _any_of(characters: Iterable[str]) -> re.Pattern[str]:
    """Returns a pattern of one of these characters."""
    escaped = "".join(sorted(map(re.escape, characters)))
    return re.compile(f"[{escaped}]" if escaped else "(?!)")


def _is_piece(text: str, pieces: set[str]) -> bool:
    """Whether a text is part of a token; a word may be, but templates compare words with theirs, and write them on purpose."""
    return text in pieces and not text.isalnum() and not text.isspace()
