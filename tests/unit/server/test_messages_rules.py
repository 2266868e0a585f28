"""The rules that every stream of `/v1/messages` is checked by find what Anthropic's clients stumble over."""

from __future__ import annotations

import json
from typing import Any

import pytest

from support.stream_rules import fault_of

Event = dict[str, Any]

_INPUT = {"input_tokens": 3, "cache_creation_input_tokens": 32, "cache_read_input_tokens": 0}
_MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [],
    "stop_reason": None,
    "stop_sequence": None,
    "usage": {**_INPUT, "output_tokens": 0},
}
PING: Event = {"type": "ping"}
START: Event = {"type": "message_start", "message": _MESSAGE}
OPEN: Event = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
TEXT: Event = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "x"}}
CLOSE: Event = {"type": "content_block_stop", "index": 0}
DELTA: Event = {
    "type": "message_delta",
    "delta": {"stop_reason": "end_turn", "stop_sequence": None},
    "usage": {**_INPUT, "output_tokens": 1},
}
STOP: Event = {"type": "message_stop"}
ERROR: Event = {"type": "error", "error": {"type": "api_error", "message": "m"}}
GOOD = [PING, START, OPEN, PING, TEXT, TEXT, CLOSE, DELTA, STOP]


def written(events: list[Event]) -> bytes:
    return b"".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events)


def fault(events: list[Event], *, is_whole: bool = True) -> str | None:
    return fault_of(written(events), "/v1/messages", is_whole=is_whole)


def test_good_stream_has_no_fault() -> None:
    assert fault(GOOD) is None
    assert fault(GOOD[:5], is_whole=False) is None
    assert fault([PING, ERROR]) is None
    assert fault([START, OPEN, TEXT, ERROR]) is None
    second = [{**OPEN, "index": 1}, {**TEXT, "index": 1}, {**CLOSE, "index": 1}]
    assert fault([START, OPEN, CLOSE, *second, DELTA, STOP]) is None


@pytest.mark.parametrize(
    "events",
    [
        GOOD[:-1],
        GOOD[:5],
        [OPEN, *GOOD],
        [START, *GOOD],
        [*GOOD, STOP],
        [*GOOD, PING],
        [START, DELTA, STOP],
        [START, OPEN, TEXT, CLOSE, STOP],
        [START, OPEN, TEXT, DELTA, STOP],
        [START, OPEN, OPEN, CLOSE, DELTA, STOP],
        [START, TEXT, OPEN, CLOSE, DELTA, STOP],
        [START, OPEN, CLOSE, OPEN, CLOSE, DELTA, STOP],
        [START, {**OPEN, "index": 1}, {**CLOSE, "index": 1}, DELTA, STOP],
        [START, OPEN, {**TEXT, "index": 1}, CLOSE, DELTA, STOP],
        [START, OPEN, CLOSE, TEXT, DELTA, STOP],
        [START, OPEN, CLOSE, DELTA, DELTA, STOP],
        [START, OPEN, CLOSE, DELTA, OPEN, CLOSE, STOP],
        [START, OPEN, {**TEXT, "delta": {"type": "input_json_delta", "partial_json": "{"}}, CLOSE, DELTA, STOP],
        [START, OPEN, {**TEXT, "delta": {"type": "text_delta", "text": ""}}, CLOSE, DELTA, STOP],
        [{**START, "message": {**_MESSAGE, "usage": {**_INPUT}}}, OPEN, CLOSE, DELTA, STOP],
        [{**START, "message": {**_MESSAGE, "usage": dict.fromkeys((*_INPUT, "output_tokens"), 0)}}, OPEN, CLOSE, DELTA, STOP],
        [{**START, "message": {**_MESSAGE, "id": ""}}, OPEN, CLOSE, DELTA, STOP],
        [START, OPEN, CLOSE, {**DELTA, "usage": {**DELTA["usage"], "input_tokens": 4}}, STOP],
        [START, OPEN, CLOSE, {**DELTA, "delta": {"stop_reason": "stop_sequence", "stop_sequence": None}}, STOP],
        [START, OPEN, CLOSE, {**DELTA, "delta": {"stop_reason": "stop", "stop_sequence": None}}, STOP],
        [START, {"type": "error", "error": {"message": "m"}}],
        [START, {"type": "new_event"}],
    ],
)
def test_every_fault_is_found(events: list[Event]) -> None:
    assert fault(events) is not None


def test_event_needs_its_name_and_one_line_of_data() -> None:
    assert fault_of(written(GOOD).replace(b"event: ping\n", b""), "/v1/messages", is_whole=True) is not None
    assert fault_of(written(GOOD).replace(b"event: ping", b"event: pong"), "/v1/messages", is_whole=True) is not None
    assert fault_of(written(GOOD) + b": comment\n\n", "/v1/messages", is_whole=True) is not None
