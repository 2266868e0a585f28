"""One rendering of a chat template: its variables, its clock, its budget of work and output."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import Template

from quire.errors import PromptTooLongError, TemplateError
from quire.text.metering import CompiledTemplate
from quire.text.plain_values import num_characters
from quire.text.template_errors import RaisedByTemplateError, template_error

MAX_PROMPT_CHARS = 16_000_000
MAX_OUTPUT_CHARS = MAX_PROMPT_CHARS
BASE_WORK = 2_000_000
PROBE_WORK = 500_000
_WORK_PER_CHARACTER = 64
_TIME_FORMAT = re.compile(r"(?:[^%]|%[-_0^#]?[EO]?[A-Za-z%]){0,256}")


class Rendering:
    """Writes messages with one template and fixed variables, in as much work as their size allows."""

    __slots__ = ("_compiled", "_names", "_now", "_num_characters", "_work")

    def __init__(
        self,
        compiled: CompiledTemplate,
        names: Mapping[str, Any],
        *,
        now: datetime | None = None,
        messages: Sequence[Mapping[str, Any]] = (),
        base_work: int = BASE_WORK,
    ) -> None:
        """Raises PromptTooLongError where `messages` and `names` hold more text than any prompt may."""
        self._num_characters = num_characters(messages) + num_characters(names)
        if self._num_characters > MAX_PROMPT_CHARS:
            raise PromptTooLongError(
                "the prompt is too long: its messages, tools and documents hold more text than a prompt may",
                given=f"{self._num_characters} characters",
                limit=f"{MAX_PROMPT_CHARS} characters",
                next_step="Shorten the messages.",
            )
        self._compiled, self._names, self._now = compiled, names, now
        self._work = base_work + _WORK_PER_CHARACTER * (len(repr(messages)) + len(repr(names)))

    def write(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """Returns the text; raises TemplateError, with the template's line, where the template fails."""
        functions: dict[str, Any] = {"raise_exception": _raise_exception}
        if self._now is not None:
            functions["strftime_now"] = _clock(self._now)
        with self._compiled.bound(self._work) as template:
            try:
                return self._written(template, functions | {**self._names, "messages": messages})
            except Exception as error:
                raise template_error(error, template, self._compiled.lines) from error

    def _written(self, template: Template, names: dict[str, Any]) -> str:
        pieces: list[str] = []
        num_written = 0
        for piece in template.root_render_func(template.new_context(names)):
            num_written += len(piece)
            if num_written > MAX_OUTPUT_CHARS:
                raise TemplateError(
                    "the chat template writes more than a prompt may hold",
                    given=f"messages of {self._num_characters} characters",
                    limit=f"{MAX_OUTPUT_CHARS} characters",
                    next_step="Send shorter messages.",
                )
            pieces.append(piece)
        return "".join(pieces)


def _clock(now: datetime) -> Callable[[str], str]:
    local = now.replace(tzinfo=None)  # transformers' clock names no time zone

    def strftime_now(form: str) -> str:
        if not _TIME_FORMAT.fullmatch(form):
            raise TemplateError("the chat template uses an odd time format", next_step="Use plain codes such as %d %b %Y.")
        return local.strftime(form)

    return strftime_now


def _raise_exception(message: object = "") -> NoReturn:
    raise RaisedByTemplateError(str(message)[:500])
