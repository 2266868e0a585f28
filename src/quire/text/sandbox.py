"""Jinja for templates nobody has read: an immutable sandbox with an allow-list, in which all work is paid for.

Calls, operators, filters, tests and printed values pay here; `metering` brings the rest (loops, comparisons, fixed text).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from typing import Any

from jinja2 import nodes, pass_context
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from quire.text.budget import MAX_INT_BITS, Budget, refused
from quire.text.template_names import COMPARING_TESTS, DEEP_FILTERS, METHODS, SHALLOW_FILTERS

_CALL_WORK = 16
_MAX_INDENT = 16


class PayingEnvironment(ImmutableSandboxedEnvironment):
    """One rendering's environment. Filters, methods and globals that no chat template needs do not exist here."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, budget: Budget) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            finalize=self._finalize,
            extensions=["jinja2.ext.loopcontrols", GenerationExtension],
        )
        self.budget = budget
        known: dict[str, Any] = self.filters
        known_tests: dict[str, Any] = self.tests
        self.globals = {name: self.globals[name] for name in ("dict", "namespace", "range")}
        self.tests |= {name: self._comparing(known_tests[name]) for name in COMPARING_TESTS}
        self.filters = {name: self._shallow(known[name]) for name in SHALLOW_FILTERS}
        self.filters |= {name: self._deep(name, known[name]) for name in DEEP_FILTERS}
        self.filters |= {"tojson": self._deep("tojson", self._tojson), "safe": _unchanged}
        self.filters |= {
            "paid": self._paid,
            "paid_text": self._paid_text,
            "paid_items": self._paid_items,
            "concatenated": self._concatenated,
        }

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        for kind, methods in METHODS.items():
            if isinstance(obj, kind):
                return attr in methods
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> None:  # noqa: ARG002  # a format's width makes texts of any length
        return None

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        owner = getattr(__obj, "__self__", None)
        __self.budget.spend(_CALL_WORK)
        for value in (*args, *kwargs.values(), owner if isinstance(owner, str) else ""):
            if isinstance(value, (str, list, tuple, range)):
                __self.budget.pay_for_value(value)
        if isinstance(owner, str):
            args = __self._prepaid(__obj.__name__, (owner, *args))[1:]
        return __self._settled(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str):
            raise refused("% to format text")
        if operator == "*":
            for value, times in ((left, right), (right, left)):
                if isinstance(value, (str, list, tuple)) and isinstance(times, int):
                    self.budget.spend(len(value) * max(times, 0))
        if operator == "**" and isinstance(left, int) and isinstance(right, int) and left.bit_length() * right > MAX_INT_BITS:
            raise refused("a huge number")
        return self._settled(super().call_binop(context, operator, left, right))

    def _settled(self, result: Any) -> Any:
        """Pays for a result; one that is made lazily pays while it is read."""
        if isinstance(result, Iterator):
            return self.budget.metered(result)
        self.budget.pay_for_value(result)
        return result

    def _prepaid(self, name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Pays for texts that can become much longer than their parts: (text, old, new), (separator, parts), (text, width)."""
        if name == "replace" and len(args) > 2 and all(isinstance(value, str) for value in args[:3]):
            self.budget.spend(args[0].count(args[1]) * len(args[2]))
        if name == "join" and len(args) == 2 and isinstance(args[0], str):
            parts = list(self.budget.metered(args[1]))
            self.budget.pay_for_text(parts)
            self.budget.spend(len(parts) * len(args[0]))
            return args[0], parts
        if name == "indent" and isinstance(args[0], str):
            width = args[1] if len(args) > 1 else 4
            self.budget.spend((args[0].count("\n") + 1) * (width if isinstance(width, int) else len(width)))
        return args

    def _shallow(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def paying(*args: Any, **kwargs: Any) -> Any:
            self.budget.spend(_CALL_WORK)
            return self._settled(function(*args, **kwargs))

        return paying

    def _deep(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        num_passed = 1 if hasattr(function, "jinja_pass_arg") else 0

        @wraps(function)
        def paying(*args: Any, **kwargs: Any) -> Any:
            passed, values = args[:num_passed], args[num_passed:]
            values = tuple(list(self.budget.metered(value)) if isinstance(value, Iterator) else value for value in values)
            self.budget.spend(_CALL_WORK)
            for value in (*values, *kwargs.values()):
                self.budget.pay_for_text(value)
            self._prepay_filter(name, values, kwargs)
            return self._settled(function(*passed, *values, **kwargs))

        return paying

    def _prepay_filter(self, name: str, values: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if name == "join":
            self._prepaid("join", (kwargs.get("d", values[1] if len(values) > 1 else ""), values[0]))
        elif name == "indent":
            self._prepaid("indent", (values[0], kwargs.get("width", values[1] if len(values) > 1 else 4)))
        elif name == "replace":
            self._prepaid("replace", (*values, *kwargs.values()))

    def _comparing(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def paying(*args: Any) -> Any:
            for value in args:
                self.budget.pay_for_text(value)
            return function(*args)

        return paying

    def _tojson(self, value: Any, **options: Any) -> str:
        """Hugging Face's `tojson`: plain JSON without HTML or ASCII escapes; `options` are JSONEncoder's."""
        indent = options.get("indent")
        if not isinstance(indent, (int, type(None))) or (indent or 0) > _MAX_INDENT:
            raise refused("an indentation this wide")
        encoder = json.JSONEncoder(**({"ensure_ascii": False} | options))
        parts = []
        for part in encoder.iterencode(value):
            self.budget.spend(len(part))
            parts.append(part)
        return "".join(parts)

    def _finalize(self, value: Any) -> Any:
        self.budget.pay_for_text(value)
        return value

    @pass_context
    def _paid(self, _context: Context, value: Any) -> Any:
        return self._settled(value)

    @pass_context
    def _paid_text(self, _context: Context, value: Any) -> Any:
        self.budget.pay_for_text(value)
        return value

    @pass_context
    def _paid_items(self, _context: Context, values: Any) -> Iterator[Any]:
        return self.budget.metered(values)

    @pass_context
    def _concatenated(self, _context: Context, values: list[Any]) -> str:
        self.budget.pay_for_text(values)
        return "".join(map(str, values))


class GenerationExtension(Extension):
    """Accepts `{% generation %} ... {% endgeneration %}`, which marks answers in training, and keeps its inside."""

    tags = {"generation"}  # noqa: RUF012  # Jinja's own protocol

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _unchanged(value: Any) -> Any:
    return value
