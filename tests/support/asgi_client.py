"""Asks an ASGI application without a socket: what a server answers, in the process and the event loop of its engine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from quire.engine.async_engine import AsyncEngine
from quire.engine.options import EngineOptions
from quire.server.connection import DEPARTURE, Departure
from quire.server.limits import Limits
from quire.server.service import ServedModel, Service
from quire.server.serving import Access, Server

JSON_HEADERS = {"content-type": "application/json"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request as it reaches the application."""

    method: str = "POST"
    path: str
    query: str = ""
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=lambda: dict(JSON_HEADERS))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came back; `headers` by lower-case name."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def content(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def is_stream(self) -> bool:
        return self.headers.get("content-type", "").startswith("text/event-stream")


def posting(path: str, fields: object) -> Asked:
    """Returns a request with a JSON body."""
    return Asked(path=path, body=json.dumps(fields).encode())


async def ask(app: Any, asked: Asked, timeout_s: float = 60.0, *, leaves: bool = False) -> Reply:
    """Returns the answer; raises what the application raises, and TimeoutError where it takes too long.

    A client that `leaves` does so with the first part of the answer.
    """
    messages: list[Any] = []
    departure = Departure()

    async def receive() -> Any:
        return {"type": "http.request", "body": asked.body, "more_body": False}

    async def send(message: Any) -> None:
        messages.append(message)
        if leaves and message["type"] == "http.response.body":
            departure.come()

    scope = {**scope_of(asked), DEPARTURE: departure}
    await asyncio.wait_for(app(scope, receive, send), timeout_s)
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
        "query_string": asked.query.encode("latin-1"),
        "root_path": "",
        "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
        "state": {},
    }


class World:
    """A running application, asked from tests that are not coroutines."""

    def __init__(self, runner: asyncio.Runner, app: Any, service: Service) -> None:
        self.service, self.app = service, app
        self._runner = runner

    def run(self, *asking: Coroutine[Any, Any, Reply]) -> list[Reply]:
        """Runs coroutines together and returns their results."""

        async def run_all() -> list[Reply]:
            return await asyncio.gather(*asking)

        return self._runner.run(run_all())

    def ask(self, *asked: Asked) -> list[Reply]:
        """Returns the answers to requests that are sent together."""
        return self.run(*(ask(self.app, each) for each in asked))

    def leave(self, asked: Asked) -> None:
        """Sends a request and disconnects with the first part of its answer."""
        self._runner.run(ask(self.app, asked, leaves=True))

    def post(self, path: str, fields: object, headers: Mapping[str, str] | None = None) -> Reply:
        """Returns the answer to one request with a JSON body."""
        asked = posting(path, fields)
        (reply,) = self.ask(replace(asked, headers={**asked.headers, **(headers or {})}))
        return reply


@contextmanager
def opened_world(
    options: EngineOptions | None = None, *, access: Access | None = None, limits: Limits | None = None, model: Path | None = None
) -> Iterator[World]:
    """Runs an application in an event loop that waits between requests."""
    with asyncio.Runner() as runner:
        context = running_app(options, access=access, limits=limits, model=model)
        app, service = runner.run(context.__aenter__())
        try:
            yield World(runner, app, service)
        finally:
            runner.run(context.__aexit__(None, None, None))


@asynccontextmanager
async def running_app(
    options: EngineOptions | None = None, *, access: Access | None = None, limits: Limits | None = None, model: Path | None = None
) -> AsyncIterator[tuple[Any, Service]]:
    """Runs the application of a model (None: the bundled one) and yields it, with the state behind it."""
    engine = AsyncEngine(model, **{"threads": 1, "kv_memory": "64MiB", **(options or {})})
    async with Service(engine, ServedModel(names=("bundled",)), limits) as service:
        yield Server(service, access or Access(), shutdown_timeout_s=0.0).config.app, service
