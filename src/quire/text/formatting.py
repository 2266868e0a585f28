"""`str.format` and `%` for chat templates: each field is paid for before it is written, whatever its width.

Attributes inside a field (`"{0.name}"`) go through the sandbox, and a value that is not plain is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from jinja2 import Undefined
from jinja2.exceptions import SecurityError
from jinja2.sandbox import SandboxedEnvironment, SandboxedFormatter
from markupsafe import EscapeFormatter, Markup

from quire.text.budget import Budget, refused

_NUMBER = re.compile(r"\d+")
_PERCENT_FIELD = re.compile(
    r"%(?:\((?P<key>[^()]*)\))?[#0 +-]*(?P<width>\*|[0-9]*)(?:\.(?P<precision>\*|[0-9]*))?[hlL]?(?P<kind>[diouxXeEfFgGcrsa%])"
)
_MAX_DIGITS = 9


class PayingFormatter(SandboxedFormatter):
    """`str.format` in the sandbox, paid for field by field."""

    def __init__(self, environment: SandboxedEnvironment, budget: Budget, **options: Any) -> None:
        super().__init__(environment, **options)
        self._budget = budget

    def convert_field(self, value: Any, conversion: Any) -> Any:
        self._pay(value)
        return super().convert_field(value, conversion)

    def format_field(self, value: Any, format_spec: str) -> Any:
        self._pay(value)
        self._budget.spend(sum(map(_width, _NUMBER.findall(format_spec))))
        return super().format_field(value, format_spec)

    def _pay(self, value: Any) -> None:
        if isinstance(value, Undefined) and value._undefined_exception is SecurityError:
            value._fail_with_undefined_error()
        self._budget.pay_for_text(value)


class _PayingEscapeFormatter(PayingFormatter, EscapeFormatter):
    """The same for text that is marked as safe, which escapes what is put into it."""


def formatter_for(text: str, environment: SandboxedEnvironment, budget: Budget) -> PayingFormatter:
    """Returns the formatter of a text's `format` method."""
    if isinstance(text, Markup):
        return _PayingEscapeFormatter(environment, budget, escape=text.escape)
    return PayingFormatter(environment, budget)


def pay_for_percent(budget: Budget, text: str, values: Any) -> None:
    """Pays for `text % values`, before it is written: all values, all widths, and one unit per character of `text`."""
    budget.pay_for_text(text)
    mapping = values if isinstance(values, Mapping) else None
    if mapping is None:
        budget.pay_for_text(values)
    for field in _percent_fields(text):
        if mapping is not None:
            budget.pay_for_text(mapping if field["key"] is None else mapping.get(field["key"]))
        for number in (field["width"], field["precision"]):
            budget.spend(_largest(values) if number == "*" else _width(number or "0"))


def _percent_fields(text: str) -> Iterator[re.Match[str]]:
    start = text.find("%")
    while start >= 0:
        field = _PERCENT_FIELD.match(text, start)
        if field is None:
            raise refused("a % format that is not understood")
        yield field
        start = text.find("%", field.end())


def _largest(values: Any) -> int:
    """Returns the largest width that could be taken from the values of a format."""
    return max((abs(value) for value in values if isinstance(value, int)), default=0) if isinstance(values, tuple) else 0


def _width(digits: str) -> int:
    return int(digits[: _MAX_DIGITS + 1])
