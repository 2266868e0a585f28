"""How many bytes of a text one token may stand for: what tells that a text is too long before it is encoded.

A byte-level tokenizer changes no byte and leaves none out, so a text of n bytes has at least n / max_bytes_per_token tokens.
Others promise no such thing: they join unknown characters, drop white space, or normalize a text into a shorter one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import tokenizers

from quire.text.token_bytes import BYTE_CHARACTERS, TokenBytes

_KEEPING = ("ByteLevel", "Digits", "Split")
"""Pre-tokenizers that only cut a text; of those that split, all but the ones that remove what they found."""


def max_bytes_per_token(backend: tokenizers.Tokenizer, rule: TokenBytes | None) -> int | None:
    """Returns the most bytes of a text that one token stands for; None where there is no such number."""
    if rule is None or not rule.is_byte_level or backend.normalizer is not None or not _keeps_all(backend):
        return None
    vocabulary = backend.get_vocab(with_added_tokens=False)
    if not vocabulary.keys() >= BYTE_CHARACTERS:
        return None
    added = backend.get_added_tokens_decoder().values()
    if any(token.lstrip or token.rstrip for token in added):
        return None
    return max(*map(len, vocabulary), *(len(token.content.encode()) for token in added), 1)


def _keeps_all(backend: tokenizers.Tokenizer) -> bool:
    model = backend.model
    if not isinstance(model, tokenizers.models.BPE) or model.continuing_subword_prefix or model.end_of_word_suffix:
        return False
    if backend.pre_tokenizer is None:
        return False
    steps = list(_steps(json.loads(backend.pre_tokenizer.__getstate__())))
    is_known = all(step["type"] in _KEEPING and step.get("behavior") != "Removed" for step in steps)
    return is_known and any(step["type"] == "ByteLevel" for step in steps)


def _steps(description: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if description["type"] == "Sequence":
        for step in description["pretokenizers"]:
            yield from _steps(step)
    else:
        yield description
