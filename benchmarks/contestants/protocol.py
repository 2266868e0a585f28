"""How a contestant is spoken to: one JSON line in, one JSON line out, on the standard streams of its process.

    parent  -> {"prompts": [[5, 22, ...]], "num_new": 64}
    child   -> {"prefill_s": 0.7, "steps_s": [0.05, ...], "token_ids": [[...]]}     or {"failed": "why"}

The child's first line says {"ready": {...}} once its model is loaded and warm, or why it cannot compete.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .workloads import Prompts

_MAX_REASON = 300


class ContestantError(Exception):
    """Why a contestant cannot compete, in words for the report."""


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
    """

    model: Path
    number_format: str
    threads: int
    max_tokens: int
    max_batch: int
    max_total: int


class Contestant(Protocol):
    """An engine with its model in memory."""

    @property
    def facts(self) -> dict[str, str]:
        """Versions and the settings that matter, as text."""
        ...

    def run(self, prompts: Prompts, num_new: int) -> Reading:
        """Computes prompts of equal length and exactly `num_new` greedy tokens after each, from an empty cache."""
        ...


def reason(error: BaseException) -> str:
    """Returns an error as one short line."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, ContestantError):
        return text[:_MAX_REASON]
    return f"{type(error).__name__}: {text}"[:_MAX_REASON]
