"""The work that a chat template may do, counted instead of timed, so that a template fails on every machine or on none.

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
    """Remaining units of work: about one per character, list item or loop step."""

    __slots__ = ("_left", "_limit")

    def __init__(self, limit: int) -> None:
        self.renew(limit)

    def renew(self, limit: int) -> None:
        """Begins again, with `limit` units."""
        self._limit = limit
        self._left = limit

    def spend(self, amount: int) -> None:
        """Pays `amount` units; raises TemplateError if fewer are left."""
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
        pending = [value]
        while pending:
            item = pending.pop()
            self.pay_for_value(item)
            pending.extend(_parts_of(item))

    def pay_for_nested_text(self, value: object) -> None:
        """Pays for everything inside a value once for each level that it is nested in, as pretty-printing writes it."""
        pending = [(value, 1)]
        while pending:
            item, depth = pending.pop()
            self.spend(depth * (1 + (len(item) if isinstance(item, (str, Collection)) else 0)))
            pending.extend((part, depth + 1) for part in _parts_of(item))


def _parts_of(value: object) -> Iterable[object]:
    """Returns what a text of a value would be made of; raises TemplateError for what no text can hold."""
    if isinstance(value, (str, int, float)):
        return ()
    if isinstance(value, Mapping):
        return chain(value.keys(), value.values())
    if isinstance(value, (list, tuple, set, frozenset, KeysView, ValuesView, ItemsView)):
        return value
    if isinstance(value, (range, Undefined, type(None))):
        return ()
    raise refused(f"a value of type {type(value).__name__} as text")


def refused(what: str) -> TemplateError:
    """Returns the error for something that templates here cannot do."""
    return TemplateError(f"the chat template uses {what}", next_step="Change the template, or use the model's own template.")
