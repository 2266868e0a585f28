"""`quire chat`: a conversation on the terminal, or turns from a pipe, one per line."""

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
    commands. Ctrl-C stops the answer, Ctrl-D and /exit leave. From a pipe, each line is a turn and the first error ends the chat.

    \b
    Example:
      quire chat
      quire chat -m path/to/model --system "Answer in one sentence."
      printf 'Hello\\n/stats\\n' | quire chat
    """
    from quire.cli.chat_input import PipedLines, history_path, line_editing
    from quire.cli.chat_session import ChatSession, Dialogue
    from quire.cli.load import load_model

    is_terminal = sys.stdin.isatty()
    loaded = load_model(engine, sampling)
    with loaded.llm:
        session = ChatSession(loaded, Dialogue.start(loaded.llm, system))
        if not is_terminal:
            _talk_from_pipe(session, PipedLines().read)
            return
        _greet(session)
        with line_editing(history_path() if history else None):
            _talk_on_terminal(session)


def _talk_from_pipe(session: ChatSession, read_line: ReadLine) -> None:
    from quire.cli.chat_input import read_turn

    while not session.has_ended and (typed := read_turn(read_line)) is not None:
        if _respond(session, typed):
            raise KeyboardInterrupt


def _talk_on_terminal(session: ChatSession) -> None:
    from quire.cli.chat_input import read_turn
    from quire.cli.display import show_error
    from quire.cli.option_names import as_typed
    from quire.errors import QuireError

    while not session.has_ended:
        try:
            typed = read_turn(_read_typed_line)
            if typed is None:
                click.echo()
                break
            _respond(session, typed)
            click.echo()
        except KeyboardInterrupt:
            click.echo()
        except QuireError as error:
            show_error(as_typed(str(error), click.get_current_context().command))


def _read_typed_line(prompt: str) -> str:
    return input(prompt if sys.stdout.isatty() else "")


def _respond(session: ChatSession, typed: Turn | Command) -> bool:
    """Runs a command or answers a turn; returns whether Ctrl-C ended the answer."""
    from quire.cli.chat_commands import run_command
    from quire.cli.chat_input import Command
    from quire.cli.chat_view import show_answer
    from quire.cli.follow_stream import write_out

    if isinstance(typed, Command):
        run_command(session, typed)
        return False
    answer = session.ask(typed.text, write_out)
    show_answer(session, answer)
    return answer.was_interrupted


def _greet(session: ChatSession) -> None:
    from quire.cli.display import show_note

    show_note(f"{session.loaded.name} on {session.llm.core.executor.name}. /help lists the commands, /exit or Ctrl-D leaves.")
