"""What clients of the four APIs say and hear."""

from __future__ import annotations

import json
from typing import Any

import pytest

from quire.bench.serve_apis import APIS, Ask, EventLines, error_kind
from quire.bench.serve_http import target_of
from quire.errors import ConfigError

ASK = Ask(model="m", messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}], max_tokens=3)
USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}
RESPONSES_USAGE = {"input_tokens": 9, "output_tokens": 3, "input_tokens_details": {"cached_tokens": 4}}
MESSAGES_USAGE = {"input_tokens": 2, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 3}
STREAMS: dict[str, list[Any]] = {
    "chat": [
        {"choices": [{"delta": {"role": "assistant", "content": ""}}]},
        {"choices": [{"delta": {"reasoning_content": "Hm"}}]},
        {"choices": [{"delta": {"content": "mm"}}]},
        {"choices": [], "usage": USAGE},
        "[DONE]",
    ],
    "completions": [
        {"choices": [{"text": "Hm"}], "usage": None},
        {"choices": [{"text": "mm"}]},
        {"choices": [], "usage": USAGE},
        "[DONE]",
    ],
    "responses": [
        {"type": "response.created", "response": {}},
        {"type": "response.output_text.delta", "delta": "Hm"},
        {"type": "response.output_text.delta", "delta": "mm"},
        {"type": "response.completed", "response": {"usage": RESPONSES_USAGE}},
    ],
    "messages": [
        {"type": "message_start", "message": {"usage": MESSAGES_USAGE}},
        {"type": "ping"},
        {"type": "content_block_delta", "delta": {"type": "thinking_delta", "thinking": "Hm"}},
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "mm"}},
        {"type": "message_delta", "usage": {"output_tokens": 3}},
        {"type": "message_stop"},
    ],
}


def test_events_come_out_of_pieces_that_are_cut_anywhere() -> None:
    stream = ': ping\n\nevent: ping\ndata: {"a": "é"}\n\ndata:[DONE]\r\n\r\n'.encode()
    for size in (1, 2, 7, len(stream)):
        lines = EventLines()
        found = [data for at in range(0, len(stream), size) for data in lines.feed(stream[at : at + size])]
        assert found == ['{"a": "é"}', "[DONE]"]


@pytest.mark.parametrize("name", APIS)
def test_a_stream_of_each_api_has_its_text_counts_and_end(name: str) -> None:
    api = APIS[name]
    news = [api.news(event if isinstance(event, str) else json.dumps(event)) for event in STREAMS[name]]
    assert "".join(each.text for each in news) == "Hmmm"
    counts = [each.counts for each in news if each.counts is not None]
    assert any(each.num_prompt == 9 and each.num_cached == 4 for each in counts)
    assert counts[-1].num_output == 3
    assert [each.is_end for each in news] == [False] * (len(news) - 1) + [True]


@pytest.mark.parametrize("name", APIS)
def test_a_request_of_each_api_is_a_greedy_stream_of_the_wanted_length(name: str) -> None:
    fields = APIS[name].fields(ASK)
    assert (fields["model"], fields["stream"], fields["temperature"], fields["ignore_eos"]) == ("m", True, 0, True)
    assert fields["max_output_tokens" if name == "responses" else "max_tokens"] == 3
    assert "Be brief." in json.dumps(fields)
    if name == "messages":
        assert (fields["system"], fields["messages"]) == ("Be brief.", [{"role": "user", "content": "Hi"}])


def test_a_field_that_not_every_server_knows_can_be_left_out() -> None:
    fields = APIS["chat"].fields(Ask(model="m", messages=ASK.messages, max_tokens=3, ignores_eos=False))
    assert "ignore_eos" not in fields


@pytest.mark.parametrize(
    ("name", "event", "kind"),
    [
        ("chat", {"error": {"code": "shutting_down", "type": "server_error"}}, "shutting_down"),
        ("completions", {"error": {"type": "server_error"}}, "server_error"),
        ("responses", {"type": "error", "code": "engine_error"}, "engine_error"),
        ("responses", {"type": "response.failed", "response": {"error": {"code": "server_error"}}}, "server_error"),
        ("messages", {"type": "error", "error": {"type": "overloaded_error"}}, "overloaded_error"),
    ],
)
def test_an_error_in_a_stream_has_a_kind(name: str, event: Any, kind: str) -> None:
    assert APIS[name].news(json.dumps(event)).error == kind


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"error": {"code": "overloaded", "type": "rate_limit_error"}}', "HTTP 429 overloaded"),
        (b'{"type": "error", "error": {"type": "rate_limit_error"}}', "HTTP 429 rate_limit_error"),
        (b'{"error": "busy"}', "HTTP 429"),
        (b"<html>", "HTTP 429"),
        (b"[1]", "HTTP 429"),
    ],
)
def test_an_error_answer_is_counted_under_its_status_and_code(body: bytes, kind: str) -> None:
    assert error_kind(429, body) == kind


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://127.0.0.1:8000", ("127.0.0.1", 8000, False, "")),
        ("http://127.0.0.1:8000/v1/", ("127.0.0.1", 8000, False, "")),
        ("https://models.example/team/v1", ("models.example", 443, True, "/team")),
        ("http://[::1]:80", ("::1", 80, False, "")),
    ],
)
def test_a_base_url_may_end_with_v1(url: str, address: tuple[str, int, bool, str]) -> None:
    target = target_of(url)
    assert (target.host, target.port, target.is_tls, target.root) == address


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://a", "http://", "http://a:99999", "http://a:0"])
def test_what_is_no_url_of_a_server_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="not the URL"):
        target_of(url)


def test_a_key_is_sent_as_both_vendors_spell_it() -> None:
    assert target_of("http://a", "secret").headers == {"authorization": "Bearer secret", "x-api-key": "secret"}
