"""Error messages of chat templates: what failed and where in the template, never the contents of the messages."""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import Template, TemplateSyntaxError, UndefinedError
from jinja2.exceptions import FilterArgumentError, SecurityError

from quire.errors import TemplateError

_CODE_FILE = "<template>"
_MAX_SHOWN_LINE = 120
_MAX_SHOWN = 200
_WITHOUT_VALUES = (TypeError, ZeroDivisionError, IndexError, OverflowError, FilterArgumentError)
"""Errors whose messages name types and functions only, not the values that they met."""


class RaisedByTemplateError(Exception):
    """The template called raise_exception."""


def template_error(error: Exception, template: Template | None, lines: Sequence[str]) -> TemplateError:
    """Returns the error to show: what the template said itself, or what failed in which line."""
    if isinstance(error, RaisedByTemplateError):
        said = str(error).rstrip(". \n")
        return TemplateError(f"the chat template refuses these messages: {said}", next_step="Change the messages accordingly.")
    if isinstance(error, TemplateSyntaxError):
        where = _shown(error.lineno, lines)
        given = f"line {error.lineno}: {error.message}"[:_MAX_SHOWN] + where
        return TemplateError("the chat template has a syntax error", given=given, next_step="Mend the template.")
    line = None if template is None else _line_of(error, template)
    place = "" if line is None else f"line {line}: "
    source = "" if line is None else _shown(line, lines)
    if isinstance(error, TemplateError):
        located = None if line is None else f"line {line}{source}"
        return TemplateError(
            error.problem, given=located if error.given is None else error.given, limit=error.limit, next_step=error.next_step
        )
    problem, detail = _described(error)
    return TemplateError(
        f"the chat template {problem}",
        given=f"{place}{detail}"[:_MAX_SHOWN] + source,
        next_step="Check the messages' fields, or mend the template.",
    )


def _described(error: Exception) -> tuple[str, str]:
    if isinstance(error, SecurityError):
        return "does something forbidden", str(error)
    if isinstance(error, UndefinedError):
        return "uses something undefined", str(error)
    if isinstance(error, RecursionError):
        return "fails", "a macro or a loop that calls itself without end"
    if isinstance(error, _WITHOUT_VALUES):
        return "fails", str(error)
    if isinstance(error, KeyError):
        return "fails", "a name that is not there"
    return "fails", f"a value that does not fit ({type(error).__name__})"


def _line_of(error: Exception, template: Template) -> int | None:
    """Returns the line of the template in which an error was raised, None where it was not raised by its code."""
    found = None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == _CODE_FILE:
            found = template.get_corresponding_lineno(trace.tb_lineno)
        trace = trace.tb_next
    return found


def _shown(line: int, lines: Sequence[str]) -> str:
    """Returns a line of the template to show after its number, nothing where it is long."""
    text = lines[line - 1].strip() if 0 < line <= len(lines) else ""
    return f", in {text}" if 0 < len(text) <= _MAX_SHOWN_LINE else ""
