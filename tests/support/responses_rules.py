"""What clients rely on in a stream of the Responses API: names, numbers, order, and ids that stay the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_ENDS = ("response.completed", "response.incomplete", "response.failed")


def responses_fault(body: bytes, *, is_whole: bool) -> str | None:
    """Returns what is wrong with a stream, None if nothing is. One that is not whole was cut by its reader."""
    try:
        rules = _Rules()
        for number, event in enumerate(response_events(body)):
            _require(event["sequence_number"] == number, "sequence numbers do not count from 0")
            rules.take(event)
        _require(rules.has_ended or not is_whole, "it has no end")
    except (ValueError, LookupError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


class _Rules:
    """The state of a stream: the response it is of, and for each output item what has been said of it."""

    def __init__(self) -> None:
        self.has_ended = False
        self._response_id: str | None = None
        self._items: dict[int, _Item] = {}

    def take(self, event: Mapping[str, Any]) -> None:
        kind = event["type"]
        _require(not self.has_ended, "an event comes after the end")
        _require((kind == "response.created") == (self._response_id is None), "it does not begin with created, or twice")
        if "response" in event:
            self._take_response(kind, event["response"])
        elif kind == "response.output_item.added":
            _require(event["output_index"] == len(self._items), "an item is out of order")
            self._items[event["output_index"]] = _Item(event["item"])
        else:
            self._items[event["output_index"]].take(event)

    def _take_response(self, kind: str, response: Mapping[str, Any]) -> None:
        self._response_id = self._response_id or response["id"]
        _require(response["id"] == self._response_id, "the id of the response changes")
        if kind not in _ENDS:
            _require(kind in ("response.created", "response.in_progress"), "an event has an unknown name")
            _require((response["status"], response["usage"]) == ("in_progress", None), "it is done before its end")
            return
        self.has_ended = True
        _require(kind == f"response.{response['status']}", "the status is not that of the end")
        if kind == "response.failed":
            _require(bool(response["error"]["message"]), "a failure says nothing")
            return
        _require(all(item.done is not None for item in self._items.values()), "an item is not done")
        _require(response["output"] == [item.done for item in self._items.values()], "the output is not that of the items")
        _require((kind == "response.incomplete") == (response["incomplete_details"] is not None), "details do not fit")
        _check_usage(response["usage"])


class _Item:
    """One message, from added to done."""

    def __init__(self, added: Mapping[str, Any]) -> None:
        _require(
            (added["type"], added["status"], added["content"]) == ("message", "in_progress", []), "an item begins with content"
        )
        self.done: Mapping[str, Any] | None = None
        self._id = added["id"]
        self._text: str | None = None
        self._logprobs: list[Any] = []
        self._seen: list[str] = []

    def take(self, event: Mapping[str, Any]) -> None:
        kind = event["type"].removeprefix("response.")
        item_id = event["item"]["id"] if kind == "output_item.done" else event["item_id"]
        _require(self.done is None and item_id == self._id, "an event is of another item, or of one that is done")
        if kind == "output_text.delta":
            _require(self._seen == ["content_part.added"], "text comes outside of its part")
            self._text = (self._text or "") + event["delta"]
            self._logprobs += event["logprobs"]
            return
        self._seen.append(kind)
        order = ["content_part.added", "output_text.done", "content_part.done", "output_item.done"]
        _require(self._seen == order[: len(self._seen)], "the events of an item are out of order")
        self._check_whole(kind, event)

    def _check_whole(self, kind: str, event: Mapping[str, Any]) -> None:
        """Compares what an event repeats with what the deltas said."""
        if kind == "output_item.done":
            self.done = event["item"]
            _require(event["item"]["status"] in ("completed", "incomplete"), "an item is done and has no status")
            (part,) = event["item"]["content"]
        else:
            _require(event["content_index"] == 0, "an event is of another part")
            part = event if kind == "output_text.done" else event["part"]
        _require((part["text"], part["logprobs"]) == (self._text or "", self._logprobs), "the text is not that of its deltas")


def response_events(body: bytes) -> list[dict[str, Any]]:
    """Returns the events: each a line with its name and one with its data. There are no comments: timers ignore them."""
    blocks = body.decode().split("\n\n")
    events = []
    for block in blocks[:-1]:
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        _require(name == f"event: {event['type']}" and data.startswith("data: "), "an event has another name than its data")
        events.append(event)
    return events


def _check_usage(usage: Mapping[str, Any]) -> None:
    counts = [usage[f"{name}_tokens"] for name in ("input", "output", "total")]
    details = [usage["input_tokens_details"][name] for name in ("cached_tokens", "cache_write_tokens")]
    counts_all = [*counts, *details, usage["output_tokens_details"]["reasoning_tokens"]]
    _require(all(type(count) is int for count in counts_all), "usage has no integers")
    _require(counts[0] + counts[1] == counts[2] and sum(details) <= counts[0], "usage does not add up")


def _require(is_so: bool, fault: str) -> None:
    if not is_so:
        raise ValueError(fault)
