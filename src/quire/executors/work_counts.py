"""Counting what steps compute: multiply-adds, where the work is done, while somebody asked for it.

    projections   every product of a layer: queries, keys, values, output, feed-forward
    scores        Q K^T: a query head and a key that its row sees
    mixing        probabilities times V: the same pairs
    head          rows whose logits were wanted

Padding is not counted: not that of packed panels, and not keys that a mask hides.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkCounts:
    """Multiply-adds of some steps."""

    projections: int = 0
    scores: int = 0
    mixing: int = 0
    head: int = 0

    @property
    def attention(self) -> int:
        return self.scores + self.mixing

    @property
    def total(self) -> int:
        return self.projections + self.attention + self.head

    def __add__(self, other: WorkCounts) -> WorkCounts:
        return WorkCounts(**{each.name: getattr(self, each.name) + getattr(other, each.name) for each in fields(self)})


@runtime_checkable
class CountsWork(Protocol):
    """An executor that can count. Counting changes no bit, and costs nothing until it starts."""

    def start_counting(self) -> None:
        """Counts from 0, in every step until `stop_counting`."""

    def stop_counting(self) -> WorkCounts:
        """Returns what was counted since `start_counting`: nothing if that was not called."""
