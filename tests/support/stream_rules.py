"""What clients rely on in a stream of each API, as a state machine per API."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from support.messages_rules import messages_fault
from support.responses_rules import responses_fault

_DONE = "[DONE]"


class StreamFaultError(Exception):
    """A stream that a client would read wrongly."""


def fault_of(body: bytes, path: str, *, is_whole: bool) -> str | None:
    """Returns what is wrong with a stream, None if nothing is. One that is not whole was cut by its reader."""
    if path in _FAULTS:
        return _FAULTS[path](body, is_whole=is_whole)
    try:
        events = data_of(body)
        ended = events[-1:] == [_DONE]
        _require(not is_whole or ended, "it has no [DONE]")
        values = [json.loads(event) for event in (events[:-1] if ended else events)]
        failed = bool(values) and "error" in values[-1]
        chunks = values[:-1] if failed else values
        _check_envelopes(chunks)
        state = _RULES[path]()
        for chunk in chunks:
            state.take(chunk)
        if is_whole and not failed:
            state.end()
    except (StreamFaultError, ValueError, LookupError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def data_of(body: bytes) -> list[str]:
    """Returns the data of each event; every event is one line and an empty one, and everything else a comment."""
    events = []
    for block in body.decode().split("\n\n")[:-1]:
        _require("\n" not in block and "\r" not in block, "an event has several lines")
        _require(block.startswith((": ", "data: ")), "a line is neither data nor a comment")
        if block.startswith("data: "):
            events.append(block.removeprefix("data: "))
    return events


class ChatRules:
    """Role chunks in order from index 0, content in every delta, one end per choice, usage last."""

    kind = "chat.completion.chunk"

    def __init__(self) -> None:
        self._num_roles = 0
        self._ended: set[int] = set()
        self._has_usage = False

    def take(self, chunk: Mapping[str, Any]) -> None:
        _require(not self._has_usage, "a chunk comes after the usage")
        _require(chunk["object"] == self.kind, "a chunk is of another kind")
        if not chunk["choices"]:
            self._take_usage(chunk)
        for choice in chunk["choices"]:
            self._take_choice(choice, chunk)

    def _take_choice(self, choice: Mapping[str, Any], chunk: Mapping[str, Any]) -> None:
        index, delta = choice["index"], choice["delta"]
        if "prompt_progress" in chunk:
            _require(self._num_roles == 0 and delta == {"content": ""}, "progress comes after the prompt")
            return
        _require(index not in self._ended, "a choice goes on after its end")
        if "role" in delta:
            _require(index == self._num_roles and delta["role"] == "assistant", "roles are out of order")
            self._num_roles += 1
        _require(index < self._num_roles, "a choice begins without a role")
        if choice["finish_reason"] is None:
            _require(isinstance(delta["content"], str), "a delta has no content")
        else:
            _require(delta == {}, "the end of a choice has content")
            self._ended.add(index)

    def _take_usage(self, chunk: Mapping[str, Any]) -> None:
        _require(len(self._ended) == self._num_roles, "the usage comes before the end")
        _check_usage(chunk["usage"])
        self._has_usage = True

    def end(self) -> None:
        _require(self._num_roles > 0 and len(self._ended) == self._num_roles, "a choice has no end")


class CompletionRules:
    """Text in every chunk, one end per choice, usage last; text offsets grow with the text."""

    kind = "text_completion"

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._ended: set[int] = set()
        self._offsets: dict[int, int] = {}
        self._has_usage = False

    def take(self, chunk: Mapping[str, Any]) -> None:
        _require(not self._has_usage, "a chunk comes after the usage")
        _require(chunk["object"] == self.kind, "a chunk is of another kind")
        if not chunk["choices"]:
            _check_usage(chunk["usage"])
            self._has_usage = True
        for choice in chunk["choices"]:
            index = choice["index"]
            _require(index not in self._ended, "a choice goes on after its end")
            _require(isinstance(choice["text"], str), "a chunk has no text")
            self._seen.add(index)
            if choice["finish_reason"] is not None:
                self._ended.add(index)
            for offset in (choice["logprobs"] or {}).get("text_offset", ()):
                _require(offset >= self._offsets.get(index, 0), "an offset goes back")
                self._offsets[index] = offset

    def end(self) -> None:
        _require(bool(self._seen) and self._seen == self._ended == set(range(len(self._seen))), "a choice has no end")


_RULES: Mapping[str, Callable[[], Any]] = {"/v1/chat/completions": ChatRules, "/v1/completions": CompletionRules}
_FAULTS: Mapping[str, Callable[..., str | None]] = {"/v1/messages": messages_fault, "/v1/responses": responses_fault}
"""APIs whose events have names."""


def _check_envelopes(chunks: list[dict[str, Any]]) -> None:
    names = ("id", "created", "model", "system_fingerprint")
    _require(len({tuple(chunk[name] for name in names) for chunk in chunks}) <= 1, "chunks differ in what they all repeat")
    for earlier in chunks[:-1]:
        _require(earlier.get("usage") is None, "usage comes before the last chunk")


def _check_usage(usage: Mapping[str, Any]) -> None:
    counts = [usage[f"{name}_tokens"] for name in ("prompt", "completion", "total")]
    _require(all(type(count) is int for count in counts), "usage has no three integers")
    _require(counts[0] + counts[1] == counts[2], "usage does not add up")


def _require(is_so: bool, fault: str) -> None:
    if not is_so:
        raise StreamFaultError(fault)
