"""The times of a connection, on a clock that the test moves."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from quire.server.connection import guarded_protocol
from quire.server.limits import Limits

LIMITS = Limits(head_s=10.0, body_grace_s=10.0, body_bytes_per_s=1000, write_s=60.0)
HEAD = b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"


class Timer:
    def __init__(self, when: float, action: Callable[[], None]) -> None:
        self.when, self.action, self.is_cancelled = when, action, False

    def cancel(self) -> None:
        self.is_cancelled = True


class Loop:
    """An event loop that has only timers, and never begins a task."""

    def __init__(self) -> None:
        self._now = 0.0
        self._timers: list[Timer] = []

    def time(self) -> float:
        return self._now

    def call_later(self, delay: float, action: Callable[..., None], *arguments: Any) -> Timer:
        timer = Timer(self._now + delay, lambda: action(*arguments))
        self._timers.append(timer)
        return timer

    def create_task(self, task: Coroutine[Any, Any, Any]) -> Task:
        task.close()
        return Task()

    def advance(self, seconds: float) -> None:
        """Lets time pass, and every timer that is due act in its turn."""
        end = self._now + seconds
        while due := sorted((each for each in self._timers if each.when <= end), key=lambda timer: timer.when):
            self._timers.remove(due[0])
            self._now = due[0].when
            if not due[0].is_cancelled:
                due[0].action()
        self._now = end


class Task:
    def add_done_callback(self, _callback: Callable[[Any], None]) -> None:
        pass


class Transport:
    """A connection to nobody, which remembers what it was told."""

    def __init__(self) -> None:
        self.written = b""
        self.is_closed = self.is_aborted = False

    def get_extra_info(self, name: str) -> object:
        return {"peername": ("127.0.0.1", 5), "sockname": ("127.0.0.1", 6)}.get(name)

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = self.is_aborted = True

    def is_closing(self) -> bool:
        return self.is_closed

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


@pytest.fixture
def opened() -> tuple[Any, Loop, Transport]:
    """A new connection with its clock."""
    config = uvicorn.Config(
        _app, http=guarded_protocol(LIMITS, lambda _: None), ws="none", lifespan="off", interface="asgi3", log_config=None
    )
    config.load()
    loop, transport = Loop(), Transport()
    protocol: Any = config.http_protocol_class(config, ServerState(), {}, _loop=loop)  # type: ignore[arg-type, call-arg]
    protocol.connection_made(transport)
    return protocol, loop, transport


async def _app(_scope: Any, _receive: Any, _send: Any) -> None:
    """Is never run."""


def test_head_has_ten_seconds_however_it_comes(opened: tuple[Any, Loop, Transport]) -> None:
    protocol, loop, transport = opened
    for byte in HEAD[:9]:
        loop.advance(1.0)
        protocol.data_received(bytes([byte]))
    assert not transport.is_closed
    loop.advance(11.0)
    assert transport.written.startswith(b"HTTP/1.1 408 ")
    assert transport.is_closed


def test_body_that_keeps_up_the_rate_is_never_cut(opened: tuple[Any, Loop, Transport]) -> None:
    protocol, loop, transport = opened
    protocol.data_received(HEAD)
    for _ in range(100):
        loop.advance(2.0)
        protocol.data_received(b"x" * 2000)
        protocol.flow.resume_reading()  # as the application does when it reads
    assert not transport.is_closed


def test_body_that_falls_behind_is_cut(opened: tuple[Any, Loop, Transport]) -> None:
    protocol, loop, transport = opened
    protocol.data_received(HEAD + b"x" * 5000)
    loop.advance(14.0)
    assert not transport.is_closed
    loop.advance(7.0)
    assert transport.is_aborted


def test_client_is_not_late_while_the_server_does_not_read(opened: tuple[Any, Loop, Transport]) -> None:
    protocol, loop, transport = opened
    protocol.data_received(HEAD + b"x" * 70_000)
    assert protocol.flow.read_paused
    loop.advance(500.0)
    assert not transport.is_closed


def test_answer_that_is_not_read_is_cut_and_one_that_is_read_is_not(opened: tuple[Any, Loop, Transport]) -> None:
    protocol, loop, transport = opened
    protocol.data_received(b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n")
    for _ in range(5):
        protocol.pause_writing()
        loop.advance(59.0)
        protocol.resume_writing()
        loop.advance(59.0)
    assert not transport.is_closed
    protocol.pause_writing()
    loop.advance(60.0)
    assert transport.is_aborted
