r"""The bytes that each token adds to a text, where a tokenizer's decoder works token by token.

byte level      "\u0120n" is b" n": every character of a token is one byte in GPT-2's alphabet
SentencePiece   "\u2581n" is b" n", "<0xE4>" for one byte; the text's first space may be dropped
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_Piece = Callable[[str], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBytes:
    """How tokens become bytes. `num_leading_spaces` is how many spaces the decoder drops at the start of a text."""

    piece: _Piece
    num_leading_spaces: int = 0
    is_byte_level: bool = False


def token_bytes_of(decoder: object) -> TokenBytes | None:
    """Returns the rule of a `tokenizers` decoder, or None if a token's bytes depend on its neighbors."""
    if decoder is None:
        return None
    steps = _steps(json.loads(decoder.__getstate__()))  # type: ignore[arg-type]  # its JSON, not a pickle
    if [step["type"] for step in steps] == ["ByteLevel"]:
        return TokenBytes(piece=_byte_level_piece, is_byte_level=True)
    return _sentencepiece(steps)


def _steps(description: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    if description["type"] != "Sequence":
        return [description]
    return [inner for step in description["decoders"] for inner in _steps(step)]


def _sentencepiece(steps: list[Mapping[str, Any]]) -> TokenBytes | None:
    """Reads `Replace* ByteFallback? Fuse? Strip?`, each step at most as this order allows; anything else is None."""
    remaining = list(steps)
    replacements: list[tuple[str, str]] = []
    while remaining and remaining[0]["type"] == "Replace" and "String" in remaining[0]["pattern"]:
        step = remaining.pop(0)
        replacements.append((step["pattern"]["String"], step["content"]))
    has_bytes = _take(remaining, "ByteFallback") is not None
    is_fused = _take(remaining, "Fuse") is not None
    strip = _take(remaining, "Strip") if is_fused else None
    if remaining or not steps or (strip is not None and (strip["content"] != " " or strip["stop"])):
        return None
    piece = _replaced_piece(replacements)
    return TokenBytes(piece=_byte_or(piece) if has_bytes else piece, num_leading_spaces=strip["start"] if strip else 0)


def _take(steps: list[Mapping[str, Any]], kind: str) -> Mapping[str, Any] | None:
    return steps.pop(0) if steps and steps[0]["type"] == kind else None


def _replaced_piece(replacements: list[tuple[str, str]]) -> _Piece:
    def piece(token: str) -> bytes:
        for old, new in replacements:
            token = token.replace(old, new)
        return token.encode()

    return piece


def _byte_or(text_piece: _Piece) -> _Piece:
    def piece(token: str) -> bytes:
        byte = _BYTE_TOKEN.fullmatch(token)
        return text_piece(token) if byte is None else bytes([int(byte[1], 16)])

    return piece


def _alphabet() -> Mapping[str, int]:
    """GPT-2's alphabet: printable Latin-1 bytes are themselves, the others are numbered from U+0100."""
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


_ALPHABET = MappingProxyType({ord(character): byte for character, byte in _alphabet().items()})


BYTE_CHARACTERS = frozenset(map(chr, _ALPHABET))
"""The character of each byte."""


def _byte_level_piece(token: str) -> bytes:
    try:
        return codecs.charmap_encode(token, "strict", _ALPHABET)[0]
    except UnicodeEncodeError:  # an added token, written in plain text
        return token.encode()
