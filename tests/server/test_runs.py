"""Requests in progress: disconnects, heartbeats, errors in the middle, overload, shutdown."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import httpx2
import openai
import pytest

from quire.errors import ExecutorError
from quire.server.limits import Limits
from support.gated_executor import GatedExecutor
from support.served import Served, served
from support.stream_rules import data_of

get, post, stream = (partial(ask, timeout=60) for ask in (httpx2.get, httpx2.post, httpx2.stream))
LONG = {"prompt": "Count: one, two,", "max_tokens": 1900, "ignore_eos": True, "temperature": 0}
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
LIMITS = Limits(heartbeat_s=0.3, open_requests=3, stall_s=0.5)


@pytest.fixture
def gated() -> Iterator[tuple[Served, GatedExecutor]]:
    """A server whose steps a test can hold up."""
    with served(limits=LIMITS) as running:
        core = running.service.engine.core
        core.executor = executor = GatedExecutor(core.executor)  # type: ignore[assignment]
        try:
            yield running, executor
        finally:
            executor.gate.set()


def _until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def _is_at_rest(running: Served) -> bool:
    scheduler = running.service.engine.core.scheduler
    return (
        running.service.runs.num_open == 0
        and not scheduler.has_work
        and scheduler.manager.pool.num_free == scheduler.manager.pool.num_blocks
    )


def _ask(running: Served, fields: dict[str, object]) -> socket.socket:
    """Sends a completion request and returns its connection."""
    body = json.dumps(fields).encode()
    connection = socket.create_connection(("127.0.0.1", running.port), timeout=60)
    connection.sendall(HEAD % len(body) + body)
    return connection


@pytest.mark.parametrize("is_streamed", [False, True])
def test_disconnect_ends_the_request_and_keeps_its_prefix(server: Served, is_streamed: bool) -> None:
    many = LONG | {"stream": is_streamed, "n": 32, "temperature": 1}
    with _ask(server, many) as connection:
        _until(lambda: server.service.runs.num_open > 0)
        if is_streamed:
            assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")
    _until(lambda: _is_at_rest(server))


def test_disconnect_while_a_prompt_is_computed_keeps_what_was_computed(server: Served) -> None:
    prompt = "A tale of many words. " * 120
    fields = {"prompt": prompt, "max_tokens": 1000, "ignore_eos": True, "stream": True}
    with _ask(server, fields) as connection:
        assert b"data: " in connection.recv(65_536) + connection.recv(65_536)
    _until(lambda: _is_at_rest(server))
    again = post(f"{server.url}/v1/completions", json={"prompt": prompt, "max_tokens": 1}).json()["usage"]
    assert again["prompt_tokens_details"]["cached_tokens"] >= again["prompt_tokens"] // 32 * 32 - 32


def test_disconnect_before_the_first_step_is_noticed(gated: tuple[Served, GatedExecutor]) -> None:
    running, executor = gated
    executor.gate.clear()
    with _ask(running, LONG), _ask(running, LONG | {"stream": True}):
        _until(lambda: running.service.runs.num_open == 2)
    _until(lambda: running.service.runs.num_open == 0)
    executor.gate.set()
    _until(lambda: _is_at_rest(running))


def test_stream_is_never_silent(gated: tuple[Served, GatedExecutor]) -> None:
    running, executor = gated
    ping = b": ping\n\n"
    executor.gate.clear()
    with stream("POST", f"{running.url}/v1/completions", json=LONG | {"stream": True, "max_tokens": 3}) as answer:
        assert answer.status_code == 200, "headers come before the first step is done"
        chunks = answer.iter_raw()
        early = b""
        while early.count(ping) < 2:
            early += next(chunks)
        executor.gate.set()
        rest = b"".join(chunks)
    assert early.replace(ping, b"") == b""
    assert data_of(rest)[-1] == "[DONE]"


def test_error_in_the_middle_is_an_event_of_the_stream(gated: tuple[Served, GatedExecutor]) -> None:
    running, executor = gated
    client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)
    executor.gate.clear()
    with client:
        answer = client.chat.completions.create(model="any", messages=[{"role": "user", "content": "Hi"}], stream=True)
        executor.error = ExecutorError("secret-detail", next_step="None.")
        executor.gate.set()
        with pytest.raises(openai.APIError, match="could not compute") as caught:
            list(answer)
    assert "secret-detail" not in str(caught.value)
    executor.error = None
    _until(lambda: _is_at_rest(running))
    assert post(f"{running.url}/v1/completions", json=LONG | {"max_tokens": 1}).status_code == 200


def test_error_before_an_answer_is_a_500(gated: tuple[Served, GatedExecutor]) -> None:
    running, executor = gated
    executor.error = ExecutorError("secret-detail", next_step="None.")
    answer = post(f"{running.url}/v1/completions", json=LONG)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "engine_error")
    assert "secret-detail" not in answer.text


def test_overload_is_a_429_with_a_time_and_what_was_admitted_is_answered(gated: tuple[Served, GatedExecutor]) -> None:
    running, executor = gated
    executor.gate.clear()
    answers: list[int] = []

    def ask() -> None:
        answers.append(post(f"{running.url}/v1/completions", json=LONG | {"max_tokens": 5}).status_code)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    _until(lambda: running.service.runs.num_open == 3)
    for fields in (LONG, LONG | {"stream": True}):
        refused = post(f"{running.url}/v1/completions", json=fields)
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 120
        assert refused.headers["retry-after-ms"] == str(int(refused.headers["retry-after"]) * 1000)
        assert refused.json()["error"]["type"] == "rate_limit_error"
    executor.gate.set()
    for thread in threads:
        thread.join()
    assert answers == [200] * 3


def test_long_bodies_are_refused_unread_once_tokens_are_short() -> None:
    words = "one two three four five six seven eight nine ten "
    with served(limits=Limits(open_tokens=400)) as running:
        core = running.service.engine.core
        core.executor = executor = GatedExecutor(core.executor)  # type: ignore[assignment]
        executor.gate.clear()
        with _ask(running, LONG | {"prompt": words * 20, "max_tokens": 1}):
            _until(lambda: running.service.runs.num_open == 1)
            refused = post(f"{running.url}/v1/completions", json=LONG | {"prompt": words * 25})
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "overloaded")
            with socket.create_connection(("127.0.0.1", running.port), timeout=60) as connection:
                connection.sendall(HEAD % 9999)  # and no body
                assert connection.recv(4096).startswith(b"HTTP/1.1 429 ")
            executor.gate.set()
            _until(lambda: running.service.runs.num_open == 0)
        assert post(f"{running.url}/v1/completions", json=LONG | {"prompt": words * 25, "max_tokens": 1}).status_code == 200


def test_several_choices_count_as_several(gated: tuple[Served, GatedExecutor]) -> None:
    running, executor = gated
    executor.gate.clear()
    with _ask(running, LONG):
        _until(lambda: running.service.runs.num_open == 1)
        assert post(f"{running.url}/v1/completions", json=LONG | {"temperature": 1, "n": 3}).status_code == 429


def test_stalled_engine_is_told_by_health(gated: tuple[Served, GatedExecutor]) -> None:
    running, executor = gated
    assert get(f"{running.url}/health").status_code == 200
    executor.gate.clear()
    with _ask(running, LONG):
        _until(lambda: get(f"{running.url}/health").status_code == 503)
        assert get(f"{running.url}/ready").status_code == 503
        executor.gate.set()
        _until(lambda: get(f"{running.url}/health").status_code == 200)


def test_dead_engine_is_told_by_health_and_by_every_request(gated: tuple[Served, GatedExecutor]) -> None:
    running, _ = gated
    core = running.service.engine.core
    core.step = lambda: 1 / 0  # type: ignore[method-assign, assignment, return-value]
    assert post(f"{running.url}/v1/completions", json=LONG).status_code == 500
    health = get(f"{running.url}/health")
    assert (health.status_code, health.json()["reason"]) == (503, "the engine has ended")
    assert post(f"{running.url}/v1/completions", json=LONG).status_code == 500


def test_drain_lets_streams_end_and_refuses_what_is_new() -> None:
    with served() as running:
        core = running.service.engine.core
        core.executor = executor = GatedExecutor(core.executor)  # type: ignore[assignment]
        executor.gate.clear()
        running.server.shutdown_timeout_s = 30.0
        with stream("POST", f"{running.url}/v1/completions", json=LONG | {"stream": True, "max_tokens": 5}) as answer:
            running.server.begin_drain()
            assert get(f"{running.url}/ready").status_code == 503
            assert get(f"{running.url}/health").status_code == 200
            refused = post(f"{running.url}/v1/completions", json=LONG)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
            executor.gate.set()
            assert data_of(answer.read())[-1] == "[DONE]"


def test_end_of_the_drain_cuts_streams_with_an_error_event() -> None:
    with served() as running:
        core = running.service.engine.core
        core.executor = executor = GatedExecutor(core.executor)  # type: ignore[assignment]
        executor.gate.clear()
        with stream("POST", f"{running.url}/v1/completions", json=LONG | {"stream": True}) as answer:
            running.server.begin_drain()
            events = data_of(answer.read())
        executor.gate.set()
    assert json.loads(events[0])["error"]["code"] == "shutting_down"
    assert events[1:] == ["[DONE]"]
