"""What a text's methods cost where their result can be much longer than the text and the arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from quire.text.budget import Budget

_Pay = Callable[..., None]


def pay_for_method(budget: Budget, name: str, args: tuple[Any, ...]) -> None:
    """Pays before `args[0].name(*args[1:])` runs; arguments of a wrong type cost nothing, because the method refuses them."""
    if name in _PAYMENTS:
        _PAYMENTS[name](budget, *args)


def _replace(budget: Budget, text: Any, old: Any = None, new: Any = None, *_count: Any) -> None:
    text, old, new = str(text), str(old), str(new)
    budget.spend(text.count(old) * len(new))


def _join(budget: Budget, separator: str, parts: Any = ()) -> None:
    budget.pay_for_text(parts)
    budget.spend(len(parts) * len(separator))


def _indent(budget: Budget, text: Any, width: Any = 4) -> None:
    budget.spend((str(text).count("\n") + 1) * (width if isinstance(width, int) else len(str(width))))


def _width(budget: Budget, _text: str, width: Any = 0, *_fill: Any) -> None:
    budget.spend(max(width, 0) if isinstance(width, int) else 0)


def _expandtabs(budget: Budget, text: str, tabsize: Any = 8) -> None:
    budget.spend(text.count("\t") * max(tabsize, 0) if isinstance(tabsize, int) else 0)


def _translate(budget: Budget, text: str, table: Any = None) -> None:
    if isinstance(table, Mapping):
        budget.spend(len(text) * max((len(value) for value in table.values() if isinstance(value, str)), default=1))


_PAYMENTS: Mapping[str, _Pay] = MappingProxyType(
    {
        "replace": _replace,
        "join": _join,
        "indent": _indent,
        "center": _width,
        "ljust": _width,
        "rjust": _width,
        "zfill": _width,
        "expandtabs": _expandtabs,
        "translate": _translate,
    }
)
