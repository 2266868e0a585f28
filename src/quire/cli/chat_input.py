r"""How a turn is typed: one line, lines joined by a trailing backslash, or a block between triple double quotes.

    >>> one line is one turn
    >>> the first line \
    ... and the second line of the same turn

In a block everything is text, including empty lines and lines that start with a slash.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from quire.cli.display import show_note
from quire.environment import read_environment
from quire.errors import RequestError
from quire.values import shown_utf8_fault

QUOTES = '"""'
MAX_HISTORY_LINES = 1000

ReadLine = Callable[[str], str]
"""Shows a prompt and returns a line without its end; raises EOFError after the last one."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What the user typed, to be sent."""

    text: str


@dataclass(frozen=True, slots=True)
class Command:
    """`/name argument`."""

    name: str
    argument: str


def read_turn(read_line: ReadLine) -> Turn | Command | None:
    """Returns the next turn or command, skipping empty turns; None at the end of input.

    If the input ends within a block or a continued line, the lines so far are the turn.
    """
    while True:
        try:
            line = read_line(">>> ")
        except EOFError:
            return None
        if line.lstrip().startswith(QUOTES):
            text = _read_block(line.lstrip().removeprefix(QUOTES), read_line)
        elif line.startswith("/"):
            name, _, argument = line[1:].strip().partition(" ")
            return Command(name, argument.strip())
        else:
            text = _read_continued(line, read_line)
        if text.strip():
            return Turn(text)


def _read_block(first: str, read_line: ReadLine) -> str:
    lines = [first]
    try:
        while not lines[-1].rstrip().endswith(QUOTES):
            lines.append(read_line("... "))
    except EOFError:
        return "\n".join(lines).strip("\n")
    lines[-1] = lines[-1].rstrip().removesuffix(QUOTES)
    return "\n".join(lines).strip("\n")


def _read_continued(first: str, read_line: ReadLine) -> str:
    lines = [first]
    try:
        while lines[-1].endswith("\\"):
            lines[-1] = lines[-1].removesuffix("\\")
            lines.append(read_line("... "))
    except EOFError:
        pass
    return "\n".join(lines)


class PipedLines:
    """The lines of a standard input that is not a terminal."""

    def __init__(self) -> None:
        self._num_bytes = 0

    def read(self, _prompt: str) -> str:
        """Returns the next line without its end; raises EOFError after the last and RequestError where it is not UTF-8."""
        line = sys.stdin.buffer.readline()
        if not line:
            raise EOFError
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise RequestError(
                "standard input is not UTF-8 text",
                given=shown_utf8_fault(error, self._num_bytes),
                next_step="Convert it to UTF-8 first.",
            ) from error
        self._num_bytes += len(line)
        return text.removesuffix("\n").removesuffix("\r")


def history_path() -> Path:
    """Returns where typed lines are kept, in the state directory of the XDG specification."""
    state_home = read_environment().state_home or Path.home() / ".local" / "state"
    return state_home / "quire" / "history"


@contextmanager
def line_editing(history: Path | None) -> Iterator[None]:
    """Gives `input` editing keys and a history file of limited length, readable by its owner only; None keeps no file."""
    editor = _line_editor()
    if editor is None:
        yield
        return
    editor.clear_history()
    editor.set_history_length(MAX_HISTORY_LINES)
    if history is not None and history.is_file():
        with _noting_failure(history):
            editor.read_history_file(history)
    try:
        yield
    finally:
        if history is not None:
            with _noting_failure(history):
                history.parent.mkdir(parents=True, exist_ok=True)
                history.touch(mode=0o600)
                editor.write_history_file(history)


@contextmanager
def _noting_failure(history: Path) -> Iterator[None]:
    """Reports a failure of the history file as a note: a chat must not end because of it."""
    try:
        yield
    except OSError as error:
        show_note(f"the history in {history} is not kept: {error.strerror}")


def _line_editor() -> ModuleType | None:
    """Returns the standard library's `readline`, which not every Python has."""
    try:
        import readline
    except ImportError:
        return None
    return readline
