"""Explains an unknown option that other engines have: our name for it, or why there is none."""

from __future__ import annotations

import click

from quire.counterparts import LLM, SAMPLING, counterpart_of

_METHODS = {"chat": "`quire chat`", "prompt": 'the PROMPT argument: quire run "Hello"'}
_OWN = {"stream": "nothing: answers are always streamed", "model": "-m MODEL"}


def answered(error: click.NoSuchOption) -> click.UsageError:
    """Returns the error with our name for the option or the reason why there is none; other errors are returned unchanged."""
    found = counterpart_of(error.option_name.lstrip("-").replace("-", "_"))
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
    return click.UsageError(f"No such option: {error.option_name}. {next_step}", ctx=error.ctx)


def _has_option(ctx: click.Context | None, spelled: str) -> bool:
    return ctx is not None and any(spelled in parameter.opts for parameter in ctx.command.params)
