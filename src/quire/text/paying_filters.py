"""The filters and tests of chat templates, each wrapped so that it pays for its work before or while it does it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, partial
from inspect import Signature, signature
from io import StringIO
from pprint import PrettyPrinter
from types import MappingProxyType
from typing import Any, NoReturn

from jinja2.filters import FILTERS, make_attrgetter
from jinja2.sandbox import SandboxedEnvironment
from jinja2.tests import TESTS

from quire.text.budget import Budget, refused
from quire.text.formatting import pay_for_percent
from quire.text.prepaid import pay_for_method
from quire.text.template_names import COMPARING_TESTS, DEEP_FILTERS, REFUSED_FILTERS, SHALLOW_FILTERS

CALL_WORK = 16
_MAX_INDENT = 16
_MAX_PRECISION = 400

_PREPAID = frozenset(("center", "format", "indent", "join", "replace", "round", "striptags", "wordwrap"))
"""Filters whose result, or whose work, can be much more than their arguments."""

Settle = Callable[[Any], Any]
"""Pays for a result and returns it."""


def paying_filters(environment: SandboxedEnvironment, budget: Budget, settle: Settle) -> dict[str, Any]:
    """Returns the filters of one environment by name."""
    own = {"tojson": _tojson(budget), "sum": partial(_sum, environment), "pprint": partial(_pprint, budget)}
    known: Mapping[str, Any] = FILTERS | own
    filters = {name: _shallow(name, known[name], budget, settle) for name in SHALLOW_FILTERS}
    filters |= {name: _deep(name, known[name], budget, settle) for name in DEEP_FILTERS}
    return filters | {name: partial(refuse, f"the filter {name}", reason) for name, reason in REFUSED_FILTERS.items()}


def paying_tests(budget: Budget) -> dict[str, Any]:
    """Returns the tests of one environment by name."""
    known: Mapping[str, Any] = TESTS
    return {name: _comparing(test, budget) if name in COMPARING_TESTS else test for name, test in known.items()}


def refuse(what: str, reason: str, *_args: Any, **_kwargs: Any) -> NoReturn:
    """Raises the TemplateError for something that exists in Jinja and not here."""
    raise refused(f"{what}, which is refused because {reason}")


def _shallow(name: str, function: Callable[..., Any], budget: Budget, settle: Settle) -> Callable[..., Any]:
    num_passed = _num_passed(function)

    def paying(*args: Any, **kwargs: Any) -> Any:
        budget.spend(CALL_WORK + len(args))
        if name in _PAYMENTS:
            _PAYMENTS[name](budget, *args[num_passed:], **kwargs)
        return settle(function(*args, **kwargs))

    return _passed_as(function, paying)


def _deep(name: str, function: Callable[..., Any], budget: Budget, settle: Settle) -> Callable[..., Any]:
    num_passed = _num_passed(function)
    parameters = _signature_of(function) if name in _PREPAID else None

    def paying(*args: Any, **kwargs: Any) -> Any:
        passed, values = args[:num_passed], args[num_passed:]
        values = tuple(list(budget.metered(value)) if isinstance(value, Iterator) else value for value in values)
        budget.spend(CALL_WORK)
        for value in (*values, *kwargs.values()):
            budget.pay_for_text(value)
        if parameters is not None:
            _prepay(name, budget, _arguments(parameters, (*passed, *values), kwargs))
        return settle(function(*passed, *values, **kwargs))

    return _passed_as(function, paying)


_signature_of = cache(signature)


def _arguments(parameters: Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    bound = parameters.bind(*args, **kwargs)
    bound.apply_defaults()
    return bound.arguments


def _prepay(name: str, budget: Budget, given: Mapping[str, Any]) -> None:
    """Pays for the filters of `_PREPAID`."""
    if name == "format":
        pay_for_percent(budget, str(given["value"]), given["kwargs"] or given["args"])
    elif name in {"join", "center"}:
        owner, other = ("d", "value") if name == "join" else ("value", "width")
        pay_for_method(budget, name, (str(given[owner]), given[other]))
    elif name in {"replace", "indent"}:
        names = ("s", "old", "new") if name == "replace" else ("s", "width")
        pay_for_method(budget, name, tuple(given[each] for each in names))
    elif name == "round" and (not isinstance(given["precision"], int) or abs(given["precision"]) > _MAX_PRECISION):
        raise refused("a precision this large")
    elif name == "striptags":
        budget.spend(len(str(given["value"])) * (1 + str(given["value"]).count("<!--")))
    elif name == "wordwrap":
        longest = max(map(len, str(given["s"]).split()), default=0)
        budget.spend(longest * (1 + longest // max(int(given["width"]), 1)))


def _pay_for_batch(budget: Budget, _values: Any, linecount: Any, fill_with: Any = None) -> None:
    if fill_with is not None and isinstance(linecount, int):
        budget.spend(max(linecount, 0))


def _pay_for_slice(budget: Budget, _values: Any, slices: Any, fill_with: Any = None) -> None:  # noqa: ARG001  # as in Jinja
    if isinstance(slices, int):
        budget.spend(max(slices, 0))


_PAYMENTS: Mapping[str, Callable[..., None]] = MappingProxyType({"batch": _pay_for_batch, "slice": _pay_for_slice})
"""What filters that do not look inside their items pay before they run."""


def _comparing(function: Callable[..., Any], budget: Budget) -> Callable[..., Any]:
    def paying(*args: Any) -> Any:
        for value in args:
            budget.pay_for_text(value)
        return function(*args)

    return paying


def _num_passed(function: Callable[..., Any]) -> int:
    """Returns how many arguments Jinja puts before those of the template: a context or an environment, or nothing."""
    return 1 if hasattr(function, "jinja_pass_arg") else 0


def _passed_as(function: Callable[..., Any], paying: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `paying`, which Jinja passes the same context or environment as `function`."""
    passed = getattr(function, "jinja_pass_arg", None)
    if passed is not None:
        paying.jinja_pass_arg = passed  # type: ignore[attr-defined]
    return paying


def _sum(environment: SandboxedEnvironment, iterable: Iterable[Any], attribute: str | int | None = None, start: Any = 0) -> Any:
    """Jinja's `sum`, with each addition paid for as the operator + is."""
    if isinstance(start, str):
        raise TypeError("sum() can't sum strings [use join instead]")
    items = iterable if attribute is None else map(make_attrgetter(environment, attribute), iterable)
    total = start
    for item in items:
        total = environment.call_binop(None, "+", total, item)  # type: ignore[arg-type]  # the context is not used
    return total


class _PayingWriter(StringIO):
    """A stream that pays for what is written to it."""

    def __init__(self, budget: Budget) -> None:
        super().__init__()
        self._budget = budget

    def write(self, text: str) -> int:
        self._budget.spend(len(text))
        return super().write(text)


def _pprint(budget: Budget, value: Any) -> str:
    budget.pay_for_nested_text(value)
    writer = _PayingWriter(budget)
    PrettyPrinter(stream=writer).pprint(value)
    return writer.getvalue().removesuffix("\n")


def _tojson(budget: Budget) -> Callable[..., str]:
    """Returns Hugging Face's `tojson`: plain JSON without HTML escapes, and without ASCII escapes unless they are asked for."""

    def tojson(x: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False) -> str:
        if (indent if isinstance(indent, int) else len(indent or "")) > _MAX_INDENT:
            raise refused("an indentation this wide")
        separators = None if separators is None else tuple(separators)
        encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
        parts = []
        for part in encoder.iterencode(x):
            budget.spend(len(part))
            parts.append(part)
        return "".join(parts)

    return tojson
