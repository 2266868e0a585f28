"""Jinja for untrusted templates: an immutable sandbox with an allow-list, in which all work is paid for.

Calls, operators, filters, tests and printed values pay here; `metering` brings the rest (loops, comparisons, fixed text).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import partial
from types import BuiltinMethodType, MethodType
from typing import Any

from jinja2 import Undefined, pass_context
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from quire.text.budget import MAX_INT_BITS, Budget, refused
from quire.text.formatting import formatter_for, pay_for_percent
from quire.text.paying_filters import CALL_WORK, paying_filters, paying_tests, refuse
from quire.text.prepaid import pay_for_method
from quire.text.template_globals import GenerationExtension, TemplateDict, TemplateNamespace
from quire.text.template_names import ALLOWED_GLOBALS, METHODS, REFUSED_GLOBALS, refusal_of


class PayingEnvironment(ImmutableSandboxedEnvironment):
    """The environment of one rendering at a time. What `template_names` refuses says so when it is used."""

    intercepted_binops = frozenset({"+", "-", "*", "**", "%"})

    def __init__(self, budget: Budget) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            finalize=self._finalize,
            extensions=["jinja2.ext.loopcontrols", GenerationExtension],
        )
        self.budget = budget
        self.globals = {name: self.globals[name] for name in ALLOWED_GLOBALS}
        self.globals |= {"dict": TemplateDict(), "namespace": TemplateNamespace}
        self.globals |= {name: partial(refuse, f"the function {name}", reason) for name, reason in REFUSED_GLOBALS.items()}
        self.tests = paying_tests(budget)
        self.filters = paying_filters(self, budget, self._settled)
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

    def unsafe_undefined(self, obj: Any, attribute: str) -> Undefined:
        message = f"{type(obj).__name__}.{attribute} is refused because {refusal_of(obj, attribute)}"
        return self.undefined(message, name=attribute, obj=obj, exc=SecurityError)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Returns the paying form of `str.format` and `str.format_map`, None for anything else."""
        if not isinstance(value, (MethodType, BuiltinMethodType)) or value.__name__ not in {"format", "format_map"}:
            return None
        text = value.__self__
        if not isinstance(text, str):
            return None
        formatter = formatter_for(text, self, self.budget)

        def formatted(*args: Any, **kwargs: Any) -> str:
            self.budget.pay_for_text(text)
            return type(text)(formatter.vformat(text, args, kwargs))

        def formatted_from(values: Any) -> str:
            self.budget.pay_for_text(text)
            return type(text)(formatter.vformat(text, (), values))

        return formatted if value.__name__ == "format" else formatted_from

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        owner = getattr(__obj, "__self__", None)
        __self.budget.spend(CALL_WORK + len(args) + len(kwargs))
        for value in (*args, *kwargs.values(), owner if isinstance(owner, str) else ""):
            if isinstance(value, (str, list, tuple, range)):
                __self.budget.pay_for_value(value)
        if isinstance(owner, (list, tuple, LoopContext)):
            __self.budget.pay_for_text((args, owner if isinstance(owner, (list, tuple)) else ()))
        if isinstance(owner, str):
            args = tuple(list(__self.budget.metered(value)) if isinstance(value, Iterator) else value for value in args)
            pay_for_method(__self.budget, __obj.__name__, (owner, *args, *kwargs.values()))
        return __self._settled(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str):
            pay_for_percent(self.budget, left, right)
        if operator == "*":
            for value, times in ((left, right), (right, left)):
                if isinstance(value, (str, list, tuple)) and isinstance(times, int):
                    self.budget.spend(len(value) * max(times, 0))
        if operator == "-":
            self.budget.spend(sum(len(value) for value in (left, right) if isinstance(value, Collection)))
        if operator == "**" and isinstance(left, int) and isinstance(right, int) and left.bit_length() * right > MAX_INT_BITS:
            raise refused("a huge number")
        return self._settled(super().call_binop(context, operator, left, right))

    def _settled(self, result: Any) -> Any:
        """Pays for a result; one that is made lazily pays while it is read."""
        if isinstance(result, Iterator):
            return self.budget.metered(result)
        self.budget.pay_for_value(result)
        return result

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
