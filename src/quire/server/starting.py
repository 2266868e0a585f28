"""From the first moment to the last: the server listens while its model loads, then answers, then closes it.

the loop    listens: alive, not ready ------------+ answers ... drains | closes the engine
a thread    load() --------------------- service -+
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

from quire.server.service import Service
from quire.server.serving import Server

Load = Callable[[], Service]


async def serve_from_start(server: Server, listener: socket.socket, load: Load, on_ready: Callable[[Service], None]) -> bool:
    """Serves until the server has drained; `load` runs in a thread meanwhile, `on_ready` once its service answers.

    Raises what either raises. Returns False where the server ended first: nothing can stop the thread then but the end of the
    process.
    """
    opening = asyncio.create_task(_open(server, load, on_ready))
    await server.serve([listener])
    if not opening.done():
        opening.cancel()
        return False
    async with opening.result():
        return True


async def _open(server: Server, load: Load, on_ready: Callable[[Service], None]) -> Service:
    try:
        service = await _in_thread(load)
        server.open(service)
        on_ready(service)
    except BaseException:
        server.end()
        raise
    return service


def _in_thread(load: Load) -> asyncio.Future[Service]:
    """Returns what `load` returns or raises in a thread that the end of the process does not wait for."""
    loop = asyncio.get_running_loop()
    loaded: asyncio.Future[Service] = loop.create_future()

    def finish(service: Service | None, error: BaseException | None) -> None:
        if loaded.done():  # canceled: the server has ended
            return
        if error is not None:
            loaded.set_exception(error)
        elif service is not None:
            loaded.set_result(service)

    def run() -> None:
        service, error = None, None
        try:
            service = load()
        except BaseException as failure:
            error = failure
        with suppress(RuntimeError):  # asyncio's answer for a closed loop
            loop.call_soon_threadsafe(finish, service, error)

    threading.Thread(target=run, name="quire-load", daemon=True).start()
    return loaded
