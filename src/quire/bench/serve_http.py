"""One HTTP request and its answer, piece by piece as it arrives: enough of a client to load a server with thousands of streams.

httptools parses; this module connects, writes, and hands on what came. Every request has a connection of its own.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httptools

from quire.errors import ConfigError, QuireError

_READ_BYTES = 1 << 16


class ExchangeError(QuireError):
    """A request that got no answer, or only a part of one. `kind` is what such errors are counted under."""

    def __init__(self, kind: str, *, next_step: str = "See the server's log.") -> None:
        super().__init__(f"a request failed: {kind}", next_step=next_step)
        self.kind = kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A server: where it is, what its paths begin with, and headers that every request carries."""

    host: str
    port: int
    is_tls: bool = False
    root: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


def target_of(url: str, key: str | None = None) -> Target:
    """Returns the server of a base URL, with or without `/v1` at its end; raises ConfigError for any other text."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = 0
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ConfigError("this is not the URL of a server", given=url, next_step="Pass one such as http://127.0.0.1:8000.")
    is_tls = parts.scheme == "https"
    return Target(
        host=parts.hostname,
        port=port or (443 if is_tls else 80),
        is_tls=is_tls,
        root=parts.path.rstrip("/").removesuffix("/v1"),
        headers={} if key is None else {"authorization": f"Bearer {key}", "x-api-key": key},
    )


class Exchange:
    """An answer on its way. httptools calls the methods that begin with `on_`."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.is_complete = False
        self._reader = reader
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._has_head = False

    async def head(self) -> None:
        """Waits for the status and the headers."""
        while not self._has_head:
            await self._receive()

    async def piece(self) -> bytes:
        """Returns the next piece of the body, b"" at its end; raises ExchangeError where it is cut off."""
        while not self._body and not self.is_complete:
            await self._receive()
        body, self._body = b"".join(self._body), []
        return body

    async def rest(self) -> bytes:
        """Returns what is left of the body."""
        pieces = []
        while piece := await self.piece():
            pieces.append(piece)
        return b"".join(pieces)

    async def _receive(self) -> None:
        data = await self._reader.read(_READ_BYTES)
        if not data:
            raise ExchangeError("closed before the end")
        self._parser.feed_data(data)

    # -- called by the parser ---------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self._has_head = True

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        self.is_complete = True


@asynccontextmanager
async def exchange(target: Target, path: str, body: bytes | None = None) -> AsyncIterator[Exchange]:
    """Sends a request, a POST of JSON if it has a body, and yields its answer once the headers are here.

    Leaving the block closes the connection. Raises ExchangeError.
    """
    try:
        tls = ssl.create_default_context() if target.is_tls else None
        reader, writer = await asyncio.open_connection(target.host, target.port, ssl=tls)
    except OSError as error:
        raise ExchangeError("no connection", next_step="Check that the server runs there.") from error
    try:
        writer.write(_request(target, path, body))
        answer = Exchange(reader)
        await answer.head()
        yield answer
    except OSError as error:
        raise ExchangeError("connection reset") from error
    except httptools.HttpParserError as error:
        raise ExchangeError("not HTTP") from error
    finally:
        writer.transport.abort()


def _request(target: Target, path: str, body: bytes | None) -> bytes:
    host = f"[{target.host}]" if ":" in target.host else target.host
    headers = {"host": f"{host}:{target.port}", "user-agent": "quire-bench", **target.headers}
    if body is not None:
        headers |= {"content-type": "application/json", "content-length": str(len(body))}
    lines = [
        f"{'GET' if body is None else 'POST'} {target.root}{path} HTTP/1.1",
        *(f"{name}: {headers[name]}" for name in headers),
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")
