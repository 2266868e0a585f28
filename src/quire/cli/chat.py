"""`quire chat`: a conversation on the terminal, or turns from a pipe, one a line."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from quire.cli.options import EngineChoice, SamplingOptions, engine_options, sampling_options

if TYPE_CHECKING:
    from quire.cli.chat_input import Command, ReadLine, Turn
    from quire.cli.chat_session import ChatSession


@click.command()
@click.option("--system", metavar="TEXT", help="A system message before the first turn.")
@click.option("--history/--no-history", default=True, help="Keep typed lines for the next chat. [default: keep]")
@sampling_options
@engine_options
def chat(system: str | None, history: bool, sampling: SamplingOptions, engine: EngineChoice) -> None:
    """Hold a conversation. Its tokens are only ever appended to, so earlier turns come from the KV cache.

    A line is a turn; a trailing backslash continues it, and triple quotes enclose a block of lines. /help lists the
    commands. Ctrl-C stops the answer, Ctrl-D leaves. From a pipe, each line is a turn and the first error ends the chat.

    \b
    Example:
      quire chat
      quire chat -m path/to/model --system "Answer in one sentence."
      printf 'Hello\\n/stats\\n' | quire chat
    """
    from quire.cli.chat_input import history_path, line_editing, read_piped_line
    from quire.cli.chat_session import ChatSession, Dialogue
    from quire.cli.opening import open_model

    is_terminal = sys.stdin.isatty()
    opened = open_model(engine, sampling)
    with opened.llm:
        session = ChatSession(opened, Dialogue.start(opened.llm, system))
        if not is_terminal:
            _talk_from_pipe(session, read_piped_line)
            return
        _greet(session)
        with line_editing(history_path() if history else None):
            _talk_on_terminal(session)


def _talk_from_pipe(session: ChatSession, read_line: ReadLine) -> None:
    from quire.cli.chat_input import read_turn

    while (typed := read_turn(read_line)) is not None:
        if _respond(session, typed):
            raise KeyboardInterrupt


def _talk_on_terminal(session: ChatSession) -> None:
    from quire.cli.chat_input import read_turn
    from quire.cli.display import show_error
    from quire.errors import QuireError

    while True:
        try:
            typed = read_turn(_read_typed_line)
            if typed is None:
                break
            _respond(session, typed)
            click.echo()
        except KeyboardInterrupt:
            click.echo()
        except QuireError as error:
            show_error(str(error))
    click.echo()


def _read_typed_line(prompt: str) -> str:
    return input(prompt if sys.stdout.isatty() else "")


def _respond(session: ChatSession, typed: Turn | Command) -> bool:
    """Runs a command or answers a turn; returns whether Ctrl-C ended the answer."""
    from quire.cli.answer import end_line, note_of_full_context, write_out
    from quire.cli.chat_commands import run_command
    from quire.cli.chat_input import Command
    from quire.cli.display import show_note

    if isinstance(typed, Command):
        run_command(session, typed)
        return False
    answer = session.ask(typed.text, write_out)
    end_line(answer.text)
    note = note_of_full_context(answer, session.opened.params)
    if note is not None:
        show_note(note)
    return answer.was_interrupted


def _greet(session: ChatSession) -> None:
    from quire.cli.display import show_note

    show_note(f"{session.opened.name} on {session.llm.core.executor.name}. /help lists the commands, Ctrl-D leaves.")
