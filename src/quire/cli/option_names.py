"""Options in errors, spelled as people type them. Errors name them as a program passes them: max_context, quantize='int8'."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click


def as_typed(message: str, command: click.Command) -> str:
    """Returns an error's text with the options of a command as they are typed: `--max-context`, `--quantize int8`.

    Names of one word, such as threads, are words of English too, so only with a value they are taken for options.
    """
    for name, spelled in _spellings(command):
        given = rf"(?<![\w/.-]){name}=(?:'([\w.-]*)'|\"([\w.-]*)\"|([\w-]+(?:\.\w+)*))"
        message = re.sub(given, rf"{spelled} \1\2\3", message)
        if "_" in name:
            message = re.sub(rf"(?<![\w/'\"=-]){name}(?![\w/'\"=(-]|\.\w)", spelled, message)
    return message


def _spellings(command: click.Command) -> Iterator[tuple[str, str]]:
    """Yields the names of a command's options, those of its subcommands too, and their spellings."""
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.name is not None:
            yield parameter.name, max(parameter.opts, key=len)
    if isinstance(command, click.Group):
        for each in command.commands.values():
            yield from _spellings(each)
