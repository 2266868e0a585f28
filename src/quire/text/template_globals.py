"""The objects that a chat template finds besides its variables, restricted as transformers restricts them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.utils import Namespace


class TemplateDict:
    """`dict` for templates: it makes dictionaries, and is not the type itself, whose methods would change any dictionary."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, keys: Iterable[Any], value: Any = None) -> dict[Any, Any]:
        return dict.fromkeys(keys, value)


class TemplateNamespace(Namespace):
    """`namespace` for templates: no name in it begins with an underscore, so that it can pass for no other object."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # `namespace(self=...)` must work, as in Jinja
        self, values = args[0], dict(*args[1:], **kwargs)
        for name in values:
            _require_plain(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _require_plain(name)
        super().__setitem__(name, value)


class GenerationExtension(Extension):
    """Accepts `{% generation %} ... {% endgeneration %}`, which marks answers in training, and keeps its inside.

    As in transformers, what is set inside is not seen outside.
    """

    tags = {"generation"}  # noqa: RUF012  # Jinja's own protocol

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def _require_plain(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace holds no name that begins with an underscore, such as {name[:40]!r}")
