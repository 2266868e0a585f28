"""In which proportions the corpus practices what: first everything, then what is still weak, at last everything again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType


class Length(Enum):
    """How long a conversation is."""

    SINGLE = "single"
    SHORT = "short"
    MEDIUM = "medium"
    LONG = "long"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """Shares of conversations by length, and of exchanges by skill, alone and within chats."""

    name: str
    lengths: Mapping[Length, float]
    alone: Mapping[str, int]
    in_chats: Mapping[str, int]


def _lengths(single: float, short: float, medium: float, long: float) -> Mapping[Length, float]:
    return MappingProxyType(dict(zip(Length, (single, short, medium, long), strict=True)))


def _skills(**shares: int) -> Mapping[str, int]:
    return MappingProxyType(shares)


GENERAL = Mix(
    name="general",
    lengths=_lengths(0.80, 0.08, 0.096, 0.0235),
    alone=_skills(capitals=25, arithmetic=17, symbols=17, sorting=8, records=10, unknown=10, smalltalk=5),
    in_chats=_skills(capitals=20, arithmetic=24, symbols=26, sorting=8, records=10, unknown=10, smalltalk=5),
)
DRILL = Mix(
    name="drill",
    lengths=_lengths(0.97, 0.015, 0.01, 0.005),
    alone=_skills(capitals=6, arithmetic=8, strings=6, counting=26, sorting=8, quoting=30, records=28, unknown=8, smalltalk=8),
    in_chats=_skills(
        capitals=20, arithmetic=20, strings=8, counting=14, sorting=8, quoting=8, records=10, unknown=10, smalltalk=6
    ),
)
SETTLE = Mix(
    name="settle",
    lengths=_lengths(0.965, 0.015, 0.012, 0.008),
    alone=_skills(capitals=8, arithmetic=20, strings=12, counting=30, sorting=22, quoting=8, records=16, unknown=8, smalltalk=16),
    in_chats=DRILL.in_chats,
)
MIXES: Mapping[str, Mix] = MappingProxyType({mix.name: mix for mix in (GENERAL, DRILL, SETTLE)})
