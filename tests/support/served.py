"""A real server on a free port, in a thread of the test's process. Every stream that it sends is checked."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quire.engine.async_engine import AsyncEngine
from quire.engine.options import EngineOptions
from quire.server.limits import Limits
from quire.server.service import ServedModel, Service
from quire.server.serving import Access, Server, listen
from support.stream_rules import fault_of

Message = Mapping[str, Any]


class Streams:
    """ASGI middleware that keeps what event streams hold, and what is wrong with them."""

    def __init__(self, app: Any) -> None:
        self.num_checked = 0
        self.faults: list[str] = []
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, is_stream, is_whole = bytearray(), False, False

        async def keep(message: Message) -> None:
            nonlocal is_stream, is_whole
            if message["type"] == "http.response.start":
                is_stream = any(value.startswith(b"text/event-stream") for _, value in message["headers"])
            elif is_stream:
                body.extend(message.get("body", b""))
                is_whole = not message.get("more_body", False)
            await send(message)

        try:
            await self._app(scope, receive, keep)
        finally:
            if is_stream:
                self.num_checked += 1
                fault = fault_of(bytes(body), scope["path"], is_whole=is_whole)
                self.faults += [] if fault is None else [f"{scope['path']}: {fault}"]


@dataclass(kw_only=True)
class Served:
    """A server that runs; `url` ends without a slash."""

    url: str
    port: int
    service: Service
    server: Server
    streams: Streams = field(repr=False)


@contextmanager
def served(
    model: Path | None = None,
    *,
    access: Access | None = None,
    limits: Limits | None = None,
    names: tuple[str, ...] = (),
    recommended: Mapping[str, float] | None = None,
    options: EngineOptions | None = None,
    send_buffer_bytes: int | None = None,
    keeps_responses: bool = True,
) -> Iterator[Served]:
    """Serves a model (None: the bundled one) on a free port of this machine. Any name is accepted unless `names` are given.

    `send_buffer_bytes` is how much of an answer the operating system takes before a client has read it.
    """
    engine = AsyncEngine(model, **{"threads": 1, "kv_memory": "64MiB", **(options or {})})
    shown = ServedModel(names=names or ("bundled",), is_chosen=bool(names), recommended=recommended or {})
    service = Service(engine, shown, limits, keeps_responses=keeps_responses)
    access = access or Access(port=0)
    with listen(access) as listener:
        port = listener.getsockname()[1]
        if send_buffer_bytes is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
        server = Server(service, access, shutdown_timeout_s=0.0)
        server.config.app = streams = Streams(server.config.app)
        thread = threading.Thread(target=asyncio.run, args=(server.serve([listener]),))
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive(), "the server did not start"
                time.sleep(0.005)
            yield Served(url=f"http://127.0.0.1:{port}", port=port, service=service, server=server, streams=streams)
        finally:
            server.begin_drain()
            thread.join()
            asyncio.run(service.__aexit__(None, None, None))
    if streams.faults:
        raise AssertionError(f"{len(streams.faults)} of {streams.num_checked} streams are wrong: {streams.faults[0]}")
