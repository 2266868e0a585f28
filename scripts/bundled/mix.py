"""In which proportions the corpus practises what: first everything, then above all what takes long to learn."""

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


_SKILLS = ("capitals", "arithmetic", "symbols", "sorting", "records", "unknown", "smalltalk")


def _lengths(single: float, short: float, medium: float, long: float) -> Mapping[Length, float]:
    return MappingProxyType(dict(zip(Length, (single, short, medium, long), strict=True)))


def _skills(*shares: int) -> Mapping[str, int]:
    return MappingProxyType(dict(zip(_SKILLS, shares, strict=True)))


GENERAL = Mix(
    name="general",
    lengths=_lengths(0.80, 0.08, 0.096, 0.0235),
    alone=_skills(25, 17, 17, 8, 10, 10, 5),
    in_chats=_skills(20, 24, 26, 8, 10, 10, 5),
)
DRILL = Mix(
    name="drill",
    lengths=_lengths(0.94, 0.014, 0.03, 0.016),
    alone=_skills(14, 30, 45, 36, 40, 8, 6),
    in_chats=_skills(12, 24, 40, 20, 24, 8, 4),
)
MIXES: Mapping[str, Mix] = MappingProxyType({mix.name: mix for mix in (GENERAL, DRILL)})
