"""Stop strings over text that arrives in pieces: the answer does not depend on where the pieces are cut."""

from __future__ import annotations

from dataclasses import dataclass

from quire.text.automaton import Automaton


@dataclass(frozen=True, slots=True, kw_only=True)
class StopResult:
    """`emit` is text that may be shown; `matched` is the stop string that ended the text, None while it goes on."""

    emit: str
    matched: str | None


class StopMatcher:
    """Finds the stop string that is complete first; of several that end with the same character, the longest.

    Stops are looked for in all text, also in what is hidden from readers (special tokens, a dropped leading space); only
    shown text is emitted. Text that could still become a stop is held back, and no other. `keeps_stop` leaves the
    shown part of the matched stop in the text.
    """

    __slots__ = ("_automaton", "_held", "_keeps_stop", "_matched", "_state")

    def __init__(self, stops: Automaton[str], *, keeps_stop: bool) -> None:
        self._automaton = stops
        self._keeps_stop = keeps_stop
        self._held: list[str] = []  # what is shown of each character held back: the character, or nothing
        self._matched: str | None = None
        self._state = stops.START

    def push(self, text: str, *, hidden: str = "", heeds: bool = True) -> StopResult:
        """Takes the next piece, `hidden` before `text`, and returns what may be shown of all so far; nothing after a match.

        A stop that is complete within a piece that is not heeded has no effect; one that began there has.
        """
        if self._matched is not None or self._automaton.is_empty:
            return StopResult(emit="" if self._matched is not None else text, matched=self._matched)
        num_held = len(self._held)
        self._held += [""] * len(hidden)
        self._held += text
        for end, character in enumerate(hidden + text, start=num_held + 1):
            self._state = self._automaton.follow(self._state, character)
            stop = self._automaton.found(self._state)
            if stop is not None and heeds:
                self._matched = str(stop)
                return StopResult(emit=self._shown(end, self._matched), matched=self._matched)
        num_released = len(self._held) - self._automaton.num_open(self._state)
        released, self._held = self._held[:num_released], self._held[num_released:]
        return StopResult(emit="".join(released), matched=None)

    def finish(self) -> str:
        """Returns the text held back for a stop string that never came."""
        held, self._held, self._state = self._held, [], self._automaton.START
        return "".join(held)

    def _shown(self, end: int, stop: str) -> str:
        shown, self._held = self._held[: end if self._keeps_stop else end - len(stop)], []
        return "".join(shown)
