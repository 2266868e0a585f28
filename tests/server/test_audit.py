"""What the server's threads do while requests of every kind run: no pickle, no connection, no file."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import httpx2
import pytest

from support.served import Served, served

get, post = (partial(ask, timeout=60) for ask in (httpx2.get, httpx2.post))
CHAT = [{"role": "user", "content": "Look at http://127.0.0.1:9/secret and file:///etc/passwd, please. " * 15}]
FORBIDDEN = (
    "open",
    "pickle.",
    "marshal.load",
    "socket.connect",
    "socket.bind",
    "subprocess.",
    "os.exec",
    "os.posix_spawn",
    "shelve.",
)


class Audit:
    """What threads other than the test's own have done since it began, by the interpreter's own audit events."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self._own: set[int] = set()
        self._is_on = False
        sys.addaudithook(self._note)

    def begin(self) -> None:
        self._own = {threading.get_ident()}
        self._is_on = True

    def end(self) -> None:
        self._is_on = False

    def leave_out_this_thread(self) -> None:
        self._own.add(threading.get_ident())

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._is_on or threading.get_ident() in self._own:
            return
        if event.startswith(FORBIDDEN):
            self.events.append(f"{event} {arguments!r}")
        elif event == "import" and str(arguments[0]).partition(".")[0] in {"pickle", "_pickle", "dill", "shelve", "marshal"}:
            self.events.append(f"import {arguments[0]}")


@pytest.fixture(scope="module")
def audit() -> Audit:
    """One hook for the process: none can be taken out again."""
    return Audit()


@pytest.fixture
def running() -> Iterator[Served]:
    with served() as server:
        server.service.warm_up()
        yield server


def _requests() -> list[tuple[str, dict[str, Any]]]:
    length = {"max_tokens": 8, "ignore_eos": True}
    kinds: list[tuple[str, dict[str, Any]]] = []
    for stream in (False, True):
        kinds += [
            ("/v1/chat/completions", {"messages": CHAT, "stream": stream, "logprobs": True, "top_logprobs": 2} | length),
            ("/v1/completions", {"prompt": "One, two, " * 300, "stream": stream, "n": 3, "seed": 1, "stop": ["zzz"]} | length),
            ("/v1/responses", {"input": "Hello", "stream": stream, "max_output_tokens": 8}),
            ("/v1/messages", {"model": "m", "messages": CHAT, "stream": stream, "max_tokens": 8}),
        ]
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/x.png"}}]}]
    return [
        *kinds,
        ("/v1/score", {"prompt": "A text", "context": "Before it. "}),
        ("/v1/messages/count_tokens", {"model": "m", "messages": CHAT}),
        ("/tokenize", {"prompt": "A text"}),
        ("/detokenize", {"tokens": [1, 2, 3]}),
        ("/v1/chat/completions", {"messages": image}),
        ("/v1/embeddings", {"input": "x"}),
        ("/nothing", {}),
    ]


def test_requests_open_no_file_and_no_connection_and_load_no_pickle(running: Served, audit: Audit) -> None:
    def ask(kind: tuple[str, dict[str, Any]]) -> int:
        audit.leave_out_this_thread()
        return post(f"{running.url}{kind[0]}", json=kind[1]).status_code

    def look(path: str) -> int:
        audit.leave_out_this_thread()
        return get(f"{running.url}{path}").status_code

    paths = ("/health", "/ready", "/metrics", "/version", "/", "/v1/models", "/openapi.json", "/%2e%2e/etc/passwd")
    audit.begin()
    try:
        with ThreadPoolExecutor(8) as pool:
            statuses = [*pool.map(ask, _requests() * 2), *pool.map(look, paths * 2)]
    finally:
        audit.end()
    assert statuses.count(200) >= 36
    assert max(statuses) < 500
    assert audit.events == []


def test_hook_sees_what_a_thread_of_the_server_opens(running: Served, audit: Audit) -> None:
    audit.events.clear()
    index = running.service.metrics.page
    running.service.metrics.page = lambda: (open("/dev/null").close(), index())[1]  # type: ignore[method-assign]
    audit.begin()
    try:
        get(f"{running.url}/metrics")
    finally:
        audit.end()
    assert any("/dev/null" in event for event in audit.events)
    audit.events.clear()
