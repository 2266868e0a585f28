"""Standard input, output and error as the shell left them: closed, full, or in an encoding that lacks a character."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from errno import EBADF
from io import TextIOWrapper

from quire.errors import QuireError


def prepare_streams() -> None:
    """Makes the streams of this process usable: what an output cannot encode is written as escapes.

    A closed standard input reads as empty and output to a closed standard error is dropped. Raises OSError for a closed
    standard output, because the answer would be lost.
    """
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115 - lives as long as the process
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - lives as long as the process
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if sys.stdout is None:
        raise OSError(EBADF, "it is closed")


def report_system_error(error: OSError) -> None:
    """Prints one line on standard error about what the operating system refused, and drops output that cannot be written.

    An error that names no file comes from a stream: files are opened by name, and their errors are QuireErrors.
    """
    from quire.cli.display import show_error

    reason = error.strerror or str(error)
    if error.filename is None:
        failure = QuireError(
            "Standard output cannot be written", given=reason, next_step="Free some space, or redirect it elsewhere."
        )
        _drop_output()
    else:
        where = f"{error.filename}: {reason}"
        failure = QuireError("The operating system refused", given=where, next_step="Check the file and its permissions.")
    with suppress(OSError):
        show_error(str(failure))


def _drop_output() -> None:
    """Redirects standard output to the null device; otherwise the interpreter would fail again when it flushes at exit."""
    if sys.stdout is not None:
        null_device = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null_device, sys.stdout.fileno())
        os.close(null_device)
