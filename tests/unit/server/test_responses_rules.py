"""The rules that every stream of the Responses API is checked by find what clients stumble over."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from support.stream_rules import fault_of

Event = dict[str, Any]
PART = {"type": "output_text", "annotations": [], "logprobs": [], "text": ""}
USAGE = {
    "input_tokens": 4,
    "input_tokens_details": {"cached_tokens": 1, "cache_write_tokens": 2},
    "output_tokens": 1,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 5,
}


def response(status: str = "in_progress", **fields: object) -> Event:
    return {"id": "resp_1", "status": status, "output": [], "usage": None, "error": None, "incomplete_details": None, **fields}


def item(status: str, *content: Event) -> Event:
    return {"type": "message", "id": "msg_1", "status": status, "role": "assistant", "content": list(content)}


def of_part(kind: str, **fields: object) -> Event:
    return {"type": f"response.{kind}", "item_id": "msg_1", "output_index": 0, "content_index": 0, **fields}


DONE = item("completed", {**PART, "text": "Hi"})
CREATED: Event = {"type": "response.created", "response": response()}
HEARTBEAT: Event = {"type": "response.in_progress", "response": response()}
ADDED: Event = {"type": "response.output_item.added", "output_index": 0, "item": item("in_progress")}
PART_ADDED = of_part("content_part.added", part=PART)
DELTA = of_part("output_text.delta", delta="Hi", logprobs=[])
TEXT_DONE = of_part("output_text.done", text="Hi", logprobs=[])
PART_DONE = of_part("content_part.done", part={**PART, "text": "Hi"})
ITEM_DONE: Event = {"type": "response.output_item.done", "output_index": 0, "item": DONE}
COMPLETED: Event = {"type": "response.completed", "response": response("completed", output=[DONE], usage=USAGE)}
FAILED: Event = {"type": "response.failed", "response": response("failed", error={"code": "server_error", "message": "m"})}
BEGINNING = [CREATED, HEARTBEAT, ADDED, PART_ADDED]
GOOD = [*BEGINNING, DELTA, HEARTBEAT, TEXT_DONE, PART_DONE, ITEM_DONE, COMPLETED]


def written(events: list[Event]) -> bytes:
    numbered = [{**event, "sequence_number": number} for number, event in enumerate(events)]
    return b"".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in numbered)


def fault(events: list[Event], *, is_whole: bool = True) -> str | None:
    return fault_of(written(events), "/v1/responses", is_whole=is_whole)


def without(place: int) -> list[Event]:
    return [*GOOD[:place], *GOOD[place + 1 :]]


def ended(**fields: object) -> list[Event]:
    return [*GOOD[:-1], {**COMPLETED, "response": COMPLETED["response"] | fields}]


def test_good_stream_has_no_fault() -> None:
    assert fault(GOOD) is None
    assert fault(GOOD[:6], is_whole=False) is None
    assert fault([*BEGINNING, DELTA, FAILED]) is None
    assert fault([CREATED, HEARTBEAT, {**COMPLETED, "response": response("completed", usage=USAGE)}]) is None


@pytest.mark.parametrize(
    "events",
    [
        [],
        GOOD[:-1],
        *(without(place) for place in (0, 2, 3, 4, 6, 7, 8)),
        [CREATED, *GOOD],
        [*GOOD, HEARTBEAT],
        [*BEGINNING, ADDED, *GOOD[4:]],
        [*BEGINNING, PART_ADDED, *GOOD[4:]],
        [*GOOD[:6], DELTA, *GOOD[6:-1], DELTA, COMPLETED],
        [*GOOD[:7], DELTA, *GOOD[7:]],
        [*GOOD[:5], PART_DONE, TEXT_DONE, ITEM_DONE, COMPLETED],
        [*BEGINNING, {**DELTA, "item_id": "msg_2"}, *GOOD[5:]],
        [*BEGINNING, {**DELTA, "output_index": 1}, *GOOD[5:]],
        [*BEGINNING, {name: value for name, value in DELTA.items() if name != "logprobs"}, *GOOD[5:]],
        [*GOOD[:8], {**ITEM_DONE, "item": {**DONE, "id": "msg_2"}}, COMPLETED],
        [*GOOD[:8], {**ITEM_DONE, "item": {**DONE, "status": "in_progress"}}, COMPLETED],
        [CREATED, HEARTBEAT, {**ADDED, "item": DONE}, *GOOD[3:]],
        [CREATED, {**HEARTBEAT, "response": response(id="resp_2")}, *GOOD[2:]],
        [CREATED, {**HEARTBEAT, "response": response("completed")}, *GOOD[2:]],
        [*BEGINNING, {"type": "response.unknown", "response": response()}, *GOOD[4:]],
        [*BEGINNING, {**FAILED, "response": response("failed", error={"message": ""})}],
        ended(id="resp_2"),
        ended(status="incomplete"),
        ended(output=[]),
        ended(output=[{**DONE, "id": "msg_2"}]),
        ended(incomplete_details={"reason": "max_output_tokens"}),
        ended(usage=None),
        ended(usage=USAGE | {"total_tokens": 6}),
        ended(usage=USAGE | {"input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 2}}),
    ],
)
def test_every_fault_is_found(events: list[Event]) -> None:
    assert fault(events) is not None


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body.replace(b'"sequence_number": 3', b'"sequence_number": 4'),
        lambda body: body.replace(b"event: response.created", b"event: response.queued"),
        lambda body: body.replace(b"event: response.created\n", b""),
        lambda body: b": ping\n\n" + body,
        lambda body: body + b"data: [DONE]\n\n",
        lambda body: body.replace(b"data: ", b"data:", 1),
    ],
)
def test_every_fault_of_the_lines_is_found(change: Callable[[bytes], bytes]) -> None:
    assert fault_of(change(written(GOOD)), "/v1/responses", is_whole=True) is not None
