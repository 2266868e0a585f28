"""A server's life: it listens, answers, and on SIGTERM lets what runs come to its end.

SIGTERM             /ready says 503, new requests get 503, streams go on
all are done        the server ends
--shutdown-timeout  streams end with an error event, then the server ends
SIGTERM again       the same at once
"""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from types import FrameType

import uvicorn

from quire.errors import ConfigError
from quire.server.auth import ApiKeys
from quire.server.connection import guarded_protocol
from quire.server.endpoints import Endpoints
from quire.server.gate import Gate
from quire.server.hosts import AllowedHosts, require_guarded
from quire.server.limits import Limits
from quire.server.loading import Door
from quire.server.observer import Observer
from quire.server.service import Service

_LAST_WORDS_S = 2
"""How long connections may take to read what they were sent last."""

BACKLOG = 2048
"""Connections that may wait to be accepted."""

_TICK_S = 0.1
"""How long uvicorn's main loop sleeps between two ticks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Where a server listens, by which other names it is known, and the keys it asks for, none by default."""

    host: str = "127.0.0.1"
    port: int = 8000
    keys: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_guarded(self.host, has_keys=bool(self.keys))


def listen(access: Access) -> socket.socket:
    """Returns a socket that is bound to host and port, any free one for 0; raises ConfigError where that cannot be."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(access.host, access.port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)  # asyncio sends at once (TCP_NODELAY) where the protocol is named
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise ConfigError(
            "the server cannot listen there",
            given=f"host {access.host}, port {access.port}: {error.strerror}",
            next_step="Choose another --port, such as 0 for any free one, or another --host.",
        ) from error
    return listener


class Server(uvicorn.Server):
    """uvicorn's server with a drain of its own. Its tick of 0.1 s wakes silent streams too.

    Without a service it says that the model is loading, until it is opened with one. `observer` is then what notes requests.
    """

    def __init__(
        self, service: Service | None, access: Access, shutdown_timeout_s: float, observer: Observer | None = None
    ) -> None:
        self._observer = service.observer if service is not None else observer or Observer()
        self._limits = Limits() if service is None else service.limits
        self._door = Door()
        gate = Gate(
            app=self._door,
            keys=ApiKeys(access.keys),
            hosts=AllowedHosts(access.host, access.names),
            observer=self._observer,
        )
        super().__init__(
            uvicorn.Config(
                gate,
                http=guarded_protocol(self._limits, self._observer.metrics.http.note_rejection),
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_keep_alive=int(self._limits.keep_alive_s),
                timeout_graceful_shutdown=_LAST_WORDS_S,
            )
        )
        self._service: Service | None = None
        self.shutdown_timeout_s = shutdown_timeout_s
        self._end_by_s: float | None = None
        self._next_tick_s: float | None = None
        if service is not None:
            self.open(service)

    def open(self, service: Service) -> None:
        """Answers with a service from now on; one that was made with this server's observer."""
        router = Endpoints(service).router()
        self._observer.know_routes(router)
        self._service = service
        self._door.open(router)

    def begin_drain(self) -> None:
        """Begins to end; at the second call the end is now, as it is while the model loads. Safe in a signal handler."""
        is_again = self._end_by_s is not None
        if self._service is not None:
            self._service.begin_drain()
        self._end_by_s = time.monotonic() + (0.0 if is_again else self.shutdown_timeout_s)

    def end(self) -> None:
        """Ends now; what runs gets an error."""
        self.begin_drain()
        self.begin_drain()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        self.begin_drain()

    async def on_tick(self, counter: int) -> bool:
        self._note_lag(time.monotonic())
        if self._service is not None:
            self._service.runs.wake_silent(self._limits.heartbeat_s)
        is_over = await super().on_tick(counter) or self._is_drained()
        self._next_tick_s = time.monotonic() + _TICK_S
        return is_over

    def _note_lag(self, now: float) -> None:
        if self._next_tick_s is not None:
            self._observer.metrics.http.note_lag(max(0.0, now - self._next_tick_s))

    def _is_drained(self) -> bool:
        if self._end_by_s is None:
            return False
        if self._service is None or self._service.runs.num_open == 0:
            return True
        if time.monotonic() < self._end_by_s:
            return False
        self._service.runs.end_all()
        return True
