"""Requests to `/v1/messages` that no client should send: each gets a small error of its API, none a 5xx, and no echo."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import anthropic
import httpx2
import pytest

from quire.server.serving import Access
from support.served import Served, served

MARKER = "s3cret_marker"
PATHS = ("/v1/messages", "/v1/messages/count_tokens")
GOOD = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
VALUES: dict[str, object] = {
    "null": None,
    "true": True,
    "zero": 0,
    "minus": -1,
    "large": 2**62,
    "fraction": 0.5,
    "empty": "",
    "text": MARKER,
    "long text": MARKER * 2000,
    "list": [MARKER],
    "objects": [{MARKER: MARKER}],
    "typed": [{"type": MARKER, "name": MARKER, "text": MARKER}],
    "nested": [[[MARKER]]],
    "object": {MARKER: MARKER},
    "type": {"type": MARKER},
    "many": list(range(5000)),
}
FIELDS = (
    "model", "messages", "system", "max_tokens", "stop_sequences", "stream", "temperature", "top_p", "top_k", "thinking",
    "output_config", "output_format", "tools", "tool_choice", "diagnostics", "metadata", "container", "mcp_servers",
    "context_management", "cache_control", "service_tier", "n", "stop", "seed", "stream_options", "cache_salt", "priority",
)  # fmt: skip
BLOCKS = {
    "text": ("text", "citations"),
    "document": ("source", "title", "context"),
    "search_result": ("content", "title", "source"),
    "thinking": ("thinking", "signature"),
    "redacted_thinking": ("data",),
    "tool_use": ("id", "name", "input"),
    "tool_result": ("tool_use_id", "content", "is_error"),
}


def _check(answer: httpx2.Response) -> None:
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        assert len(answer.content) <= 4096
        assert MARKER not in answer.text
        body = answer.json()
        assert (body["type"], body["request_id"]) == ("error", answer.headers["request-id"])
        assert isinstance(body["error"]["message"], str)


@pytest.mark.parametrize("field", FIELDS)
def test_any_value_in_any_field_is_answered_or_refused(http: httpx2.Client, field: str) -> None:
    for path, value in product(PATHS, VALUES.values()):
        _check(http.post(path, json={**GOOD, field: value}))


@pytest.mark.parametrize("kind", BLOCKS)
def test_any_value_in_any_block_is_answered_or_refused(http: httpx2.Client, kind: str) -> None:
    for name, value, role in product(BLOCKS[kind], VALUES.values(), ("user", "assistant", "system")):
        block = {"type": kind, **dict.fromkeys(BLOCKS[kind], "x"), name: value}
        _check(http.post(PATHS[1], json={"messages": [{"role": role, "content": [block]}]}))


@pytest.mark.parametrize("value", VALUES)
def test_any_value_as_a_message_is_answered_or_refused(http: httpx2.Client, value: str) -> None:
    hostile = VALUES[value]
    source = {"type": "document", "source": {"type": hostile, "data": hostile, "content": hostile}}
    for message in (
        hostile,
        {"role": hostile, "content": "x"},
        {"role": "user", "content": hostile},
        {"role": "user", "content": [hostile]},
        {"role": "user", "content": [{"type": hostile, "text": "x"}]},
        {"role": "user", "content": [source]},
    ):
        _check(http.post(PATHS[0], json={**GOOD, "messages": [message]}))


@pytest.fixture(scope="module")
def guarded() -> Iterator[Served]:
    with served(access=Access(port=0, keys=("key-of-one-tenant", "key-of-another"))) as running:
        yield running


def test_key_comes_as_a_bearer_token_or_in_the_older_header(guarded: Served) -> None:
    good, wrong = "key-of-one-tenant", "no-such-key"
    for headers, status in (
        ({"authorization": f"Bearer {good}"}, 200),
        ({"x-api-key": good}, 200),
        ({"x-api-key": good, "authorization": f"Bearer {wrong}"}, 200),
        ({"x-api-key": wrong, "authorization": f"Bearer {good}"}, 401),
        ({}, 401),
    ):
        for path in PATHS:
            assert httpx2.post(f"{guarded.url}{path}", json=GOOD, headers=headers).status_code == status


def test_client_without_a_known_key_gets_an_authentication_error(guarded: Served) -> None:
    with (
        anthropic.Anthropic(base_url=guarded.url, api_key="no-such-key", max_retries=0) as client,
        pytest.raises(anthropic.AuthenticationError) as caught,
    ):
        client.messages.create(model="any", messages=[{"role": "user", "content": "Hi"}], max_tokens=1)
    assert (caught.value.type, caught.value.error_code) == ("authentication_error", "invalid_api_key")
