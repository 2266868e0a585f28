"""How a contestant is spoken to: one JSON line in, one JSON line out, on the standard streams of its process.

    parent  -> {"prompts": [[5, 22, ...]], "num_new": 64, "num_shared": 0, "num_known": 0}
    child   -> {"prefill_s": 0.7, "steps_s": [0.05, ...], "token_ids": [[...]]}     or {"failed": "why"}

The child's first line says {"ready": {...}} once its model is loaded and warm, or why it cannot compete.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

Prompts = list[list[int]]

_MAX_REASON = 300


class ContestantError(Exception):
    """Why a contestant cannot compete, in words for the report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Prompts of equal length, and exactly `num_new` greedy tokens after each, from an empty cache.

    The first `num_shared` tokens of all prompts are the same, and the cache may compute them once, within the time measured.
    The first `num_known` tokens of the one prompt are computed just before, and their time is not measured.
    """

    prompts: Prompts
    num_new: int
    num_shared: int = 0
    num_known: int = 0

    @property
    def reuses(self) -> bool:
        """Whether the cache is the point."""
        return self.num_shared + self.num_known > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Seconds until every request has its first token, seconds of each step after that, and the tokens of each request."""

    prefill_s: float
    steps_s: list[float]
    token_ids: list[list[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What a contestant opens: a Hugging Face directory, its number format, and the room it needs.

    `max_tokens` of one request, `max_batch` requests together, and `max_total` tokens of all requests of a workload.
    `reuses` says whether any task will reuse what is cached.
    """

    model: Path
    engine: str
    number_format: str
    threads: int
    max_tokens: int
    max_batch: int
    max_total: int
    reuses: bool


class Contestant(Protocol):
    """An engine with its model in memory."""

    @property
    def facts(self) -> dict[str, str]:
        """Versions and the settings that matter, as text."""
        ...

    def run(self, task: Task) -> Reading:
        """Measures one task; raises ContestantError for one that this engine does not do."""
        ...


def reason(error: BaseException) -> str:
    """Returns an error as one short line."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, ContestantError):
        return text[:_MAX_REASON]
    return f"{type(error).__name__}: {text}"[:_MAX_REASON]
