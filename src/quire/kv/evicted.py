"""What was evicted and could have been reused: by the block before it and its tokens, bounded, the newest kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from quire.kv.siblings import Siblings, num_common

MAX_EVICTIONS = 16_384


class Eviction(NamedTuple):
    """The step in which content was given up, and the request whose allocation pushed it out, with the root of its domain."""

    step: int
    request_id: str
    root: bytes


class Evictions:
    """The last `max_kept` evictions. Content that is cached again stays remembered: then it is found before this is asked."""

    __slots__ = ("_by_content", "_children", "_max_kept")

    def __init__(self, max_kept: int = MAX_EVICTIONS) -> None:
        self._by_content: dict[tuple[bytes, tuple[int, ...]], Eviction] = {}
        self._children: dict[bytes, Siblings] = {}
        self._max_kept = max_kept

    def __len__(self) -> int:
        return len(self._by_content)

    def remember(self, parent: bytes, token_ids: tuple[int, ...], eviction: Eviction) -> None:
        """Notes that the tokens after `parent` are not in memory any more, forgetting the oldest eviction when full."""
        content = parent, token_ids
        if self._by_content.pop(content, None) is None:
            self._children.setdefault(parent, Siblings()).add(token_ids)
        self._by_content[content] = eviction
        if len(self._by_content) > self._max_kept:
            self._forget_oldest()

    def most_similar(self, parent: bytes, token_ids: Sequence[int]) -> tuple[int, Eviction] | None:
        """Returns how many of these tokens the most similar evicted continuation shares, and how it went; None without one."""
        children = self._children.get(parent)
        found = None if children is None else children.most_similar(token_ids)
        return None if found is None else (num_common(found, token_ids), self._by_content[parent, found])

    def _forget_oldest(self) -> None:
        parent, token_ids = next(iter(self._by_content))
        del self._by_content[parent, token_ids]
        siblings = self._children[parent]
        siblings.remove(token_ids)
        if not siblings:
            del self._children[parent]
