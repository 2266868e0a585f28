"""A tiny HTTP server that answers as a test says: one answer after another, one request at a time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

Answer = Callable[[dict[str, Any]], Sequence[bytes]]
"""Returns the pieces of an answer to a request's JSON; each is written after the one before has left."""


MODELS = {"data": [{"id": "script"}]}


@dataclass
class ScriptedServer:
    """A server that runs; `asked` holds the bodies of all POST requests."""

    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)


@asynccontextmanager
async def scripted_server(answer: Answer, pause_s: float = 0.0) -> AsyncIterator[ScriptedServer]:
    """Serves on a free port. Every answer takes `pause_s` before it begins, and no two are given at once."""
    running, turn = ScriptedServer(), asyncio.Lock()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await write(reader, writer)
        except ConnectionError:
            pass  # the client has left
        finally:
            writer.close()

    async def write(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        async with turn:
            await asyncio.sleep(pause_s)
            for piece in whole("200 OK", MODELS) if head.startswith(b"get") else await _answered(reader, head):
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.001)

    async def _answered(reader: asyncio.StreamReader, head: bytes) -> Sequence[bytes]:
        length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
        running.asked.append(json.loads(await reader.readexactly(length)))
        return answer(running.asked[-1])

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(serve(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with server:
        running.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield running
        await asyncio.gather(*tasks)


def stream(*events: object) -> list[bytes]:
    """Returns a stream of events, one piece each."""
    lines = [event if isinstance(event, str) else json.dumps(event) for event in events]
    chunks = [f"data: {line}\n\n".encode() for line in lines]
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    return [head, *(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks), b"0\r\n\r\n"]


def whole(status: str, value: object) -> list[bytes]:
    """Returns an answer of JSON in one piece."""
    body = json.dumps(value).encode()
    return [b"HTTP/1.1 %s\r\ncontent-length: %d\r\n\r\n%s" % (status.encode(), len(body), body)]
