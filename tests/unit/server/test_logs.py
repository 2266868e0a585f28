"""Lines of the log: whole, one per event, without anybody's text, and without waiting for who reads them."""

from __future__ import annotations

import io
import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from quire.server.logs import JsonFormatter, LineWriter, LogFormat, TextFormatter, log_request, start_log, trace_of
from quire.server.request_record import RequestRecord

HIDDEN = "a secret\r\n2026-12-01T00:00:00.000Z INFO forged"


def record_of(**changes: object) -> RequestRecord:
    fields: dict[str, object] = {
        "method": "POST",
        "route": "/v1/completions",
        "status": 200,
        "request_id": "req_1",
        "duration_s": 0.25,
        "ended_s": 0.0,
        "code": None,
        "answer": None,
        "traceparent": None,
    }
    return RequestRecord(**(fields | changes))  # type: ignore[arg-type]


def _failed() -> BaseException:
    try:
        raise ValueError(HIDDEN)
    except ValueError as error:
        return error


@pytest.fixture
def roots() -> Iterator[None]:
    """Puts the loggers back as they were."""
    loggers = [logging.getLogger(name) for name in (None, "quire", "uvicorn")]
    states = [(each, each.level, each.handlers[:]) for each in loggers]
    yield
    for each, level, handlers in states:
        each.setLevel(level)
        each.handlers[:] = handlers


def lines_of(form: LogFormat, level: str = "info") -> list[str]:
    stream = io.StringIO()
    writer = start_log(level, form, stream)
    log_request(record_of(), is_probe=False)
    log_request(record_of(route="/health"), is_probe=True)
    logging.getLogger("quire.server").error("%s failed", HIDDEN, exc_info=_failed())
    writer.close()
    return stream.getvalue().splitlines()


@pytest.mark.usefixtures("roots")
def test_text_has_one_line_per_event() -> None:
    request, failure = lines_of(LogFormat.TEXT)
    assert request.endswith("Z INFO request method=POST route=/v1/completions status=200 request_id=req_1 duration_s=0.25")
    assert "ERROR a secret\\r\\n2026" in failure


@pytest.mark.usefixtures("roots")
def test_json_has_one_object_per_line() -> None:
    request, failure = map(json.loads, lines_of(LogFormat.JSON))
    assert (request["message"], request["status"], request["duration_s"]) == ("request", 200, 0.25)
    assert (failure["level"], failure["logger"]) == ("error", "quire.server")
    assert failure["trace"].startswith("ValueError < ")


@pytest.mark.usefixtures("roots")
def test_level_chooses_lines() -> None:
    assert len(lines_of(LogFormat.TEXT, "debug")) == 3
    assert len(lines_of(LogFormat.TEXT, "error")) == 1


def test_text_of_an_exception_is_left_out() -> None:
    error = _failed()
    record = logging.LogRecord("quire", logging.ERROR, "", 0, "failed", None, (type(error), error, error.__traceback__))
    for formatter in (TextFormatter(), JsonFormatter()):
        line = formatter.format(record)
        assert "secret" not in line
        assert "ValueError" in line
        assert "_failed" in line
        assert "\n" not in line
    assert trace_of(error).startswith("ValueError < ")


def test_pipe_that_is_not_read_holds_up_nobody() -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream, os.fdopen(reading) as reader:
        writer = LineWriter(stream)
        writer.setFormatter(TextFormatter())
        record = logging.LogRecord("quire", logging.INFO, "", 0, "x" * 1000, None, None)
        for _ in range(30_000):  # 30 MB, which no pipe holds
            writer.emit(record)
        assert writer.num_dropped > 0
        drain = threading.Thread(target=reader.read)
        drain.start()
        writer.close()
        stream.close()
        drain.join(30)
        assert not drain.is_alive()


def test_reader_that_is_gone_ends_the_writing_alone() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    stream = os.fdopen(writing, "w")
    writer = LineWriter(stream)
    writer.setFormatter(TextFormatter())
    writer.emit(logging.LogRecord("quire", logging.INFO, "", 0, "x", None, None))
    deadline = time.monotonic() + 30
    while writer._thread.is_alive():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    writer.close()
    with suppress(BrokenPipeError):
        stream.close()
