"""Clients of a server under load. They run in a process of their own, so that they take no turn from the server's threads."""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, TypeVar

from quire.bench.serve_apis import APIS, ChatApi, News
from quire.bench.serve_http import ExchangeError, Target, exchange, target_of
from quire.bench.serve_request import Outcome, measured

Request = Mapping[str, Any]
"""The JSON of a chat request; it streams and asks for its usage."""

Numbered = tuple[int, Outcome]
"""The number of a request in its list, and what became of it."""

_Result = TypeVar("_Result")


class AsGiven(ChatApi):
    """Chat requests that are sent as they are."""

    def fields(self, ask: Any) -> dict[str, Any]:
        return dict(ask)


def client_process() -> ProcessPoolExecutor:
    """Returns another process for functions of this module."""
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=raise_descriptor_limit)


def in_process(job: Callable[..., _Result], *arguments: Any) -> Future[_Result]:
    """Runs a function of this module in a process of its own."""
    pool = client_process()
    future = pool.submit(job, *arguments)
    future.add_done_callback(lambda _: pool.shutdown(wait=False))
    return future


def raise_descriptor_limit() -> None:
    """Lets this process open as many sockets as the system allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def ask_all(url: str, requests: Sequence[Request], num: int) -> list[Numbered]:
    """Sends `num` requests at once, the same ones again and again."""

    async def run() -> list[Numbered]:
        numbers = [idx % len(requests) for idx in range(num)]
        outcomes = await asyncio.gather(*(_ask(url, requests[number]) for number in numbers))
        return list(zip(numbers, outcomes, strict=True))

    return asyncio.run(run())


def closed_loop(
    url: str, requests: Sequence[Request], num_clients: int, seconds: float, key: str | None = None
) -> list[Numbered]:
    """Sends requests in turn from so many clients for a while. One that has a `cache_salt` gets a new one each time."""
    found: list[Numbered] = []

    async def client(first: int, end_s: float) -> None:
        number = first
        while time.monotonic() < end_s:
            request = requests[number % len(requests)]
            fresh = {**request, "cache_salt": f"{number}"} if "cache_salt" in request else request
            found.append((number % len(requests), await _ask(url, fresh, key=key)))
            number += num_clients

    async def run() -> None:
        end_s = time.monotonic() + seconds
        await asyncio.gather(*(client(first, end_s) for first in range(num_clients)))

    asyncio.run(run())
    return found


def open_loop(url: str, requests: Sequence[Request], rate: float, seconds: float) -> list[Numbered]:
    """Sends requests at random times, `rate` per second, and waits for their ends."""

    async def run() -> list[Numbered]:
        draws, numbers, tasks = random.Random(1), [], []
        began_s = at_s = time.monotonic()
        while (at_s := at_s + draws.expovariate(rate)) < began_s + seconds:
            await asyncio.sleep(at_s - time.monotonic())
            numbers.append(len(numbers) % len(requests))
            tasks.append(asyncio.create_task(_ask(url, requests[numbers[-1]], at_s)))
        return list(zip(numbers, await asyncio.gather(*tasks), strict=True))

    return asyncio.run(run())


def storm(url: str, requests: Sequence[Request], num: int, seconds: float) -> int:
    """Sends requests and leaves each at a random moment, some before they are whole; returns how many had answers by then."""

    async def client(draws: random.Random) -> bool:
        await asyncio.sleep(draws.uniform(0, seconds))
        task = asyncio.create_task(_leave_early(url, draws.choice(requests), draws))
        await asyncio.wait([task], timeout=draws.expovariate(1.0))
        task.cancel()
        await asyncio.wait([task])
        return not task.cancelled() and task.exception() is None and task.result()

    async def run() -> int:
        return sum(await asyncio.gather(*(client(random.Random(number)) for number in range(num))))

    return asyncio.run(run())


async def _leave_early(url: str, request: Request, draws: random.Random) -> bool:
    if draws.random() < 0.2:
        target = target_of(url)
        _, writer = await asyncio.open_connection(target.host, target.port)
        try:
            whole = _raw(request)
            writer.write(whole[: draws.randrange(len(whole))])
            await asyncio.sleep(10)
        finally:
            writer.transport.abort()
    outcome = await _ask(url, request)
    return outcome.error is None


def leave_after_first_text(url: str, requests: Sequence[Request]) -> list[bool]:
    """Sends requests one after the other and leaves each at its first text; returns whether there was one."""

    async def leave(request: Request) -> bool:
        try:
            async with exchange(target_of(url), ChatApi.path, json.dumps(dict(request)).encode()) as answer:
                while piece := await answer.piece():
                    if b'"content":"' in piece and b'"content":""' not in piece:
                        return True
        except ExchangeError:
            pass
        return False

    async def run() -> list[bool]:
        return [await leave(request) for request in requests]

    return asyncio.run(run())


def attack(url: str, request: Request, kind: str, num: int, patience_s: float) -> list[float | None]:
    """Opens slow connections of one kind; returns after how many seconds each was cut, None for one that was not."""

    async def run() -> list[float | None]:
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*(loop.run_in_executor(None, _SLOW[kind], url, request, patience_s) for _ in range(num)))

    return asyncio.run(run())


def end_amid(url: str, requests: Sequence[Request], num: int, process_id: int) -> tuple[list[Numbered], float]:
    """Opens streams, ends the server's process with SIGTERM once all of them have begun, and lets them come to their end.

    Returns them, and the seconds until `/ready` did not say yes.
    """

    async def run() -> tuple[list[Numbered], float]:
        target, apis = target_of(url), [_Begun() for _ in range(num)]
        numbers = [idx % len(requests) for idx in range(num)]
        tasks = [
            asyncio.create_task(measured(target, api, requests[number]))  # type: ignore[arg-type]
            for api, number in zip(apis, numbers, strict=True)
        ]
        while not all(api.has_begun for api in apis):
            await asyncio.sleep(0.01)
        os.kill(process_id, signal.SIGTERM)
        off_s = await _seconds_until_unready(target)
        return list(zip(numbers, await asyncio.gather(*tasks), strict=True)), off_s

    return asyncio.run(run())


class _Begun(AsGiven):
    """Notes whether a stream has begun."""

    has_begun = False

    def news(self, data: str) -> News:
        self.has_begun = True
        return super().news(data)


async def _seconds_until_unready(target: Target) -> float:
    began_s = time.monotonic()
    while True:
        try:
            async with exchange(target, "/ready") as answer:
                if answer.status != 200:
                    break
        except ExchangeError:
            break
    return time.monotonic() - began_s


def silences(url: str, path: str, fields: Mapping[str, Any]) -> tuple[float, float, int, str | None]:
    """Returns of one stream its longest silence, its length in seconds, its pieces, and an error."""

    async def run() -> tuple[float, float, int, str | None]:
        began_s = last_s = time.monotonic()
        longest, num_pieces = 0.0, 0
        try:
            async with exchange(target_of(url), path, json.dumps(dict(fields)).encode()) as answer:
                if answer.status != 200:
                    return 0.0, 0.0, 0, f"HTTP {answer.status}"
                while await answer.piece():
                    now_s = time.monotonic()
                    longest, last_s, num_pieces = max(longest, now_s - last_s), now_s, num_pieces + 1
        except ExchangeError as error:
            return longest, time.monotonic() - began_s, num_pieces, error.kind
        return longest, time.monotonic() - began_s, num_pieces, None

    return asyncio.run(run())


async def _ask(url: str, request: Request, intended_s: float | None = None, *, key: str | None = None) -> Outcome:
    return await measured(target_of(url, key), AsGiven(), request, intended_s)  # type: ignore[arg-type]


def _raw(request: Request) -> bytes:
    body = json.dumps(dict(request)).encode()
    head = (
        f"POST {APIS['chat'].path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    )
    return head.encode() + b"\r\n\r\n" + body


def _connect(url: str, receive_bytes: int | None = None) -> socket.socket:
    target = target_of(url)
    connection = socket.socket()
    if receive_bytes is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    connection.settimeout(30)
    connection.connect((target.host, target.port))
    return connection


def _drip(url: str, whole: bytes, at_once: int, patience_s: float) -> float | None:
    """Sends the beginning of a request, then a byte at a time; returns when the server ended it."""
    with _connect(url) as connection:
        began_s = time.monotonic()
        connection.sendall(whole[:at_once])
        connection.settimeout(0.25)
        for idx in range(at_once, len(whole)):
            try:
                connection.sendall(whole[idx : idx + 1])
                if not connection.recv(4096):
                    return time.monotonic() - began_s
            except TimeoutError:
                pass
            except OSError:
                return time.monotonic() - began_s
            if time.monotonic() - began_s > patience_s:
                return None
    return None


def _slow_head(url: str, request: Request, patience_s: float) -> float | None:
    return _drip(url, _raw(request), 10, patience_s)


def _slow_body(url: str, request: Request, patience_s: float) -> float | None:
    whole = _raw({**request, "user": "x" * 2000})
    return _drip(url, whole, whole.index(b"\r\n\r\n") + 5, patience_s)


def _slow_reader(url: str, request: Request, patience_s: float) -> float | None:
    """Asks for a long stream and reads nothing; a connection that was cut cannot be written to."""
    with _connect(url, receive_bytes=2048) as connection:
        began_s = time.monotonic()
        connection.sendall(_raw({**request, "max_tokens": 1900, "ignore_eos": True}))
        while time.monotonic() - began_s < patience_s:
            time.sleep(0.25)
            try:
                connection.sendall(b"\r\n")
            except OSError:
                return time.monotonic() - began_s
    return None


_SLOW = {"head": _slow_head, "body": _slow_body, "reader": _slow_reader}
