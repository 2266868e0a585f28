"""Responses in progress: many at once, silence, errors, disconnects, and what of these is kept."""

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

from quire.engine.llm import LLM
from quire.errors import ExecutorError
from quire.sampling import SamplingParams
from quire.server.limits import Limits
from support.gated_executor import GatedExecutor
from support.responses_rules import response_events
from support.served import Served, served

post, stream = (partial(ask, timeout=60) for ask in (httpx2.post, httpx2.stream))
ASKED = {"input": "Count: one, two,", "temperature": 0, "max_output_tokens": 40, "ignore_eos": True}


@pytest.fixture
def gated() -> Iterator[tuple[Served, GatedExecutor]]:
    """A server whose steps a test can hold up."""
    with served(limits=Limits(heartbeat_s=0.3)) as running:
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


def _num_stored(running: Served) -> int:
    assert running.service.stored is not None
    return running.service.stored.num_responses


def test_sixteen_at_once_get_what_the_library_gives_each_alone(server: Served, llm: LLM) -> None:
    wishes = [{"input": f"Tell me about the number {number}.", "temperature": number % 2, "seed": number} for number in range(16)]
    texts: dict[int, str] = {}

    def ask(number: int) -> None:
        fields = {**wishes[number], "max_output_tokens": 24, "stream": number % 4 < 2}
        answer = post(f"{server.url}/v1/responses", json=fields)
        body = response_events(answer.content)[-1]["response"] if fields["stream"] else answer.json()
        texts[number] = body["output"][0]["content"][0]["text"]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, wish in enumerate(wishes):
        params = SamplingParams(temperature=wish["temperature"], seed=number, max_tokens=24)
        (expected,) = llm.chat([{"role": "user", "content": wish["input"]}], params)
        assert texts[number] == expected.outputs[0].text


def test_stream_is_never_silent_and_its_heartbeat_has_a_name(gated: tuple[Served, GatedExecutor]) -> None:
    running, executor = gated
    executor.gate.clear()
    with stream("POST", f"{running.url}/v1/responses", json=ASKED | {"stream": True}) as answer:
        chunks = answer.iter_raw()
        early = b""
        while early.count(b"event: response.in_progress\n") < 3:
            early += next(chunks)
        executor.gate.set()
        events = response_events(early + b"".join(chunks))
    assert [event["type"] for event in events[:4]] == ["response.created", *["response.in_progress"] * 3]
    assert events[-1]["type"] == "response.incomplete"


def test_progress_of_a_prompt_is_told_where_it_is_asked_for(server: Served) -> None:
    fields = ASKED | {"input": "A tale of many words. " * 100, "max_output_tokens": 1, "stream": True}
    silent, told = (
        response_events(post(f"{server.url}/v1/responses", json=fields | extra).content)
        for extra in ({"cache_salt": "a"}, {"cache_salt": "b", "return_progress": True})
    )
    assert not any("prompt_progress" in event for event in silent)
    progress = [event["prompt_progress"] for event in told if "prompt_progress" in event]
    num_prompt = told[-1]["response"]["usage"]["input_tokens"]
    assert [(each["total"], each["cache"]) for each in progress] == [(num_prompt, 0)] * len(progress)
    assert [each["processed"] for each in progress] == sorted(each["processed"] for each in progress)
    assert progress[-1]["processed"] == num_prompt


def test_error_in_the_middle_is_a_failed_response(gated: tuple[Served, GatedExecutor]) -> None:
    running, executor = gated
    executor.gate.clear()
    asking = openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0, _strict_response_validation=True)
    with asking:
        answer = asking.responses.create(model="any", input="Hi", stream=True)
        executor.error = ExecutorError("secret-detail", next_step="None.")
        executor.gate.set()
        *_, last = answer
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert (last.response.status, last.response.error.code) == ("failed", "server_error")
    assert "could not compute" in last.response.error.message
    assert "secret-detail" not in last.response.error.message
    assert _num_stored(running) == 0


@pytest.mark.parametrize("is_streamed", [True, False])
def test_response_of_a_client_that_disconnects_is_not_kept(gated: tuple[Served, GatedExecutor], is_streamed: bool) -> None:
    running, executor = gated
    executor.gate.clear()
    with _ask(running, ASKED | {"stream": is_streamed}):
        _until(lambda: running.service.runs.num_open == 1)
    _until(lambda: running.service.runs.num_open == 0)
    executor.gate.set()
    assert _num_stored(running) == 0
    assert post(f"{running.url}/v1/responses", json=ASKED).json()["status"] == "incomplete"
    assert _num_stored(running) == 1


def _ask(running: Served, fields: dict[str, object]) -> socket.socket:
    """Sends a request and returns its connection."""
    body = json.dumps(fields).encode()
    head = b"POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    connection = socket.create_connection(("127.0.0.1", running.port), timeout=60)
    connection.sendall(head % len(body) + body)
    return connection


def test_drain_fails_what_runs_at_its_end() -> None:
    with served() as running:
        core = running.service.engine.core
        core.executor = executor = GatedExecutor(core.executor)  # type: ignore[assignment]
        executor.gate.clear()
        with stream("POST", f"{running.url}/v1/responses", json=ASKED | {"stream": True}) as answer:
            running.server.begin_drain()
            events = response_events(answer.read())
        executor.gate.set()
    assert events[-1]["type"] == "response.failed"
    assert events[-1]["response"]["error"]["message"].startswith("the server is shutting down")


def test_long_conversation_behind_a_short_body_is_read_by_a_worker(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    run = server.service.workers.run

    async def noted(num_bytes: int, job: Callable[[], object]) -> object:
        sizes.append(num_bytes)
        return await run(num_bytes, job)

    first = post(f"{server.url}/v1/responses", json=ASKED | {"input": "word " * 1500, "max_output_tokens": 1}).json()
    monkeypatch.setattr(server.service.workers, "run", noted)
    second = post(f"{server.url}/v1/responses", json=ASKED | {"previous_response_id": first["id"], "max_output_tokens": 1})
    assert second.status_code == 200
    assert sizes[0] < 300
    assert sizes[1] > 5 * 1500
