"""The cached continuations of one prefix, and which of them shares most with another."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

from quire.errors import defect

Tokens = tuple[int, ...]


class Siblings:
    """The tokens of blocks, full or partial, that follow the same block, in sorted order.

    The block that shares most with another would stand next to it, so two comparisons are enough, however many there are.
    """

    __slots__ = ("_sorted",)

    def __init__(self) -> None:
        self._sorted: list[Tokens] = []

    def __len__(self) -> int:
        return len(self._sorted)

    def __contains__(self, token_ids: Tokens) -> bool:
        place = bisect_left(self._sorted, token_ids)
        return self._sorted[place : place + 1] == [token_ids]

    def add(self, token_ids: Tokens) -> None:
        """Notes a block that was committed."""
        insort(self._sorted, token_ids)

    def remove(self, token_ids: Tokens) -> None:
        """Forgets a block that is evicted."""
        place = bisect_left(self._sorted, token_ids)
        if self._sorted[place : place + 1] != [token_ids]:
            raise defect("a block is unknown to the one before it")
        del self._sorted[place]

    def beginning_with(self, token_ids: Tokens) -> Tokens | None:
        """Returns a block that begins with all of these tokens, the one with nothing behind them if there is one."""
        place = bisect_left(self._sorted, token_ids)
        nearest = self._sorted[place] if place < len(self._sorted) else ()
        return nearest if nearest and nearest[: len(token_ids)] == token_ids else None

    def most_similar(self, token_ids: Sequence[int]) -> Tokens | None:
        """Returns the block that begins with most of these tokens; of equal ones, one that goes on behind them."""
        place = bisect_left(self._sorted, tuple(token_ids))
        neighbors = self._sorted[max(0, place - 1) : place + 1]
        return max(neighbors, key=lambda each: (shared := num_common(each, token_ids), len(each) > shared), default=None)


def num_common(left: Sequence[int], right: Sequence[int]) -> int:
    """Returns how many tokens two sequences have in common at their beginning."""
    for position, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return position
    return min(len(left), len(right))
