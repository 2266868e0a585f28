"""`quire chat` on a terminal: a pseudo-terminal plays the user's part."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

pty = pytest.importorskip("pty")

PROMPT = b">>> "
MAX_SHOWN_BYTES = 100_000
END_OF_INPUT = b"\x04"


class Terminal:
    """A chat in a process whose three streams are one pseudo-terminal."""

    def __init__(self, *arguments: str, state: Path) -> None:
        self._end, other_end = pty.openpty()
        environment = {**os.environ, "XDG_STATE_HOME": str(state), "TERM": "dumb"}
        command = [sys.executable, "-m", "quire.cli", "chat", *arguments]
        streams = {"stdin": other_end, "stdout": other_end, "stderr": other_end}
        self.process = subprocess.Popen(command, env=environment, **streams)
        os.close(other_end)

    def read_until(self, text: bytes) -> bytes:
        """Returns what is shown up to and including `text`; raises EOFError where the chat ends, or never stops, before."""
        shown = b""
        while not shown.endswith(text):
            if len(shown) > MAX_SHOWN_BYTES:
                raise EOFError(shown[-500:])
            try:
                piece = os.read(self._end, 1)
            except OSError as error:
                raise EOFError(shown[-500:]) from error
            shown += piece
        return shown

    def type(self, text: bytes) -> None:
        os.write(self._end, text)

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def interrupt_at_prompt(self) -> None:
        """Sends SIGINT until something is shown: just before it waits for a key, `readline` notices a signal only at the next."""
        self.interrupt()
        while not select.select([self._end], [], [], 1.0)[0]:
            self.interrupt()

    def close(self) -> None:
        self.process.kill()
        self.process.wait(timeout=60)
        with suppress(OSError):
            os.close(self._end)


@pytest.fixture
def terminal(endless_model: Path, tmp_path: Path) -> Iterator[Terminal]:
    opened = Terminal("-m", str(endless_model), "--threads", "1", state=tmp_path)
    try:
        yield opened
    finally:
        opened.close()


def test_interrupt_stops_the_answer_only(terminal: Terminal, tmp_path: Path) -> None:
    greeting = terminal.read_until(PROMPT)
    assert b"/help lists the commands" in greeting
    terminal.type(b"hello\n")
    terminal.read_until(b"hello")
    terminal.read_until(b"a")
    terminal.interrupt()
    assert b"Traceback" not in terminal.read_until(PROMPT)
    terminal.type(b"/stats\n")
    assert b"1" in terminal.read_until(b"of 200000 tokens").partition(b"turns")[2].split()[0]
    terminal.read_until(PROMPT)
    terminal.type(END_OF_INPUT)
    assert terminal.process.wait(timeout=60) == 0
    assert (tmp_path / "quire" / "history").read_text().splitlines()[-2:] == ["hello", "/stats"]


def test_interrupt_at_the_prompt_drops_the_line_and_stays(terminal: Terminal) -> None:
    terminal.read_until(PROMPT)
    terminal.type(b"half a li")
    terminal.read_until(b"half a li")
    terminal.interrupt_at_prompt()
    terminal.read_until(PROMPT)
    terminal.type(b"/nonsense\n")
    assert b"error: there is no command /nonsense" in terminal.read_until(PROMPT)
    terminal.type(END_OF_INPUT)
    assert terminal.process.wait(timeout=60) == 0


@pytest.mark.parametrize("command", [b"/exit\n", b"/quit\n"])
def test_a_command_leaves_the_chat(terminal: Terminal, command: bytes) -> None:
    terminal.read_until(PROMPT)
    terminal.type(command)
    assert terminal.process.wait(timeout=60) == 0
