"""Explains an unknown option: one of other engines by our name for it, or why there is none; one that is nearly ours by ours."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import takewhile

import click

from quire.counterparts import LLM, SAMPLING, counterpart_of

_METHODS = {"chat": "`quire chat`", "prompt": 'the PROMPT argument: quire run "Hello"'}
_OWN = {"stream": "nothing: answers are always streamed", "model": "-m MODEL"}


_SHORT_WORD = re.compile(r"-([A-Za-z]{2,})(?:=.*)?")
"""An option such as llama.cpp's -ngl, which is read here as -n with the value gl."""


def answered(error: click.UsageError, arguments: Iterable[str] = ()) -> click.UsageError:
    """Returns the error with our name for the option or the reason why there is none; other errors are returned unchanged.

    `arguments` are those of the command line: an option of theirs may have been read as several letters.
    """
    word = _short_word(error, arguments)
    if word is not None:
        return _answer(error, f"-{word}", word)
    if isinstance(error, click.NoSuchOption):
        return _answer(error, error.option_name, error.option_name.lstrip("-").replace("-", "_"))
    return error


def refuse_misread(context: click.Context, arguments: Iterable[str]) -> None:
    """Raises UsageError for an argument such as -mm, -model or -mh, which would be read as -m with the value m, odel or h.

    `context` is that of a command, or of a group whose command the arguments begin with.
    """
    command, rest = context.command, list(arguments)
    while isinstance(command, click.Group) and rest and rest[0] in command.commands:
        command = command.commands[rest.pop(0)]
        context = click.Context(command, info_name=command.name, parent=context)
    options = {option for parameter in command.get_params(context) for option in parameter.opts}
    for word in _words_after_one_dash(command, rest):
        error = _answer(click.NoSuchOption(f"-{word}", ctx=context), f"-{word}", word)
        meant = [option for option in (f"--{word}", f"-{word[1:]}", word[1:]) if option in options]
        if not isinstance(error, click.NoSuchOption):
            raise error
        if meant:
            raise click.UsageError(f"No such option: -{word}. Did you mean {meant[0]}?", ctx=context)


def _words_after_one_dash(command: click.Command, arguments: Iterable[str]) -> Iterator[str]:
    """Returns what stands behind the dash of options of one letter that have their value attached."""
    parameters = [parameter for parameter in command.params if isinstance(parameter, click.Option) and not parameter.is_flag]
    with_value = {option for parameter in parameters for option in parameter.opts}
    pending = iter(arguments)
    for argument in takewhile(lambda argument: argument != "--", pending):
        if argument in with_value:
            next(pending, None)
        elif argument[:2] in with_value:
            yield argument[1:].partition("=")[0]


def _short_word(error: click.UsageError, arguments: Iterable[str]) -> str | None:
    """Returns the option of several letters after one dash that was read as the letter the error is about."""
    words = (_SHORT_WORD.fullmatch(argument) for argument in takewhile(lambda argument: argument != "--", arguments))
    known = [match[1] for match in words if match is not None and counterpart_of(match[1]) is not None]
    return next((word for word in known if not _letters_of(error).isdisjoint(word)), None)


def _letters_of(error: click.UsageError) -> set[str]:
    """Returns the options of one letter that an error is about; for words too many, those that take what stands behind them."""
    if isinstance(error, click.NoSuchOption):
        options = [error.option_name]
    elif isinstance(error, click.BadParameter):
        options = error.param.opts if error.param is not None else []
    else:
        options = [option for parameter in error.ctx.command.params for option in parameter.opts] if error.ctx is not None else []
    return {option[1:] for option in options if len(option) == 2}


def _answer(error: click.UsageError, option: str, name: str) -> click.UsageError:
    found = counterpart_of(name)
    if found is None:
        return error
    if found.own_name is None:
        next_step = f"Leave it out: it has no counterpart here, {found.note}."
    elif found.own_name in _METHODS:
        next_step = f"Use {_METHODS[found.own_name]}."
    elif found.own_name in _OWN:
        next_step = f"Use {_OWN[found.own_name]}."
    else:
        spelled = f"--{found.own_name.replace('_', '-')}" if len(found.own_name) > 1 else f"-{found.own_name}"
        if not _has_option(error.ctx, spelled):
            return error
        note = f"; {found.note}" if found.note is not None and found.home in (LLM, SAMPLING) else ""
        next_step = f"Quire calls it {spelled}{note}."
    return click.UsageError(f"No such option: {option}. {next_step}", ctx=error.ctx)


def _has_option(ctx: click.Context | None, spelled: str) -> bool:
    return ctx is not None and any(spelled in parameter.opts for parameter in ctx.command.params)
