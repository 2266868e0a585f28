"""A server of our own for one benchmark: `quire serve` as a process, which shares no interpreter with its clients."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from quire.errors import ExecutorError

_URL = "base URL for OpenAI clients: "
_LAST_LINE = "try: "
_END_S = 15.0


@contextmanager
def own_server(arguments: Sequence[str]) -> Iterator[str]:
    """Starts `quire serve` with these arguments on a free port, yields its URL, and ends it.

    Its own errors go to standard error; raises ExecutorError where it does not start.
    """
    command = [sys.executable, "-m", "quire.cli", "serve", "--port", "0", "--log-level", "warning", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield _url_of(process)
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_END_S)
            process.kill()


def _url_of(process: subprocess.Popen[str]) -> str:
    url = None
    for line in process.stdout or ():
        if line.startswith(_URL):
            url = line.removeprefix(_URL).strip()
        if url is not None and line.startswith(_LAST_LINE):
            return url
    raise ExecutorError(
        "the server did not start",
        given=f"exit code {process.wait()}",
        next_step="See what it wrote above, or try `quire serve`.",
    )
