"""Asks an ASGI application without a socket: what a server answers, in the process and the event loop of its engine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from quire.engine.async_engine import AsyncEngine
from quire.engine.options import EngineOptions
from quire.server.limits import Limits
from quire.server.service import ServedModel, Service
from quire.server.serving import Access, application

JSON_HEADERS = {"content-type": "application/json"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request as it reaches the application."""

    method: str = "POST"
    path: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=lambda: dict(JSON_HEADERS))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came back; `headers` by lower-case name."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_stream(self) -> bool:
        return self.headers.get("content-type", "").startswith("text/event-stream")


def posting(path: str, fields: object) -> Asked:
    """Returns a request with a JSON body."""
    return Asked(path=path, body=json.dumps(fields).encode())


async def ask(app: Any, asked: Asked, timeout_s: float = 60.0) -> Reply:
    """Returns the answer; raises what the application raises, and TimeoutError where it takes too long."""
    messages: list[Any] = []
    is_read = False

    async def receive() -> Any:
        nonlocal is_read
        if is_read:
            await asyncio.Event().wait()
        is_read = True
        return {"type": "http.request", "body": asked.body, "more_body": False}

    async def send(message: Any) -> None:
        messages.append(message)

    await asyncio.wait_for(app(scope_of(asked), receive, send), timeout_s)
    start, *parts = messages
    headers = {name.decode(): value.decode("latin-1") for name, value in start["headers"]}
    return Reply(status=start["status"], headers=headers, body=b"".join(part.get("body", b"") for part in parts))


def scope_of(asked: Asked) -> dict[str, Any]:
    """Returns the scope that uvicorn would make of a request."""
    headers = {"host": "127.0.0.1", "content-length": str(len(asked.body)), **asked.headers}
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": asked.method,
        "scheme": "http",
        "path": asked.path,
        "raw_path": asked.path.encode(errors="replace"),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
        "state": {},
    }


@asynccontextmanager
async def running_app(
    options: EngineOptions | None = None, *, access: Access | None = None, limits: Limits | None = None
) -> AsyncIterator[tuple[Any, Service]]:
    """Runs the application of the bundled model and yields it, with the state behind it."""
    engine = AsyncEngine(None, **{"threads": 1, "kv_memory": "64MiB", **(options or {})})
    async with Service(engine, ServedModel(names=("bundled",)), limits) as service:
        yield application(service, access or Access()), service
