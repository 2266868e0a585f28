"""uvicorn's HTTP protocol with limits it lacks: bytes and fields of a head, times of head, body and reading, connections.

    connection made   head begins ... head complete   body ... complete   answer ... read   idle
    [-------------- head_s ------)[- least rate ------------)[-- write_s at a stop --)[- keep_alive_s -)

Parsing stays with httptools: this class only counts what passes by and ends what takes too much.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop, BaseTransport, TimerHandle, Transport
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from quire.server.errors import ApiError, Refusal, error_body
from quire.server.limits import Limits

DEPARTURE = "quire.departure"
"""Key of the scope: the Departure of the client."""

_FIELD_EXTRA_BYTES = 4  # ": " and the line's end


class _Reading(Enum):
    NOTHING = "nothing"
    HEAD = "head"
    BODY = "body"


class Departure:
    """Tells what runs for a client when its connection is lost, without a task that waits for it."""

    __slots__ = ("_calls", "_has_come")

    def __init__(self) -> None:
        self._calls: set[Callable[[], None]] = set()
        self._has_come = False

    @contextmanager
    def calling(self, call: Callable[[], None]) -> Iterator[None]:
        """Calls a function when the connection is lost meanwhile, at once where it is lost already."""
        self._calls.add(call)
        try:
            if self._has_come:
                call()
            yield
        finally:
            self._calls.discard(call)

    def come(self) -> None:
        """Notes that the connection is lost."""
        self._has_come = True
        for call in tuple(self._calls):
            call()


class Connections:
    """How many connections are open, of all and of each address."""

    def __init__(self, limits: Limits, on_refusal: Callable[[ApiError], None]) -> None:
        self.limits = limits
        self.on_refusal = on_refusal
        self._by_address: Counter[str] = Counter()

    def open(self, address: str) -> bool:
        """Counts a connection; returns whether it may stay."""
        self._by_address[address] += 1
        is_within = self._by_address[address] <= self.limits.connections_per_address
        return is_within and self._by_address.total() <= self.limits.connections

    def close(self, address: str) -> None:
        """Counts a connection as closed."""
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]


def guarded_protocol(limits: Limits, on_refusal: Callable[[ApiError], None]) -> type[HttpToolsProtocol]:
    """Returns the protocol class for `uvicorn.Config(http=...)` that keeps connections within limits, and tells of refusals."""
    connections = Connections(limits, on_refusal)

    class Guarded(GuardedProtocol):
        guard = connections

    return Guarded


class GuardedProtocol(HttpToolsProtocol):
    """One connection. `scope["state"]` of its requests is uvicorn's, `scope[DEPARTURE]` ours."""

    guard: Connections

    def __init__(
        self, config: Config, server_state: ServerState, app_state: dict[str, Any], _loop: AbstractEventLoop | None = None
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits = self.guard.limits
        self._address = ""
        self._departure = Departure()
        self._reading = _Reading.HEAD
        self._is_refused = False
        self._head_bytes = 0  # of whole fields
        self._pending_bytes = 0  # received since the last head began, in whole pieces
        self._body_bytes = 0
        self._read_timer: TimerHandle | None = None
        self._write_timer: TimerHandle | None = None

    # -- a connection comes and goes -------------------------------------------------

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(cast(Transport, transport))
        self._address = self.client[0] if self.client else ""
        if self.guard.open(self._address):
            self._await_head()
        else:
            self._refuse(429, "too many connections", "Close some, or wait.")

    def connection_lost(self, exc: Exception | None) -> None:
        self.guard.close(self._address)
        self._stop_read_timer()
        self._stop_write_timer()
        super().connection_lost(exc)
        self._departure.come()

    # -- bytes arrive ----------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        if self._reading is _Reading.HEAD:
            self._pending_bytes += len(data)
        super().data_received(data)
        if self._is_refused:
            return
        if self._reading is _Reading.HEAD and self._pending_bytes > self._limits.head_bytes:
            self._refuse_head()
        elif self._read_timer is None:
            self._await_rest()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope[DEPARTURE] = self._departure  # type: ignore[literal-required]  # asgiref knows its own keys alone
        self._reading, self._head_bytes, self._pending_bytes = _Reading.HEAD, 0, 0

    def on_url(self, url: bytes) -> None:
        self._head_bytes += len(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value) + _FIELD_EXTRA_BYTES
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._is_refused:
            return
        self._stop_read_timer()
        if self._head_bytes > self._limits.head_bytes or len(self.headers) > self._limits.head_fields:
            self._refuse_head()
            return
        super().on_headers_complete()
        self._reading, self._body_bytes = _Reading.BODY, 0

    def on_body(self, body: bytes) -> None:
        if not self._is_refused:
            self._body_bytes += len(body)
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._is_refused:
            self._reading = _Reading.NOTHING
            self._stop_read_timer()
            super().on_message_complete()

    # -- bytes leave -----------------------------------------------------------------

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_timer = self.loop.call_later(self._limits.write_s, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop_write_timer()
        super().resume_writing()

    # -- limits ----------------------------------------------------------------------

    @property
    def _is_waiting(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _await_rest(self) -> None:
        """Sets the timer of what has come in part. Most requests come whole, and need none."""
        if self._reading is _Reading.BODY:
            self._read_timer = self.loop.call_later(self._limits.body_grace_s, self._check_rate, self.loop.time())
        elif self._reading is _Reading.HEAD or self._is_waiting:  # what comes where a head may begin is a part of one
            self._await_head()

    def _await_head(self) -> None:
        self._reading = _Reading.HEAD
        self._read_timer = self.loop.call_later(self._limits.head_s, self._head_is_late)

    def _stop_read_timer(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _head_is_late(self) -> None:
        self._refuse(408, "the head of the request took too long", "Send it at once.")

    def _check_rate(self, began_s: float) -> None:
        """Closes a connection whose body comes too slowly. While the server itself does not read, the client is not late."""
        late_s = self.loop.time() - began_s - self._limits.body_grace_s
        if not self.flow.read_paused and self._body_bytes < late_s * self._limits.body_bytes_per_s:
            self.transport.abort()
        else:
            self._read_timer = self.loop.call_later(self._limits.body_grace_s / 2, self._check_rate, began_s)

    def _refuse_head(self) -> None:
        limits = self._limits
        self._refuse(
            431, f"the head of a request has {limits.head_bytes} bytes and {limits.head_fields} fields at most", "Send fewer."
        )

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's signature
        self._refuse(400, "this is not an HTTP request", "Use an HTTP client.")

    def _refuse(self, status: int, problem: str, next_step: str) -> None:
        """Answers outside of any request and closes the connection; nothing when an answer is on its way already."""
        self._is_refused = True
        self._stop_read_timer()
        error = ApiError(problem, next_step=next_step, refusal=Refusal(status=status))
        self.guard.on_refusal(error)
        if self._is_waiting:
            self.transport.write(_last_words(error))
        self.transport.close()


def _last_words(error: ApiError) -> bytes:
    body = error_body(error, "", "")
    head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
    return STATUS_LINE[error.refusal.status] + head + body
