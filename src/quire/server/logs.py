"""The server's log on standard error: one line per request and event, as text or as JSON.

A line holds the server's own words and numbers alone. Texts of exceptions are left out, since a client's may be among them,
and control characters are escaped, so that nothing can forge a line.

event loop, engine thread, workers   log --> queue --> one thread writes     a pipe that is not read delays no request
"""

from __future__ import annotations

import json
import logging
import queue
import sys
import threading
import time
import traceback
from enum import Enum
from typing import TextIO

from quire.server.request_record import RequestRecord

_MAX_LINES = 10_000
"""Lines that wait to be written; further ones are dropped and counted."""

_GATHER_S = 0.05
_LAST_WORDS_S = 1.0
_FIELDS = "quire_fields"
_requests = logging.getLogger("quire.request")


class LogFormat(Enum):
    """How lines are written."""

    TEXT = "text"
    JSON = "json"


def log_request(record: RequestRecord, *, is_probe: bool) -> None:
    """Writes the line of a request; that of a probe only where everything is logged."""
    level = logging.DEBUG if is_probe else logging.INFO
    if _requests.isEnabledFor(level):
        _requests.log(level, "request", extra={_FIELDS: record.fields()})


class TextFormatter(logging.Formatter):
    """`2026-12-01T11:00:00.123Z INFO request method=POST route=/v1/completions status=200 ...`"""

    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, _FIELDS, {})
        words = [_time_of(record), record.levelname, record.getMessage(), *(f"{name}={value}" for name, value in fields.items())]
        if record.exc_info and record.exc_info[1] is not None:
            words.append(f"at {trace_of(record.exc_info[1])}")
        return _printable(" ".join(words))


class JsonFormatter(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        value = {
            "time": _time_of(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info and record.exc_info[1] is not None:
            value["trace"] = trace_of(record.exc_info[1])
        return json.dumps(value | getattr(record, _FIELDS, {}))


def trace_of(error: BaseException) -> str:
    """Returns the kind of an exception and where it came from, innermost first, without its text."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{frame.filename.rpartition('/site-packages/')[2]}:{frame.lineno} {frame.name}" for frame in reversed(frames)]
    return " < ".join([type(error).__name__, *places])


class LineWriter(logging.Handler):
    """Writes lines in a thread of its own. Giving it one never waits."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self.num_dropped = 0
        self._stream = stream
        self._lines: queue.Queue[str | None] = queue.Queue(_MAX_LINES)
        self._thread = threading.Thread(target=self._write, name="quire-log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            self.num_dropped += 1
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        """Writes what waits, as far as the stream takes it within a second."""
        if self._thread.is_alive():
            self._put_last()
            self._thread.join(_LAST_WORDS_S)
        super().close()

    def _put_last(self) -> None:
        try:
            self._lines.put(None, timeout=_LAST_WORDS_S)
        except queue.Full:
            return

    def _write(self) -> None:
        is_over = False
        while not is_over:
            lines = [self._lines.get()]
            if lines[0] is not None:
                time.sleep(_GATHER_S)  # one wake-up and one write for all lines of a busy moment
            while not self._lines.empty():
                lines.append(self._lines.get())
            is_over = None in lines
            try:
                self._stream.write("".join(f"{line}\n" for line in lines if line is not None))
                self._stream.flush()
            except (OSError, ValueError):  # the pipe has no reader any more, or the stream is closed
                is_over = True


def start_log(level: str, form: LogFormat, stream: TextIO | None = None) -> LineWriter:
    """Sends what any part of the process logs from `level` on to standard error. `close` the writer in the end."""
    writer = LineWriter(sys.stderr if stream is None else stream)
    writer.setFormatter(JsonFormatter() if form is LogFormat.JSON else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [writer]
    root.setLevel(logging.WARNING)
    logging.getLogger("quire").setLevel(level.upper())
    logging.getLogger("uvicorn").setLevel(logging.ERROR)  # it warns of bytes that are not HTTP, which any client may send
    return writer


def _time_of(record: logging.LogRecord) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z"


def _printable(text: str) -> str:
    return text if text.isprintable() else "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
