"""The vocabulary in the metadata of a GGUF file: every token with its type, and the ids of the special ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from quire.models.families.sizes import MAX_VOCAB
from quire.models.gguf.fields import MAX_LISTED, Fields

PREFIX = "tokenizer.ggml."
TOKENS, TYPES, SCORES, MERGES = (f"{PREFIX}{name}" for name in ("tokens", "token_type", "scores", "merges"))
MAX_TOKEN_BYTES = 4096
"""Published vocabularies have tokens of at most a few hundred."""
MAX_MERGES_PER_TOKEN = 16
"""Converters may write every way in which a token can come about: two or three per token in published files."""
_NAMED: Mapping[str, str] = MappingProxyType(
    {
        "bos_token": "tokenizer.ggml.bos_token_id",
        "eos_token": "tokenizer.ggml.eos_token_id",
        "unk_token": "tokenizer.ggml.unknown_token_id",
        "sep_token": "tokenizer.ggml.seperator_token_id",  # llama.cpp's spelling
        "pad_token": "tokenizer.ggml.padding_token_id",
        "cls_token": "tokenizer.ggml.cls_token_id",
        "mask_token": "tokenizer.ggml.mask_token_id",
    }
)
_HARMLESS_BY_REASON: Mapping[str, str] = MappingProxyType(
    {
        "of the other tokenizer: llama.cpp reads merges and pre for byte-level BPE only, scores for SentencePiece only": """
        merges pre scores""",
        "tokens that only encoders add, and how many kinds of segments they have": """
        add_sep_token add_cls_token add_mask_token add_padding_token add_unknown_token token_type_count""",
        "names of tokens for programs that fill in code: a text is encoded without them": """
        prefix_token_id suffix_token_id middle_token_id fim_pre_token_id fim_suf_token_id fim_mid_token_id fim_pad_token_id
        fim_rep_token_id fim_sep_token_id""",
    }
)
HARMLESS = frozenset(f"{PREFIX}{name}" for names in _HARMLESS_BY_REASON.values() for name in names.split())
_ENDS = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")
_MORE_ENDS = "tokenizer.ggml.eos_token_ids"  # as Ollama writes several
_TURN_ENDS = frozenset(
    {"<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<|endoftext|>", "<|end_of_text|>", "<end_of_turn>"}
    | {"<|eot|>", "<EOT>", "_<EOT>", "<\uff5cend\u2581of\u2581sentence\uff5c>", "<|endofturn|>", "<end_of_utterance>"}
)
"""Tokens that end an answer in every vocabulary that has them; a file names only one of its own."""


class TokenType(IntEnum):
    """What a token is, as the file numbers it."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


_WHOLE = frozenset({TokenType.CONTROL, TokenType.USER_DEFINED})
"""Types of tokens that are found whole in a text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufVocabulary:
    """Tokens and their types by id; `ids` are the places of the tokens. `named` maps bos_token and its like to their ids,
    `ends` holds ids that end an answer.
    """

    tokens: Sequence[str]
    types: npt.NDArray[np.int64]
    ids: dict[str, int]
    named: Mapping[str, int]
    ends: frozenset[int]

    def of_type(self, token_type: TokenType) -> list[str]:
        """Returns the tokens of one type, in the order of their ids."""
        return [self.tokens[index] for index in np.flatnonzero(self.types == token_type).tolist()]

    def respelled(self, spell: Callable[[str], str]) -> GgufVocabulary:
        """Returns the vocabulary with every token as `spell` writes it; of two tokens that become one, `ids` has the later."""
        tokens = [spell(token) for token in self.tokens]
        return replace(self, tokens=tokens, ids=_places(tokens))


def read_vocabulary(fields: Fields) -> GgufVocabulary:
    """Returns the vocabulary; raises UnsupportedConfigError with the field that is missing or damaged."""
    tokens = fields.texts(TOKENS, MAX_VOCAB, MAX_TOKEN_BYTES)
    if not tokens:
        fields.refuse(TOKENS, "must hold tokens", f"1 to {MAX_VOCAB}")
    ids = _places(tokens)
    if len(ids) < len(tokens):
        fields.refuse(TOKENS, "holds the same token twice")
    types = _types(fields, len(tokens))
    named = {name: _token_id(fields, field, len(tokens)) for name, field in _NAMED.items()}
    if named["unk_token"] is None and (types == TokenType.UNKNOWN).any():
        named["unk_token"] = int((types == TokenType.UNKNOWN).argmax())
    ends = {_token_id(fields, field, len(tokens)) for field in _ENDS}
    ends |= set(_token_ids(fields, _MORE_ENDS, len(tokens)))
    ends |= {ids[token] for token in _TURN_ENDS & ids.keys() if types[ids[token]] in _WHOLE}
    return GgufVocabulary(
        tokens=tokens,
        types=types,
        ids=ids,
        named={name: token_id for name, token_id in named.items() if token_id is not None},
        ends=frozenset(token_id for token_id in ends if token_id is not None),
    )


def read_merges(fields: Fields, num_tokens: int) -> list[tuple[str, str]]:
    """Returns the pairs that byte-level BPE joins, the first ones before the others."""
    merges = []
    for text in fields.texts(MERGES, MAX_MERGES_PER_TOKEN * num_tokens, 2 * MAX_TOKEN_BYTES + 1):
        left, _, right = text.partition(" ")
        if not left or not right or " " in right:
            fields.refuse(MERGES, f"must hold two tokens with a space between them, not {ascii(text)[:40]}")
        merges.append((left, right))
    return merges


def read_scores(fields: Fields, num_tokens: int) -> list[float]:
    """Returns a score per token."""
    scores: list[float] = fields.numbers(SCORES, num_tokens)
    if len(scores) != num_tokens or any(map(math.isnan, scores)):
        fields.refuse(SCORES, "must hold a number per token", f"{num_tokens} of them")
    return scores


def _places(tokens: Sequence[str]) -> dict[str, int]:
    return dict(zip(tokens, range(len(tokens)), strict=True))


def _types(fields: Fields, num_tokens: int) -> npt.NDArray[np.int64]:
    """Returns the type of each token; without the field all are normal."""
    found = fields.numbers(TYPES, num_tokens) or [TokenType.NORMAL] * num_tokens
    if len(found) != num_tokens or not set(found) <= set(TokenType):
        fields.refuse(TYPES, f"must hold a type from 1 to {max(TokenType)} per token", f"{num_tokens} of them")
    return np.array(found, np.int64)


def _token_id(fields: Fields, name: str, num_tokens: int) -> int | None:
    """Returns an id, or None where the field is absent; early converters wrote 2 ** 32 - 1 for none."""
    if not fields.has(name) or fields.is_equal(name, 2**32 - 1, -1):
        return None
    return fields.index(name, num_tokens)


def _token_ids(fields: Fields, name: str, num_tokens: int) -> list[int]:
    found = fields.numbers(name, MAX_LISTED)
    if not all(isinstance(token_id, int) and 0 <= token_id < num_tokens for token_id in found):
        fields.refuse(name, "must hold ids of tokens", f"0 to {num_tokens - 1}")
    return found
