"""The work a chat template may do, counted and not timed, so that a template fails on every machine or on none.

Everything that can repeat or grow pays: a loop step, a call, a filter, a piece of text. Payment comes before the work wherever
a result can be larger than what it is made from, so neither time nor memory exceeds a multiple of the budget.
"""

from __future__ import annotations

from collections.abc import Collection, ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from itertools import chain
from typing import Any

from jinja2 import Undefined

from quire.errors import TemplateError

MAX_INT_BITS = 4096


class Budget:
    """Units of work that are left: about one a character, list item or loop step."""

    __slots__ = ("_left", "_limit")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._left = limit

    def spend(self, amount: int) -> None:
        """Pays `amount` units; raises TemplateError when they are not there."""
        self._left -= amount
        if self._left < 0:
            raise TemplateError(
                "the chat template exceeds its work budget: an endless loop, or a text that keeps growing",
                limit=f"{self._limit} units of work, each about a character or a step of a loop, for messages of this size",
                next_step="Shorten the loops of the template, or use the model's own template.",
            )

    def metered(self, values: Iterable[Any]) -> Iterator[Any]:
        """Yields `values`, paying one unit each."""
        for value in values:
            self.spend(1)
            yield value

    def pay_for_value(self, value: object) -> None:
        """Pays for having made one value: characters of a text, items of a collection (not what is inside them)."""
        if isinstance(value, int) and value.bit_length() > MAX_INT_BITS:
            raise refused("a huge number")
        self.spend(1 + (len(value) if isinstance(value, (str, Collection)) else 0))

    def pay_for_text(self, value: object) -> None:
        """Pays for everything inside a value, as often as it would be written; shared parts count again each time."""
        if isinstance(value, str):
            return self.spend(1 + len(value))
        for item, _ in self._parts(value):
            self.pay_for_value(item)
        return None

    def pay_for_nested_text(self, value: object) -> None:
        """Pays for everything inside a value once for each level that it is nested in, as pretty-printing writes it."""
        for item, depth in self._parts(value):
            self.pay_for_value(item)
            self.spend(depth * (len(item) if isinstance(item, str) else 1))

    def _parts(self, value: object) -> Iterator[tuple[object, int]]:
        """Yields a value and everything inside it with its depth; what a text cannot hold is refused."""
        pending = [(value, 0)]
        while pending:
            item, depth = pending.pop()
            yield item, depth
            if isinstance(item, Mapping):
                pending.extend((each, depth + 1) for each in chain(item.keys(), item.values()))
            elif isinstance(item, (list, tuple, set, frozenset, KeysView, ValuesView, ItemsView)):
                pending.extend((each, depth + 1) for each in item)
            elif not isinstance(item, (str, int, float, range, Undefined, type(None))):
                raise refused(f"a value of type {type(item).__name__} as text")


def refused(what: str) -> TemplateError:
    """Returns the error for something that templates here cannot do."""
    return TemplateError(f"the chat template uses {what}", next_step="Change the template, or use the model's own template.")
