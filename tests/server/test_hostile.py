"""Requests that no client should send: each gets a small error of its API, none a 5xx, and what it sent is not repeated."""

from __future__ import annotations

import json
from contextlib import suppress
from itertools import product

import httpx2
import pytest

MARKER = "s3cret-marker"
JSON = {"content-type": "application/json"}
PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/score", "/tokenize", "/detokenize")
GOOD = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1},
    "/v1/completions": {"prompt": "Hi", "max_tokens": 1},
    "/v1/score": {"prompt": "Hi"},
    "/tokenize": {"prompt": "Hi"},
    "/detokenize": {"tokens": [1]},
}
BODIES = {
    "empty": b"",
    "no JSON": b"{" + MARKER.encode(),
    "not UTF-8": b'{"prompt": "\xff"}',
    "UTF-8 BOM": b"\xef\xbb\xbf{}",
    "UTF-16": '{"prompt": "a"}'.encode("utf-16"),
    "array": b"[]",
    "string": b'"s3cret-marker"',
    "number": b"1",
    "null": b"null",
    "NaN": b'{"temperature": NaN}',
    "infinity": b'{"temperature": -Infinity}',
    "overflow": b'{"temperature": 1e400}',
    "huge integer": b'{"seed": ' + b"9" * 5000 + b"}",
    "long integer": b'{"seed": ' + b"9" * 21 + b"}",
    "duplicate name": b'{"n": 1, "n": 2}',
    "duplicate name inside": b'{"messages": [{"role": "user", "role": "system", "content": "x"}]}',
    "lone surrogate": b'{"prompt": "\\ud800"}',
    "lone surrogate in a name": b'{"\\ud800": 1}',
    "deep arrays": b'{"prompt": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "deep objects": b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
    "101 deep": b'{"a":' * 101 + b"1" + b"}" * 101,
    "two values": b"{} {}",
    "comment": b"{/* */}",
}
VALUES: dict[str, object] = {
    "null": None,
    "true": True,
    "zero": 0,
    "minus": -1,
    "large": 2**62,
    "fraction": 0.5,
    "text": MARKER,
    "long text": MARKER * 2000,
    "list": [MARKER],
    "nested": [[[MARKER]]],
    "object": {MARKER: MARKER},
    "many": list(range(5000)),
}
FIELDS = (
    "model", "messages", "prompt", "context", "content", "tokens", "n", "best_of", "stop", "seed", "stream", "stream_options",
    "temperature", "top_p", "top_k", "min_p", "max_tokens", "max_completion_tokens", "min_tokens", "logprobs", "top_logprobs",
    "prompt_logprobs", "logit_bias", "presence_penalty", "frequency_penalty", "repetition_penalty", "stop_token_ids", "bad_words",
    "ignore_eos", "cache_salt", "priority", "tools", "tool_choice", "response_format", "chat_template_kwargs", "documents",
    "reasoning_effort", "echo", "suffix", "user", "metadata",
)  # fmt: skip
OWN_FIELDS = ("model", "messages", "prompt", "context", "content", "tokens", "top_logprobs")
"""Those that the smaller endpoints read."""


def _check(answer: httpx2.Response) -> None:
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        assert len(answer.content) <= 4096
        assert MARKER not in answer.text
        error = answer.json()["error"]
        assert isinstance(error["message"], str)
        assert error["type"]


@pytest.mark.parametrize("name", BODIES)
def test_body_that_is_not_strict_json_is_refused(http: httpx2.Client, name: str) -> None:
    for path in PATHS:
        answer = http.post(path, content=BODIES[name], headers=JSON)
        _check(answer)
        assert answer.status_code == 400


@pytest.mark.parametrize("field", FIELDS)
def test_any_value_in_any_field_is_answered_or_refused(http: httpx2.Client, field: str) -> None:
    paths = PATHS if field in OWN_FIELDS else PATHS[:2]
    for path, value in product(paths, VALUES.values()):
        _check(http.post(path, json={**GOOD[path], field: value}))


@pytest.mark.parametrize("value", VALUES)
def test_any_value_as_a_message_is_answered_or_refused(http: httpx2.Client, value: str) -> None:
    hostile = VALUES[value]
    for message in (
        hostile,
        {"role": hostile, "content": "x"},
        {"role": "user", "content": hostile},
        {"role": "user", "content": [hostile]},
        {"role": "user", "content": [{"type": hostile, "text": "x"}]},
        {"role": "user", "content": [{"type": "text", "text": hostile}]},
        {"role": "user", "content": "x", "name": hostile},
        {"role": "assistant", "content": "x", "reasoning_content": hostile, "tool_calls": hostile},
    ):
        _check(http.post("/v1/chat/completions", json={"messages": [message], "max_tokens": 1}))


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 415),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        (JSON | {"content-encoding": "gzip"}, 415),
        (JSON | {"content-encoding": "br"}, 415),
        ({"content-type": "Application/JSON; charset=utf-8"}, 200),
    ],
)
def test_body_says_that_it_is_plain_json(http: httpx2.Client, headers: dict[str, str], status: int) -> None:
    body = json.dumps(GOOD["/v1/completions"]).encode()
    assert http.post("/v1/completions", content=body, headers=headers).status_code == status


def test_body_beyond_the_limit_is_refused_whatever_it_declares(http: httpx2.Client) -> None:
    for body in (b" " * (8 * 2**20 + 1), iter([b" " * 2**20] * 9)):
        with suppress(httpx2.NetworkError):  # the server had closed before all was sent
            assert http.post("/v1/completions", content=body, headers=JSON).status_code == 413


def test_ids_of_clients_are_nobodys_keys(http: httpx2.Client) -> None:
    answers = [
        http.post("/v1/completions", json=GOOD["/v1/completions"], headers={"x-request-id": name}) for name in ("a", "a", "aa")
    ]
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.headers["x-request-id"] for answer in answers}) == 3
