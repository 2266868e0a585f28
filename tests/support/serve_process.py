"""`quire serve` as a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_CLI = ("-m", "quire.cli")


@contextmanager
def serving(
    *arguments: str, environment: dict[str, str] | None = None, program: Sequence[str] = _CLI, last_line: str = "try: "
) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """Starts `quire serve` on a free port and yields it with the lines that it prints; ends it at the latest in the end.

    It yields after the line that begins with `last_line`, or where the process has ended. `program` are Python's arguments.
    """
    options = ("serve", "--port", "0", "--threads", "1", "--kv-memory", "64MiB")
    command = [sys.executable, *program, *options, *arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | (environment or {})
    )
    watchdog = threading.Timer(120, process.kill)
    watchdog.start()
    try:
        lines = []
        if process.stdout is None:
            raise RuntimeError("the process has no standard output")
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            if last_line in line:
                break
        yield process, lines
    finally:
        watchdog.cancel()
        process.kill()
        process.communicate()


def url_in(lines: Sequence[str]) -> str:
    """Returns the address that a server has printed."""
    found = re.search(r"http://127\.0\.0\.1:\d+", "\n".join(lines))
    if found is None:
        raise ValueError(f"no address in {lines}")
    return found[0]
