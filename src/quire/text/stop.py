"""Stop strings over text that arrives in pieces: the answer does not depend on where the pieces are cut."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StopResult:
    """`emit` is text that may be shown; `matched` is the stop string that ended the text, None while it goes on."""

    emit: str
    matched: str | None


class StopMatcher:
    """Finds the stop string that is complete first; of several that end with the same character, the longest.

    Text that could still become a stop string is held back, and no other. The stops form one Aho-Corasick automaton
    ("Efficient string matching", 1975), so a character costs the same however many stops there are. `keeps_stop`
    leaves the matched stop in the text.
    """

    __slots__ = ("_depth", "_fail", "_found", "_held", "_keeps_stop", "_matched", "_next", "_node")

    def __init__(self, stops: tuple[str, ...], *, keeps_stop: bool) -> None:
        self._keeps_stop = keeps_stop
        self._held = ""
        self._matched: str | None = None
        self._node = 0
        self._next: list[dict[str, int]] = [{}]
        self._depth = [0]
        self._found: list[str | None] = [None]
        for stop in stops:
            self._insert(stop)
        self._fail = [0] * len(self._next)
        self._link()

    def push(self, text: str) -> StopResult:
        """Takes the next piece and returns what may be shown of all so far; after a match nothing more is shown."""
        if self._matched is not None or len(self._next) == 1:
            return StopResult(emit="" if self._matched is not None else text, matched=self._matched)
        buffer = self._held + text
        for stop_idx, character in enumerate(text, start=len(self._held) + 1):
            self._node = self._follow(self._node, character)
            self._matched = self._found[self._node]
            if self._matched is not None:
                self._held = ""
                return StopResult(emit=buffer[: self._shown(stop_idx, self._matched)], matched=self._matched)
        num_shown = len(buffer) - self._depth[self._node]
        self._held = buffer[num_shown:]
        return StopResult(emit=buffer[:num_shown], matched=None)

    def finish(self) -> str:
        """Returns the text held back for a stop string that never came."""
        held, self._held, self._node = self._held, "", 0
        return held

    def _shown(self, stop_idx: int, stop: str) -> int:
        return stop_idx if self._keeps_stop else stop_idx - len(stop)

    def _insert(self, stop: str) -> None:
        node = 0
        for depth, character in enumerate(stop, start=1):
            child = self._next[node].get(character)
            if child is None:
                child = len(self._next)
                self._next[node][character] = child
                self._next.append({})
                self._depth.append(depth)
                self._found.append(None)
            node = child
        self._found[node] = stop

    def _link(self) -> None:
        """Gives every node the longest proper suffix that is also a node, breadth first, and the stop that ends there."""
        queue = deque(self._next[0].values())
        while queue:
            node = queue.popleft()
            for character, child in self._next[node].items():
                self._fail[child] = self._follow(self._fail[node], character)
                self._found[child] = self._found[child] or self._found[self._fail[child]]
                queue.append(child)

    def _follow(self, node: int, character: str) -> int:
        while node and character not in self._next[node]:
            node = self._fail[node]
        return self._next[node].get(character, 0)
