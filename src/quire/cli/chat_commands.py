"""The slash commands of a chat. A new one is one line in `SLASH_COMMANDS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType

from quire.cli.chat_file import load_dialogue, save_dialogue
from quire.cli.chat_input import Command
from quire.cli.chat_session import ChatSession
from quire.cli.chat_view import cache_view, num_context_tokens, show_answer, stats_view
from quire.cli.display import listing, one_line, out_console
from quire.cli.follow_stream import write_out
from quire.errors import RequestError
from quire.sampling import Greedy


@dataclass(frozen=True, slots=True)
class SlashCommand:
    """The function that runs, the usage, and the line in `/help`."""

    run: Callable[[ChatSession, str], None]
    usage: str
    summary: str


def run_command(session: ChatSession, command: Command) -> None:
    """Runs a slash command; raises RequestError for an unknown one."""
    name = command.name.lower()
    known = SLASH_COMMANDS.get(OTHER_NAMES.get(name, name))
    if known is None:
        close = get_close_matches(name, (*SLASH_COMMANDS, *OTHER_NAMES), n=1)
        meant = f"Did you mean /{close[0]}? " if close else ""
        names = ", ".join(f"/{name}" for name in SLASH_COMMANDS)
        raise RequestError(
            f"there is no command /{one_line(command.name[:40])}",
            next_step=f'{meant}Use one of {names}, or start the text with """ to send it.',
        )
    known.run(session, command.argument)


def _stats(session: ChatSession, _argument: str) -> None:
    out_console().print(stats_view(session))


def _cache(session: ChatSession, _argument: str) -> None:
    out_console().print(cache_view(session))


def _undo(session: ChatSession, _argument: str) -> None:
    session.dialogue.undo()
    _say(f"Forgot the last turn; {_turns(session)} left.")


def _retry(session: ChatSession, _argument: str) -> None:
    before = session.dialogue.answers[-1:]
    answer = session.retry(write_out)
    show_answer(session, answer)
    if answer.was_interrupted:
        raise KeyboardInterrupt
    is_same = session.dialogue.answers[-1:] == before
    if is_same and isinstance(session.loaded.params.method, Greedy):
        _say("The same answer: this chat takes the most likely token. Start it with --temperature 0.8 for different answers.")


def _exit(session: ChatSession, _argument: str) -> None:
    session.has_ended = True


def _fork(session: ChatSession, argument: str) -> None:
    if not argument:
        _list_branches(session)
    elif session.switch(argument):
        _say(f"Branch {argument} starts here; both share {num_context_tokens(session.dialogue)} tokens.")
    else:
        _say(f"Back on branch {argument}, {_turns(session)}.")


def _list_branches(session: ChatSession) -> None:
    rows = [
        (f"{name} (current)" if name == session.branch else name, str(len(branch.answers)), str(num_context_tokens(branch)))
        for name, branch in sorted(session.branches.items())
    ]
    out_console().print(listing("Branches", ("branch", "turns>", "tokens>"), rows))


def _save(session: ChatSession, argument: str) -> None:
    path = _path(argument, "/save")
    save_dialogue(path, session.dialogue, session.loaded.name)
    _say(f"Saved {_turns(session)} to {path}.")


def _load(session: ChatSession, argument: str) -> None:
    path = _path(argument, "/load")
    session.dialogue = load_dialogue(path, session.llm)
    session.last = None
    _say(f"Loaded {_turns(session)} from {path}.")


def _system(session: ChatSession, argument: str) -> None:
    if not argument:
        _say(session.dialogue.system or "There is no system message.")
        return
    session.restart(argument)
    _say("Started over with this system message.")


def _reset(session: ChatSession, _argument: str) -> None:
    session.restart(session.dialogue.system)
    _say("Started over.")


def _help(_session: ChatSession, _argument: str) -> None:
    rows = [(command.usage, command.summary) for command in SLASH_COMMANDS.values()]
    console = out_console()
    console.print(listing("Commands", ("command", "effect"), rows))
    _say('A line that ends with \\ continues on the next one; """ opens and closes a block of lines.')
    others = ", ".join(f"/{other} is /{name}" for other, name in OTHER_NAMES.items())
    _say(f"Ctrl-C stops the answer, Ctrl-D ends the chat. Other names: {others}.")


def _path(argument: str, name: str) -> Path:
    if not argument:
        raise RequestError(f"{name} needs a file", next_step=f"Write {name} chat.json.")
    return Path(argument).expanduser()


def _turns(session: ChatSession) -> str:
    count = len(session.dialogue.answers)
    return f"{count} turn" if count == 1 else f"{count} turns"


def _say(text: str) -> None:
    out_console().print(text, style="dim", soft_wrap=True)


SLASH_COMMANDS: Mapping[str, SlashCommand] = MappingProxyType(
    {
        "stats": SlashCommand(_stats, "/stats", "show the numbers of the conversation and its last answer"),
        "cache": SlashCommand(_cache, "/cache", "explain what the KV cache saved in the last prompt, and show its blocks"),
        "undo": SlashCommand(_undo, "/undo", "forget the last turn"),
        "retry": SlashCommand(_retry, "/retry", "answer the last turn again"),
        "fork": SlashCommand(_fork, "/fork [NAME]", "switch to branch NAME, created from here if it is new; list the branches"),
        "save": SlashCommand(_save, "/save FILE", "save this branch as JSON"),
        "load": SlashCommand(_load, "/load FILE", "replace this branch with a saved one"),
        "system": SlashCommand(_system, "/system [TEXT]", "start over with a system message; without TEXT, show it"),
        "reset": SlashCommand(_reset, "/reset", "start over, keeping the system message"),
        "help": SlashCommand(_help, "/help", "show this list"),
        "exit": SlashCommand(_exit, "/exit", "end the chat"),
    }
)

OTHER_NAMES: Mapping[str, str] = MappingProxyType(
    {"quit": "exit", "bye": "exit", "q": "exit", "clear": "reset", "new": "reset", "regenerate": "retry", "?": "help"}
)
"""What other chats call these commands."""
