"""Streams of `/v1/messages` while something happens: silence, errors, overload, the end of the server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import anthropic
import httpx2
import pytest

from quire.errors import ExecutorError
from quire.server.limits import Limits
from support.gated_executor import GatedExecutor
from support.served import Served, served

get, post, stream = (partial(ask, timeout=60) for ask in (httpx2.get, httpx2.post, httpx2.stream))
PING = b'event: ping\ndata: {"type":"ping"}\n\n'
STORY: Any = [{"role": "user", "content": "Tell me about the sea."}]
REQUEST = {"messages": STORY, "max_tokens": 5, "temperature": 0, "stream": True}


def _gate(running: Served) -> GatedExecutor:
    core = running.service.engine.core
    core.executor = executor = GatedExecutor(core.executor)  # type: ignore[assignment]
    return executor


@pytest.fixture
def gated() -> Iterator[tuple[Served, GatedExecutor]]:
    """A server whose steps a test can hold up, and which takes one request at a time."""
    with served(limits=Limits(heartbeat_s=0.3, open_requests=1)) as running:
        executor = _gate(running)
        try:
            yield running, executor
        finally:
            executor.gate.set()


def _client(running: Served) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=running.url, api_key="none", max_retries=0, _strict_response_validation=True)


def _last_event(body: bytes) -> tuple[str, dict[str, Any]]:
    name, data = body.decode().rstrip("\n").split("\n\n")[-1].split("\n")
    return name.removeprefix("event: "), json.loads(data.removeprefix("data: "))


def test_nothing_but_pings_comes_before_the_message_begins(gated: tuple[Served, GatedExecutor]) -> None:
    running, executor = gated
    executor.gate.clear()
    with stream("POST", f"{running.url}/v1/messages", json=REQUEST) as answer:
        assert answer.status_code == 200, "headers come before the first step is done"
        chunks = answer.iter_raw()
        early = b""
        while early.count(PING) < 2:
            early += next(chunks)
        executor.gate.set()
        rest = b"".join(chunks)
    assert early.replace(PING, b"") == b""
    assert rest.replace(PING, b"").startswith(b"event: message_start\n")
    assert _last_event(rest) == ("message_stop", {"type": "message_stop"})


def test_client_reads_over_pings(gated: tuple[Served, GatedExecutor]) -> None:
    running, executor = gated
    executor.gate.clear()
    threading.Timer(0.8, executor.gate.set).start()
    with _client(running) as client, client.messages.stream(model="any", messages=STORY, max_tokens=5) as answer:
        assert answer.get_final_message().usage.output_tokens == 5


def test_error_in_the_middle_is_an_event_of_the_stream(gated: tuple[Served, GatedExecutor]) -> None:
    running, executor = gated
    executor.gate.clear()
    with _client(running) as client:
        answer = client.messages.create(model="any", messages=STORY, max_tokens=5, stream=True)
        executor.error = ExecutorError("secret-detail", next_step="None.")
        executor.gate.set()
        with pytest.raises(anthropic.APIStatusError, match="could not compute") as caught:
            list(answer)
    assert (caught.value.type, caught.value.error_code) == ("api_error", "engine_error")
    assert "secret-detail" not in str(caught.value)


def test_error_before_an_answer_is_a_500(gated: tuple[Served, GatedExecutor]) -> None:
    running, executor = gated
    executor.error = ExecutorError("secret-detail", next_step="None.")
    with _client(running) as client, pytest.raises(anthropic.InternalServerError) as caught:
        client.messages.create(model="any", messages=STORY, max_tokens=5)
    assert (caught.value.status_code, caught.value.type) == (500, "api_error")
    assert "secret-detail" not in str(caught.value)


def test_overload_is_a_429_of_its_type(gated: tuple[Served, GatedExecutor]) -> None:
    running, executor = gated
    executor.gate.clear()
    with stream("POST", f"{running.url}/v1/messages", json=REQUEST) as answer, _client(running) as client:
        for is_streamed in (False, True):
            with pytest.raises(anthropic.RateLimitError) as caught:
                client.messages.create(model="any", messages=STORY, max_tokens=5, stream=is_streamed)
            assert caught.value.type == "rate_limit_error"
            assert 1 <= int(caught.value.response.headers["retry-after"]) <= 120
        executor.gate.set()
        assert _last_event(answer.read())[0] == "message_stop"


def test_end_of_the_server_is_told_in_the_stream_and_by_a_503() -> None:
    with served() as running:
        executor = _gate(running)
        executor.gate.clear()
        with stream("POST", f"{running.url}/v1/messages", json=REQUEST) as answer:
            running.server.begin_drain()
            name, event = _last_event(answer.read())
        executor.gate.set()
    assert (name, event["error"]["type"]) == ("error", "overloaded_error")
    assert event["error"]["details"]["error_code"] == "shutting_down"


def test_new_request_is_refused_while_the_server_ends() -> None:
    with served() as running:
        executor = _gate(running)
        executor.gate.clear()
        running.server.shutdown_timeout_s = 30.0
        with stream("POST", f"{running.url}/v1/messages", json=REQUEST) as answer:
            running.server.begin_drain()
            refused = post(f"{running.url}/v1/messages", json=REQUEST)
            assert (refused.status_code, refused.json()["error"]["type"]) == (503, "overloaded_error")
            executor.gate.set()
            assert _last_event(answer.read())[0] == "message_stop"
