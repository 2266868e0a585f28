"""From loading to the end: what a server says while its model loads, and how it drains, alone and under fifty streams."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx2
import pytest

from quire.engine.async_engine import AsyncEngine
from quire.errors import ModelNotFoundError
from quire.server.auth import MIN_KEY_CHARS
from quire.server.observer import Observer
from quire.server.service import ServedModel, Service
from quire.server.serving import Access, Server, listen
from quire.server.starting import Load, serve_from_start
from support.serve_process import serving, url_in
from support.served import served
from support.stream_rules import data_of

get, post, stream = (partial(ask, timeout=60) for ask in (httpx2.get, httpx2.post, httpx2.stream))
KEY = "k" * MIN_KEY_CHARS
AUTH = {"authorization": f"Bearer {KEY}"}
COUNT = {"prompt": "Count: one, two,", "ignore_eos": True, "temperature": 0, "stream": True}
ROOM = ("--kv-memory", "512MiB")
"""Blocks for fifty long answers at once."""

_SLOW_START = """
import sys, time
from pathlib import Path
import quire.cli.serve as serve
from quire.cli.main import main

flag, load = Path(sys.argv.pop(1)), serve._load

def wait_and_load(*arguments):
    while not flag.exists():
        time.sleep(0.01)
    return load(*arguments)

serve._load = wait_and_load
main()
"""


def _until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class Start:
    """A server that has begun in a thread, with what came of it."""

    def __init__(self, load: Load, on_ready: Callable[[Service], None], access: Access, observer: Observer) -> None:
        self.listener = listen(access)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.server = Server(None, access, 30.0, observer)
        self.result: bool | BaseException | None = None
        self._load, self._on_ready = load, on_ready
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        _until(lambda: self.server.started or not self.thread.is_alive())

    def _run(self) -> None:
        try:
            self.result = asyncio.run(serve_from_start(self.server, self.listener, self._load, self._on_ready))
        except BaseException as error:
            self.result = error


@contextmanager
def started(
    load: Load, on_ready: Callable[[Service], None] = lambda _: None, observer: Observer | None = None
) -> Iterator[Start]:
    start = Start(load, on_ready, Access(port=0, keys=(KEY,)), observer or Observer())
    try:
        yield start
    finally:
        start.server.end()
        start.thread.join()
        start.listener.close()


def test_server_that_loads_is_alive_and_says_when_to_come_back() -> None:
    may_load, observer = threading.Event(), Observer()

    def load() -> Service:
        may_load.wait(60)
        return Service(AsyncEngine(threads=1, kv_memory="64MiB"), ServedModel(names=("bundled",)), observer=observer)

    with started(load, observer=observer) as start:
        health, ready = get(f"{start.url}/health"), get(f"{start.url}/ready")
        assert (health.status_code, health.json()) == (200, {"status": "loading"})
        assert (ready.status_code, ready.json()["reason"]) == (503, "the model is loading")
        assert get(f"{start.url}/v1/models").status_code == 401, "keys count from the first moment"
        for path, fields in (("/v1/completions", COUNT), ("/v1/messages", {}), ("/tokenize", {})):
            refused = post(f"{start.url}{path}", json=fields, headers=AUTH)
            assert (refused.status_code, refused.headers["retry-after"], refused.headers["retry-after-ms"]) == (503, "5", "5000")
            assert "the model is loading" in refused.json()["error"]["message"]
        may_load.set()
        _until(lambda: get(f"{start.url}/ready").status_code == 200)
        answer = post(f"{start.url}/v1/completions", json=COUNT | {"stream": False, "max_tokens": 2}, headers=AUTH)
        assert answer.status_code == 200
        assert 'quire_rejected_total{reason="loading"} 3.0' in get(f"{start.url}/metrics", headers=AUTH).text
    assert start.result is True


def test_end_while_the_model_loads_waits_for_nothing() -> None:
    may_load = threading.Event()

    def load() -> Service:
        may_load.wait(60)
        raise ModelNotFoundError("late", next_step="None.")

    with started(load) as start:
        start.server.begin_drain()
        start.thread.join(30)
        assert start.result is False
    may_load.set()


def test_model_that_cannot_be_loaded_ends_the_server_with_its_error() -> None:
    def load() -> Service:
        raise ModelNotFoundError("there is none", next_step="None.")

    with started(load) as start:
        start.thread.join(30)
        assert isinstance(start.result, ModelNotFoundError)


@pytest.fixture
def slow_start(tmp_path: Path) -> tuple[tuple[str, ...], Path]:
    """The arguments of Python for a server that loads its model once a file exists, and that file."""
    flag, program = tmp_path / "load", tmp_path / "slow.py"
    program.write_text(_SLOW_START)
    return (str(program), str(flag)), flag


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_while_the_model_loads_ends_the_process(slow_start: tuple[tuple[str, ...], Path], number: signal.Signals) -> None:
    program, _ = slow_start
    with serving(program=program, last_line="listening at") as (process, lines):
        assert get(f"{url_in(lines)}/health").json() == {"status": "loading"}
        process.send_signal(number)
        assert process.wait(30) == 0


def _read_stream(url: str, num_tokens: int) -> bytes:
    with stream("POST", f"{url}/v1/completions", json=COUNT | {"max_tokens": num_tokens}) as answer:
        return answer.read()


def _has_children(process: subprocess.Popen[str]) -> bool:
    return any(Path(task, "children").read_text().strip() for task in Path(f"/proc/{process.pid}/task").iterdir())


def test_sigterm_lets_fifty_streams_finish_and_leaves_nothing() -> None:
    with serving("--shutdown-timeout", "100", *ROOM) as (process, lines), ThreadPoolExecutor(50) as pool:
        url = url_in(lines)
        with httpx2.Client(base_url=url, timeout=60) as client:
            answers = [pool.submit(_read_stream, url, 150) for _ in range(50)]
            _until(lambda: 'quire_requests{state="running"} 50.0' in client.get("/metrics").text)
            assert not _has_children(process)
            process.send_signal(signal.SIGTERM)
            _until(lambda: client.get("/ready").status_code == 503)
            assert post(f"{url}/v1/completions", json=COUNT).json()["error"]["code"] == "shutting_down"
        for answer in answers:
            events = data_of(answer.result())
            assert events[-1] == "[DONE]"
            assert json.loads(events[-2])["choices"][0]["finish_reason"] == "length"
        assert process.wait(60) == 0


@pytest.mark.parametrize("is_second_signal", [False, True])
def test_fifty_streams_that_are_cut_end_with_an_error_event(is_second_signal: bool) -> None:
    timeout = "60" if is_second_signal else "0.3"
    with serving("--shutdown-timeout", timeout, *ROOM) as (process, lines), ThreadPoolExecutor(50) as pool:
        url = url_in(lines)
        answers = [pool.submit(_read_stream, url, 2000) for _ in range(50)]
        _until(lambda: 'quire_requests{state="running"} 50.0' in get(f"{url}/metrics").text)
        process.send_signal(signal.SIGTERM)
        if is_second_signal:
            _until(lambda: get(f"{url}/ready").status_code == 503)
            process.send_signal(signal.SIGTERM)
        for answer in answers:
            events = data_of(answer.result())
            assert json.loads(events[-2])["error"]["code"] == "shutting_down"
        assert process.wait(60) == 0


def test_no_thread_and_no_descriptor_outlives_a_server() -> None:
    with served() as server:  # what is opened once in a process is open from here on
        post(f"{server.url}/v1/completions", json=COUNT | {"max_tokens": 2, "prompt": "many words " * 900})
    threads, descriptors = set(threading.enumerate()), len(os.listdir("/proc/self/fd"))
    with served() as server:
        post(f"{server.url}/v1/completions", json=COUNT | {"max_tokens": 2, "prompt": "many words " * 900})
    _until(lambda: set(threading.enumerate()) <= threads)
    assert len(os.listdir("/proc/self/fd")) <= descriptors
