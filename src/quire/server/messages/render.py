"""Answers of `/v1/messages`.

event: ping                  {"type":"ping"}                                          after a silence, anywhere
event: message_start         {... "message":{... "content":[],"usage":{...}}}         with the first part of the prompt
event: content_block_start   {... "index":0,"content_block":{"type":"text","text":""}}
event: content_block_delta   {... "index":0,"delta":{"type":"text_delta","text":"Par"}}
event: content_block_stop    {... "index":0}
event: message_delta         {... "delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{...}}
event: message_stop          {"type":"message_stop"}
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from quire.engine.step_events import PromptProgress
from quire.request import FinishReason, RequestOutput
from quire.server.diagnostics import Comparison, anthropic_diagnostics
from quire.server.errors import ApiError, anthropic_error
from quire.server.generation import Delta, Generation, Usage, num_written, usage_of, whole_delta
from quire.server.render import json_text, to_json

_FIRST = 0


def _event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: ".encode() + to_json({"type": kind, **fields}) + b"\n\n"


_PING = _event("ping")
_EMPTY_TEXT = {"type": "text", "text": ""}
_BEFORE_TEXT, _BEHIND_TEXT = _event("content_block_delta", index=_FIRST, delta={"type": "text_delta", "text": ""}).split(b'""')


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageHead:
    """What a message is called, and the model that answers."""

    message_id: str
    model: str


class MessageRenderer:
    """Writes one message, with a diagnosis of the cache where the request is compared with an earlier one."""

    def __init__(self, head: MessageHead, generation: Generation, block_size: int, comparison: Comparison | None) -> None:
        self._head, self._generation, self._block_size, self._comparison = head, generation, block_size, comparison
        self._has_begun = False
        self._end: dict[str, Any] = {}

    # -- as a stream -----------------------------------------------------------------

    def accepted(self) -> bytes:
        """Returns nothing: the message begins when it is known how much of its prompt the cache held."""
        return b""

    def heartbeat(self) -> bytes:
        """Returns what clients skip anywhere."""
        return _PING

    def prompt(self, progress: PromptProgress) -> bytes:
        """Returns the begin of the message, with the first part of its prompt."""
        if self._has_begun:
            return b""
        self._has_begun = True
        usage = Usage(
            num_prompt=progress.num_tokens,
            num_cached=progress.num_cached_tokens,
            num_written=num_written(progress.num_tokens, progress.num_cached_tokens, self._block_size),
            num_completion=0,
        )
        end = {"stop_reason": None, "stop_sequence": None}
        return _event("message_start", message=self._message([], end, usage))

    def opening(self) -> bytes:
        """Returns the begin of the text."""
        return _event("content_block_start", index=_FIRST, content_block=_EMPTY_TEXT)

    def delta(self, delta: Delta) -> bytes:
        """Returns the text of a delta; why the message ends is kept for its closing."""
        if delta.finish_reason is not None:
            self._end = self._end_of(delta)
        return _BEFORE_TEXT + json_text(delta.text) + _BEHIND_TEXT if delta.text else b""

    def closing(self, outputs: Sequence[RequestOutput]) -> bytes:
        """Returns the end of the text and of the message, with its usage."""
        usage = usage_fields(usage_of(outputs, self._generation, self._block_size))
        end = _event("message_delta", delta=self._end, usage=usage)
        return _event("content_block_stop", index=_FIRST) + end + _event("message_stop")

    def failure(self, error: ApiError) -> bytes:
        """Returns the end of a stream by an error."""
        return _event("error", error=anthropic_error(error))

    # -- whole -----------------------------------------------------------------------

    def whole(self, outputs: Sequence[RequestOutput]) -> bytes:
        """Returns the answer as one object. One that says nothing is one empty text."""
        delta = whole_delta(0, outputs[0].outputs[0], self._generation)
        usage = usage_of(outputs, self._generation, self._block_size)
        return to_json(self._message([{**_EMPTY_TEXT, "text": delta.text}], self._end_of(delta), usage))

    # -- inside ----------------------------------------------------------------------

    def _message(self, content: list[dict[str, Any]], end: dict[str, Any], usage: Usage) -> dict[str, Any]:
        return {
            "id": self._head.message_id,
            "type": "message",
            "role": "assistant",
            "model": self._head.model,
            "content": content,
            **end,
            "usage": {**usage_fields(usage), "service_tier": "standard"},
            "diagnostics": self._diagnostics(usage.num_cached),
        }

    def _diagnostics(self, num_cached: int) -> dict[str, Any] | None:
        return None if self._comparison is None else anthropic_diagnostics(self._comparison.diagnosis(num_cached))

    def _end_of(self, delta: Delta) -> dict[str, Any]:
        """Returns why a message ended: at its own end, at a stop sequence, or where the length or the context did."""
        stop = delta.stop_reason if isinstance(delta.stop_reason, str) else None
        if delta.finish_reason is FinishReason.LENGTH:
            is_full = self._generation.max_tokens.is_capped
            return {"stop_reason": "model_context_window_exceeded" if is_full else "max_tokens", "stop_sequence": None}
        return {"stop_reason": "end_turn" if stop is None else "stop_sequence", "stop_sequence": stop}


def usage_fields(usage: Usage) -> dict[str, Any]:
    """Returns `usage`: of the prompt, what is neither read from the cache nor written into it counts as input."""
    return {
        "input_tokens": usage.num_prompt - usage.num_cached - usage.num_written,
        "cache_creation_input_tokens": usage.num_written,
        "cache_read_input_tokens": usage.num_cached,
        "output_tokens": usage.num_completion,
        "output_tokens_details": {"thinking_tokens": 0},
    }
