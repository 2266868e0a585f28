"""Chat templates: messages in, the prompt's text out, whatever the template tries."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import Template, TemplateSyntaxError, UndefinedError
from jinja2.exceptions import SecurityError

from quire.errors import TemplateError
from quire.text.budget import Budget
from quire.text.metering import compile_template
from quire.text.sandbox import PayingEnvironment
from quire.units import KIB, format_bytes

MAX_TEMPLATE_BYTES = 256 * KIB
MAX_OUTPUT_CHARS = 16_000_000
MAX_INPUT_DEPTH = 64
_BASE_WORK = 2_000_000
_WORK_PER_CHARACTER = 64
_TIME_FORMAT = re.compile(r"(?:[^%]|%-?[A-Za-z%]){0,64}")


class _RaisedByTemplateError(Exception):
    """The template called raise_exception."""


class ChatTemplate:
    """A compiled chat template. Rendering is a pure function of its arguments, bounded in work and output.

    `special_tokens` maps names such as `bos_token` to their text (`Tokenizer.named_tokens`). Templates see Hugging Face's
    variables and functions: messages, tools, add_generation_prompt, raise_exception, strftime_now, tojson, break and continue.
    """

    __slots__ = ("_code", "_special_tokens")

    def __init__(self, source: str, *, special_tokens: Mapping[str, str]) -> None:
        num_bytes = len(source.encode(errors="replace"))
        if num_bytes > MAX_TEMPLATE_BYTES:
            raise TemplateError(
                "the chat template is too large",
                given=format_bytes(num_bytes),
                limit=format_bytes(MAX_TEMPLATE_BYTES),
                next_step="Use the model's own template.",
            )
        self._special_tokens = dict(special_tokens)
        try:
            self._code = compile_template(source)
        except Exception as error:
            raise _template_error(error) from error

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        now: datetime | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """Returns the prompt's text.

        `messages`, `tools` and `variables` (such as enable_thinking) hold JSON values. `now` is the time strftime_now formats;
        without it the function is undefined and templates use their fixed date. Raises TemplateError if the template raises,
        fails, works too long for its input or writes too much.
        """
        values = _plain({"messages": list(messages), "tools": tools and list(tools), **(variables or {})}, MAX_INPUT_DEPTH)
        environment = PayingEnvironment(Budget(_BASE_WORK + _WORK_PER_CHARACTER * len(repr(values))))
        if now is not None:
            environment.globals["strftime_now"] = _clock(now)
        environment.globals["raise_exception"] = _raise_exception
        names = self._special_tokens | values | {"add_generation_prompt": add_generation_prompt}
        try:
            return _written(Template.from_code(environment, self._code, dict(environment.globals)), names)
        except TemplateError:
            raise
        except Exception as error:
            raise _template_error(error) from error


def _written(template: Template, names: Mapping[str, Any]) -> str:
    pieces: list[str] = []
    num_characters = 0
    for piece in template.root_render_func(template.new_context(dict(names))):
        num_characters += len(piece)
        if num_characters > MAX_OUTPUT_CHARS:
            raise TemplateError(
                "the chat template writes too much", limit=f"{MAX_OUTPUT_CHARS} characters", next_step="Send shorter messages."
            )
        pieces.append(piece)
    return "".join(pieces)


def _plain(value: Any, depth: int) -> Any:
    """Returns a copy made of plain dicts, lists and scalars only, so that a template meets no object with behaviour."""
    if depth == 0:
        raise TemplateError("messages or tools are nested too deeply", limit=MAX_INPUT_DEPTH, next_step="Flatten them.")
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item, depth - 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, depth - 1) for item in value]
    raise TemplateError(
        "messages and tools must hold JSON values", given=type(value).__name__, next_step="Convert them to dicts, lists and text."
    )


def _clock(now: datetime) -> Any:
    def strftime_now(form: str) -> str:
        if not _TIME_FORMAT.fullmatch(form):
            raise TemplateError("the chat template uses an odd time format", next_step="Use plain codes such as %d %b %Y.")
        return now.strftime(form)

    return strftime_now


def _raise_exception(message: object = "") -> NoReturn:
    raise _RaisedByTemplateError(str(message)[:500])


def _template_error(error: Exception) -> TemplateError:
    """Returns the error to show: what the template said itself, or what kind of failure it met, never the messages."""
    if isinstance(error, TemplateError):
        return error
    if isinstance(error, _RaisedByTemplateError):
        said = str(error).rstrip(". \n")
        return TemplateError(f"the chat template refuses these messages: {said}", next_step="Change the messages accordingly.")
    if isinstance(error, TemplateSyntaxError):
        return TemplateError(
            "the chat template has a syntax error",
            given=f"line {error.lineno}: {error.message}"[:200],
            next_step="Mend the template.",
        )
    kind, detail = "fails", type(error).__name__
    if isinstance(error, (SecurityError, UndefinedError)):
        kind = "does something forbidden" if isinstance(error, SecurityError) else "uses something undefined"
        detail = str(error)[:200]
    return TemplateError(f"the chat template {kind}", given=detail, next_step="Check the messages' fields, or mend the template.")
