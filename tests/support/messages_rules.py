"""What Anthropic's clients rely on in a stream of `/v1/messages`, as a state machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_DELTAS = {"text": ("text_delta",), "thinking": ("thinking_delta", "signature_delta"), "tool_use": ("input_json_delta",)}
_INPUT = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
_REASONS = ("end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded")


class MessagesFaultError(Exception):
    """A stream that a client of Anthropic would read wrongly."""


class MessageRules:
    """message_start with true counts, blocks from 0 on one after the other, message_delta, message_stop; pings anywhere."""

    def __init__(self) -> None:
        self.has_ended = False
        self._usage: Mapping[str, Any] | None = None
        self._block: Mapping[str, Any] | None = None
        self._num_blocks = 0
        self._has_delta = False

    def take(self, kind: str, event: Mapping[str, Any]) -> None:
        _require(not self.has_ended, "an event comes after the end")
        _require(event["type"] == kind, "an event is of another type than its name")
        if kind != "ping":
            _require(self._usage is not None or kind in ("message_start", "error"), "an event comes before message_start")
            getattr(self, f"_{kind}")(event)

    def _message_start(self, event: Mapping[str, Any]) -> None:
        _require(self._usage is None, "message_start comes twice")
        message = event["message"]
        _require((message["type"], message["role"], message["content"]) == ("message", "assistant", []), "its form is wrong")
        _require(message["id"].startswith("msg_") and bool(message["model"]), "it has no id or model")
        _require(message["stop_reason"] is None and message["stop_sequence"] is None, "a message ends as it begins")
        self._usage = message["usage"]
        counts = [message["usage"][name] for name in (*_INPUT, "output_tokens")]
        _require(all(type(count) is int and count >= 0 for count in counts), "a count is missing or negative")
        _require(sum(counts[:3]) > 0 and counts[3] == 0, "the prompt has no tokens, or the answer has some")

    def _content_block_start(self, event: Mapping[str, Any]) -> None:
        _require(self._block is None and not self._has_delta, "a block begins inside of another or too late")
        _require(event["index"] == self._num_blocks, "blocks are out of order")
        self._block = event["content_block"]
        self._num_blocks += 1

    def _content_block_delta(self, event: Mapping[str, Any]) -> None:
        self._require_open(event)
        delta = event["delta"]
        _require(delta["type"] in _DELTAS[(self._block or {})["type"]], "a delta is of another type than its block")
        _require(all(isinstance(value, str) and value for value in delta.values()), "a delta adds nothing")

    def _content_block_stop(self, event: Mapping[str, Any]) -> None:
        self._require_open(event)
        self._block = None

    def _message_delta(self, event: Mapping[str, Any]) -> None:
        _require(self._block is None and self._num_blocks > 0 and not self._has_delta, "message_delta is out of place")
        delta, usage, before = event["delta"], event["usage"], self._usage or {}
        _require(delta["stop_reason"] in _REASONS, "a stop reason is unknown")
        _require((delta["stop_sequence"] is not None) == (delta["stop_reason"] == "stop_sequence"), "a stop has no sequence")
        _require(all(usage[name] == before[name] for name in _INPUT), "the counts of the prompt change")
        _require(type(usage["output_tokens"]) is int, "the answer has no count")
        self._has_delta = True

    def _message_stop(self, _event: Mapping[str, Any]) -> None:
        _require(self._has_delta, "message_stop comes without message_delta")
        self.has_ended = True

    def _error(self, event: Mapping[str, Any]) -> None:
        error = event["error"]
        _require(bool(error["type"]) and isinstance(error["message"], str), "an error says nothing")
        self.has_ended = True

    def _require_open(self, event: Mapping[str, Any]) -> None:
        _require(self._block is not None and event["index"] == self._num_blocks - 1, "no block of this number is open")


def messages_fault(body: bytes, *, is_whole: bool) -> str | None:
    """Returns what is wrong with a stream, None if nothing is. One that is not whole was cut by its reader."""
    rules = MessageRules()
    try:
        for block in body.decode().split("\n\n")[:-1]:
            name, data = block.split("\n")
            _require(name.startswith("event: ") and data.startswith("data: "), "an event is not a name and data")
            rules.take(name.removeprefix("event: "), json.loads(data.removeprefix("data: ")))
        _require(rules.has_ended or not is_whole, "it has no end")
    except (MessagesFaultError, ValueError, LookupError, TypeError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def _require(is_so: bool, fault: str) -> None:
    if not is_so:
        raise MessagesFaultError(fault)
