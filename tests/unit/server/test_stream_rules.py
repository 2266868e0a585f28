"""The rules that every stream of the suite is checked by find what clients stumble over."""

from __future__ import annotations

import json

import pytest

from support.stream_rules import fault_of

_ENVELOPE = {"id": "a", "object": "chat.completion.chunk", "created": 1, "model": "m", "system_fingerprint": "f"}
_USAGE = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}


def chunk(index: int, delta: dict[str, object], finish_reason: str | None = None) -> dict[str, object]:
    return {**_ENVELOPE, "choices": [{"index": index, "delta": delta, "finish_reason": finish_reason}]}


ROLES = [chunk(index, {"role": "assistant", "content": ""}) for index in (0, 1)]
TEXT = [chunk(index, {"content": "x"}) for index in (0, 1)]
ENDS = [chunk(index, {}, "stop") for index in (0, 1)]
USAGE = {**_ENVELOPE, "choices": [], "usage": _USAGE}
GOOD = [*ROLES, *TEXT, *ENDS, USAGE, "[DONE]"]


def written(events: list[object]) -> bytes:
    return b": ping\n\n" + b"".join(
        b"data: " + (each if isinstance(each, str) else json.dumps(each)).encode() + b"\n\n" for each in events
    )


def fault(events: list[object], *, is_whole: bool = True) -> str | None:
    return fault_of(written(events), "/v1/chat/completions", is_whole=is_whole)


def test_good_stream_has_no_fault() -> None:
    assert fault(GOOD) is None
    assert fault(GOOD[:3], is_whole=False) is None
    assert fault([*ROLES, {"error": {"message": "m"}}, "[DONE]"]) is None


@pytest.mark.parametrize(
    "events",
    [
        GOOD[:-1],
        [*ROLES[::-1], *GOOD[2:]],
        [*ROLES, *ROLES, *GOOD[2:]],
        [*TEXT, *GOOD],
        [*ROLES, *ENDS, *TEXT, "[DONE]"],
        [*ROLES, ENDS[0], "[DONE]"],
        [*ROLES, *ENDS, ENDS[0], "[DONE]"],
        [*ROLES, USAGE, *ENDS, "[DONE]"],
        [*GOOD[:-1], USAGE, "[DONE]"],
        [*ROLES, chunk(0, {"reasoning_content": "x"}), *ENDS, "[DONE]"],
        [*ROLES, chunk(0, {"content": "x"}, "stop"), ENDS[1], "[DONE]"],
        [*ROLES, {**TEXT[0], "id": "b"}, *ENDS, "[DONE]"],
        [*ROLES, *ENDS, {**USAGE, "usage": {**_USAGE, "total_tokens": 5}}, "[DONE]"],
        ["[DONE]"],
        [*GOOD, *GOOD],
    ],
)
def test_every_fault_is_found(events: list[object]) -> None:
    assert fault(events) is not None
