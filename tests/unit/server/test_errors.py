"""Errors as clients read them: small, typed, in the shape of their API, and without what the client sent."""

from __future__ import annotations

import json

import pytest

from quire.errors import CapacityError, ExecutorError, PromptTooLongError, RequestError, SamplingError
from quire.server.errors import ApiError, Refusal, api_error, error_body
from quire.server.fields import ignored_header
from quire.server.limits import Limits


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (PromptTooLongError("Too long", given="9 tokens", limit="8", next_step="Shorten."), 400, "context_length_exceeded"),
        (CapacityError("Too much", given="9 blocks", limit="8", next_step="Shorten."), 400, None),
        (RequestError("Wrong", given="SENT", next_step="Mend it."), 400, None),
        (ExecutorError("SENT", next_step="Try."), 500, "engine_error"),
        (ValueError("SENT"), 500, "internal_error"),
        (KeyError("SENT"), 500, "internal_error"),
    ],
)
def test_any_exception_becomes_a_typed_error_without_what_was_sent(error: Exception, status: int, code: str | None) -> None:
    refused = api_error(error)
    assert (refused.refusal.status, refused.refusal.code) == (status, code)
    assert b"SENT" not in error_body(refused, "/v1/completions", "req_1")


def test_counts_of_the_engine_are_told() -> None:
    error = PromptTooLongError("Too long", given="9 tokens", limit="8 tokens", next_step="Shorten it.")
    assert (
        json.loads(error_body(api_error(error), "/", ""))["error"]["message"]
        == "Too long (9 tokens) (limit: 8 tokens). Shorten it."
    )


def test_sampling_error_names_its_parameter() -> None:
    for name in ("top_p", "n", "logit_bias"):
        assert api_error(SamplingError(f"{name} must be small", next_step="x")).refusal.param == name
    assert api_error(SamplingError("a token id must be small", next_step="x")).refusal.param is None


def test_body_is_bounded_and_holds_no_control_characters() -> None:
    error = ApiError("\r\n\x1b[31m" + "\U0001f600" * 10_000, next_step="x", refusal=Refusal())
    body = error_body(error, "/v1/completions", "req_1")
    assert len(body) <= Limits().error_bytes
    assert not set(json.loads(body)["error"]["message"]) & set("\r\n\x1b")


@pytest.mark.parametrize(
    ("status", "openai", "anthropic"),
    [
        (400, "invalid_request_error", "invalid_request_error"),
        (401, "authentication_error", "authentication_error"),
        (404, "invalid_request_error", "not_found_error"),
        (413, "invalid_request_error", "request_too_large"),
        (429, "rate_limit_error", "rate_limit_error"),
        (500, "server_error", "api_error"),
        (503, "server_error", "overloaded_error"),
    ],
)
def test_types_are_those_of_each_api(status: int, openai: str, anthropic: str) -> None:
    error = ApiError("x", next_step="y", refusal=Refusal(status=status))
    assert json.loads(error_body(error, "/v1/models", "r"))["error"]["type"] == openai
    body = json.loads(error_body(error, "/v1/messages", "r"))
    assert (body["type"], body["error"]["type"], body["request_id"]) == ("error", anthropic, "r")
    assert "error" in json.loads(error_body(error, "/v1/messages2", "r"))


def test_ignored_names_are_shown_once_and_safely() -> None:
    limits = Limits()
    assert ignored_header(["a", "b", "a", "x y", "\r\n"], limits) == "a, b, ?"
    long = ignored_header([f"name-{number}" for number in range(100)], limits)
    assert len(long) <= limits.ignored_bytes
    assert long.endswith(", ...")
    assert ignored_header([], limits) == ""
