"""Digests of a prompt: enough to find where two prompts part, and nothing to read them from.

tokens     3 bytes each, of the token and its place    the first difference, exact but for one comparison in 16 million
messages   8 bytes each, of what the template got       which one changed, and whether earlier ones were left out
others     8 bytes each: system text, tools, thinking

All are made under a key that the process drew at its start and keeps to itself: a digest says nothing elsewhere.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import takewhile
from typing import Any

import numpy as np

from quire.text.template_inputs import TemplateInputs

PART_BYTES = 8
TOKEN_BYTES = 3

_POSITION_SHIFT = np.uint64(32)  # token ids stay below it
_MIX = ((np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)), (np.uint64(27), np.uint64(0x94D049BB133111EB)))
"""Shifts and multipliers of SplitMix64 (Steele et al. 2014): every bit of a number reaches every bit of its digest."""
_LAST_SHIFT = np.uint64(31)

_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode

Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatDigests:
    """Digests of what a chat was rendered from. `messages` joins one digest for each message behind the system texts."""

    system: bytes
    tools: bytes
    thinking: bytes
    messages: bytes

    @property
    def num_bytes(self) -> int:
        return len(self.system) + len(self.tools) + len(self.thinking) + len(self.messages)


class Digester:
    """Makes digests that can be compared with each other as long as it lives."""

    def __init__(self) -> None:
        self._key = os.urandom(32)
        self._numbers = np.frombuffer(os.urandom(16), np.uint64)

    def chat(self, messages: Sequence[Message], inputs: TemplateInputs) -> ChatDigests:
        """Returns the digests of a chat as the template gets it. Documents count as system text, and a text is one part."""
        plain = [_in_parts(message) for message in messages]
        system = list(takewhile(lambda message: message["role"] == "system", plain))
        return ChatDigests(
            system=self.digest([system, inputs["documents"]] if inputs.get("documents") else system),
            tools=self.digest(inputs.get("tools")),
            thinking=self.digest(inputs.get("variables")),
            messages=b"".join([self.digest(message) for message in plain[len(system) :]]),
        )

    def tokens(self, token_ids: Sequence[int]) -> bytes:
        """Returns the digests of tokens at their places, joined."""
        numbers = np.arange(len(token_ids), dtype=np.uint64)
        numbers <<= _POSITION_SHIFT
        numbers |= np.array(token_ids, np.uint64)
        numbers ^= self._numbers[0]
        for shift, factor in _MIX:
            numbers ^= numbers >> shift
            numbers *= factor
        numbers ^= numbers >> _LAST_SHIFT
        numbers += self._numbers[1]
        return bytes(numbers.view(np.uint8).reshape(-1, 8)[:, -TOKEN_BYTES:].tobytes())

    def digest(self, value: object) -> bytes:
        """Returns the digest of a value that JSON can hold; nothing has an empty one."""
        return b"" if not value else blake2b(_canonical(value).encode(), key=self._key, digest_size=PART_BYTES).digest()


def num_equal_tokens(left: bytes, right: bytes) -> int:
    """Returns how many tokens two prompts have in common at their beginning, from the digests of their tokens."""
    size = min(len(left), len(right))
    differing = np.frombuffer(left[:size], np.uint8) != np.frombuffer(right[:size], np.uint8)
    first = int(differing.argmax()) if size else 0
    return first // TOKEN_BYTES if size and differing[first] else size // TOKEN_BYTES


def num_equal_messages(left: ChatDigests, right: ChatDigests) -> int:
    """Returns how many messages two chats have in common at their beginning."""
    pairs = zip(_split(left.messages), _split(right.messages), strict=False)
    return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))


def is_cut(earlier: ChatDigests, later: ChatDigests) -> bool:
    """Returns whether the later chat goes on from the earlier one's last message, but has left out some before it."""
    before, now = _split(earlier.messages), _split(later.messages)
    first = num_equal_messages(earlier, later)
    return bool(before) and before[-1] in now[first : len(before) - 1]


def _in_parts(message: Message) -> Message:
    content = message.get("content")
    return {**message, "content": [{"type": "text", "text": content}]} if isinstance(content, str) else message


def _split(joined: bytes) -> list[bytes]:
    return [joined[start : start + PART_BYTES] for start in range(0, len(joined), PART_BYTES)]
