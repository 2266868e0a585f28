"""A contestant's process tree, seen from the parent: started, asked, frozen while others are measured, ended."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from .protocol import ContestantError, Reading, Task

_SECONDS_TO_END = 5.0
_BENCHMARKS = Path(__file__).parents[1]


class ContestantProcess:
    """A child that speaks the protocol. Frozen except while it is asked, so that nothing of it disturbs the others.

    Raises ContestantError, from any method, with the reason why it can compete no more.
    """

    def __init__(self, command: Sequence[str], timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._child = subprocess.Popen(
            command,
            cwd=_BENCHMARKS,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            bufsize=0,
        )
        try:
            self.facts: dict[str, str] = self._next_answer()["ready"]
        except BaseException:
            self.close()
            raise
        self._signal(signal.SIGSTOP)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, task: Task) -> Reading:
        """Asks for one measurement."""
        self._signal(signal.SIGCONT)
        try:
            request = json.dumps(asdict(task)).encode() + b"\n"
            self._write(request)
            return Reading(**self._next_answer())
        finally:
            self._signal(signal.SIGSTOP)

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone, and with it every further measurement."""
        return self._child.returncode is not None

    def close(self) -> None:
        """Ends the whole process tree; may be called again."""
        if self.has_ended:
            return
        self._signal(signal.SIGCONT)
        if self._child.stdin is not None:
            self._child.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._child.wait(_SECONDS_TO_END)
        self._kill()

    def _kill(self) -> None:
        """Ends what is left of the process tree without asking."""
        with suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()
        for stream in (self._child.stdin, self._child.stdout):
            if stream is not None:
                stream.close()

    def _write(self, content: bytes) -> None:
        if self._child.stdin is None:
            raise ContestantError("its process has no input")
        rest = memoryview(content)
        try:
            while rest:
                rest = rest[self._child.stdin.write(rest) or 0 :]
        except OSError as error:
            raise ContestantError(f"its process ended: {error.strerror}") from error

    def _next_answer(self) -> dict[str, Any]:
        line = self._read_line()
        answer: dict[str, Any] = json.loads(line)
        if "failed" in answer:
            raise ContestantError(answer["failed"])
        return answer

    def _read_line(self) -> bytes:
        """Returns the next whole line; the pipe is unbuffered, so what `select` sees is all there is."""
        stream = self._child.stdout
        if stream is None:
            raise ContestantError("its process has no output")
        line = b""
        while not line.endswith(b"\n"):
            is_there = bool(select.select([stream], [], [], self._timeout_s)[0])
            part = os.read(stream.fileno(), 1 << 16) if is_there else b""
            if not part:
                self._kill()
                raise ContestantError("its process ended" if is_there else f"no answer within {self._timeout_s:.0f} s")
            line += part
        return line

    def _signal(self, number: signal.Signals) -> None:
        if self._child.poll() is None:
            os.killpg(self._child.pid, number)
