"""What a skill is: a source of exchanges to learn from, and of exam questions about what it never saw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from random import Random
from typing import Protocol


class Language(Enum):
    """The languages of the corpus."""

    ENGLISH = "en"
    CHINESE = "zh"


class Split(Enum):
    """Which phrasings and values are drawn; the two never share one."""

    TRAIN = "train"
    EXAM = "exam"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One message of the user and the answer to it."""

    user: str
    assistant: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """An exam question after `history`; `accepts` judges the whole greedy answer, `expected` shows a right one."""

    history: tuple[Exchange, ...]
    user: str
    expected: str
    accepts: Callable[[str], bool]


class Skill(Protocol):
    """Something the model can do in one exchange that needs no history."""

    @property
    def name(self) -> str:
        """The skill in a few words, as a row of the exam's table."""
        ...

    def exchange(self, rng: Random, language: Language, split: Split) -> Exchange:
        """Returns a new exchange in phrasings and values of the split."""
        ...

    def question(self, rng: Random, language: Language) -> Question:
        """Returns an exam question."""
        ...
