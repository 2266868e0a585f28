"""Searches for several words at once in a stream of symbols: the characters of a `str`, or the numbers of a `bytes`."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, TypeVar

Symbol = TypeVar("Symbol", str, int)


class Automaton(Generic[Symbol]):
    """The automaton of Aho and Corasick ("Efficient string matching", 1975): its cost per symbol is independent of the words.

    A state is an integer, `START` before the first symbol: the longest end of what was read that begins a word.
    Immutable once built, so requests share it.
    """

    START = 0

    __slots__ = ("_depth", "_fail", "_found", "_next", "_num_open")

    def __init__(self, words: Iterable[Sequence[Symbol]]) -> None:
        self._next: list[dict[Symbol, int]] = [{}]
        self._depth = [0]
        self._found: list[Sequence[Symbol] | None] = [None]
        for word in words:
            self._insert(word)
        self._fail = [0] * len(self._next)
        self._num_open = [0] * len(self._next)
        self._link()

    @property
    def is_empty(self) -> bool:
        """Whether there are no words."""
        return len(self._next) == 1

    def follow(self, state: int, symbol: Symbol) -> int:
        """Returns the state after one more symbol."""
        while state and symbol not in self._next[state]:
            state = self._fail[state]
        return self._next[state].get(symbol, 0)

    def found(self, state: int) -> Sequence[Symbol] | None:
        """Returns the word that ends here, the longest of several; None where none does."""
        return self._found[state]

    def num_open(self, state: int) -> int:
        """Returns how many of the last symbols may still become a word, or a longer one."""
        return self._num_open[state]

    def begun(self, state: int) -> Iterator[int]:
        """Returns the states of all ends of what was read that begin a word: this one, then shorter ones, without `START`."""
        while state:
            yield state
            state = self._fail[state]

    def path(self, word: Sequence[Symbol]) -> Iterator[int]:
        """Returns the state after each symbol of one of the words."""
        state = 0
        for symbol in word:
            state = self._next[state][symbol]
            yield state

    def _insert(self, word: Sequence[Symbol]) -> None:
        state = 0
        for depth, symbol in enumerate(word, start=1):
            child = self._next[state].get(symbol)
            if child is None:
                child = len(self._next)
                self._next[state][symbol] = child
                self._next.append({})
                self._depth.append(depth)
                self._found.append(None)
            state = child
        self._found[state] = word

    def _link(self) -> None:
        """Computes for every state, breadth first, its longest proper suffix that is also a state, and what follows from it."""
        queue = deque(self._next[0].values())
        while queue:
            state = queue.popleft()
            fail = self._fail[state]
            self._found[state] = self._found[state] or self._found[fail]
            self._num_open[state] = self._depth[state] if self._next[state] else self._num_open[fail]
            for symbol, child in self._next[state].items():
                self._fail[child] = self.follow(fail, symbol)
                queue.append(child)
