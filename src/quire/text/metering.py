"""Compiling a chat template so that what Jinja turns into bare Python is paid for as well.

The source is parsed, and every loop, comparison, concatenation, slice and piece of fixed text is routed through a filter of
`PayingEnvironment` that pays. These filters take the context, which also keeps Jinja from folding them while compiling.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import CodeType

from jinja2 import Template, meta, nodes
from jinja2.visitor import NodeTransformer

from quire.text.budget import Budget, refused
from quire.text.sandbox import PayingEnvironment

_COMPILE_WORK = 2_000_000
_MAX_IDLE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledTemplate:
    """A template's code, its source by lines for error messages, the variables that it reads, and the texts that it holds.

    Binding the code to an environment takes longer than a short chat, so that a few bound ones are kept between renderings.
    """

    code: CodeType
    lines: tuple[str, ...]
    names_read: frozenset[str]
    literals: frozenset[str]
    _idle: deque[tuple[Budget, Template]] = field(default_factory=lambda: deque(maxlen=_MAX_IDLE), repr=False, compare=False)

    @contextmanager
    def bound(self, work: int) -> Iterator[Template]:
        """Lends the code bound to an environment that no other rendering uses meanwhile, with so much work to spend.

        For any thread. One that a rendering failed with is not lent again.
        """
        try:
            budget, template = self._idle.pop()
            budget.renew(work)
        except IndexError:
            budget = Budget(work)
            environment = PayingEnvironment(budget)
            template = Template.from_code(environment, self.code, environment.globals)
        yield template
        self._idle.append((budget, template))


class _Metering(NodeTransformer):
    """Routes what Jinja compiles to bare Python through paying filters."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802  # named after Jinja's nodes
        self.generic_visit(node)
        node.iter = _filtered("paid_items", node.iter)
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: N802  # named after Jinja's nodes
        self.generic_visit(node)
        node.expr = _filtered("paid_text", node.expr)
        for operand in node.ops:
            operand.expr = _filtered("paid_text", operand.expr)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802  # named after Jinja's nodes
        self.generic_visit(node)
        return _filtered("concatenated", nodes.List(node.nodes, lineno=node.lineno))

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802  # named after Jinja's nodes
        self.generic_visit(node)
        return _filtered("paid", node) if isinstance(node.arg, nodes.Slice) else node

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:  # noqa: N802  # named after Jinja's nodes
        return _filtered("paid", nodes.Const(node.data, lineno=node.lineno))

    def visit_ScopedEvalContextModifier(self, node: nodes.Node) -> nodes.Node:  # noqa: N802, ARG002  # named after Jinja's nodes
        raise refused("{% autoescape %}, which writes HTML")


def _filtered(name: str, node: nodes.Node) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def compile_template(source: str) -> CompiledTemplate:
    """Returns code to bind to a PayingEnvironment; raises Jinja's own errors."""
    environment = PayingEnvironment(Budget(_COMPILE_WORK))
    parsed = environment.parse(source)
    literals = [node.data for node in parsed.find_all(nodes.TemplateData)]
    literals += [node.value for node in parsed.find_all(nodes.Const) if isinstance(node.value, str)]
    tree = _Metering().visit(parsed)
    tree.set_environment(environment)
    return CompiledTemplate(
        code=environment.compile(tree),
        lines=tuple(re.split(r"\r\n|\r|\n", source)),
        names_read=frozenset(meta.find_undeclared_variables(tree)),
        literals=frozenset(literals),
    )
