"""What both OpenAI completion APIs write alike: envelopes, usage, events of a stream, and JSON without a second thought.

A chunk of a stream is a prefix of bytes that never changes, then one escaped text, then an end.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from json.encoder import encode_basestring
from typing import Any, Protocol

from quire.engine.step_events import PromptProgress
from quire.request import RequestOutput
from quire.server.diagnostics_notes import PromptNote
from quire.server.errors import ApiError, openai_error
from quire.server.generation import Delta, Generation, Usage
from quire.text.tokenizer import Tokenizer

HEARTBEAT = b": ping\n\n"
"""A comment: every client skips it, and it resets the timers of those that count bytes."""

DONE = b"data: [DONE]\n\n"
_COMPACT = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
_LINE_BREAKS = (("\x85", "\\u0085"), ("\u2028", "\\u2028"), ("\u2029", "\\u2029"))
"""What JSON may hold as it is, and some clients take for the end of a line."""


class Renderer(Protocol):
    """Writes one answer whole."""

    def whole(self, outputs: Sequence[RequestOutput]) -> bytes: ...


class OpenAIStream:
    """What the streams of both OpenAI completion APIs do alike: nothing before the first token but comments and progress."""

    _accepted_s = 0.0

    def accepted(self) -> bytes:
        self._accepted_s = time.monotonic()
        return b""

    def heartbeat(self) -> bytes:
        return HEARTBEAT

    def progress_fields(self, progress: PromptProgress) -> dict[str, Any]:
        return progress_fields(progress, self._accepted_s)


def progress_fields(progress: PromptProgress, accepted_s: float) -> dict[str, Any]:
    """Returns how far a prompt is, as llama-server tells it; the time counts from the acceptance of the request."""
    return {
        "prompt_progress": {
            "total": progress.num_tokens,
            "cache": progress.num_cached_tokens,
            "processed": progress.num_computed_tokens,
            "time_ms": round((time.monotonic() - accepted_s) * 1000),
        }
    }


class StreamRenderer(Protocol):
    """Writes one answer as a stream: what follows the headers, each step's part, and `closing` or `failure` as the end.

    `accepted` comes right behind the headers, `heartbeat` after a silence at any time from then on, `prompt` after each step
    that computed a part of the prompt (the first one says how much the cache held), `opening` before the first delta.
    """

    def accepted(self) -> bytes: ...
    def heartbeat(self) -> bytes: ...
    def prompt(self, progress: PromptProgress) -> bytes: ...
    def opening(self) -> bytes: ...
    def delta(self, delta: Delta) -> bytes: ...
    def closing(self, outputs: Sequence[RequestOutput]) -> bytes: ...
    def failure(self, error: ApiError) -> bytes: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request that can be answered: what to compute, how to write it, and what its headers tell.

    `stream` is None where the answer is wanted whole. `note` is kept of its prompt from its first step on.
    """

    generation: Generation
    renderer: Renderer
    stream: StreamRenderer | None
    headers: Mapping[str, str]
    note: PromptNote | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """What every chunk of an answer repeats."""

    kind: str  # "chat.completion", "text_completion"
    model: str
    fingerprint: str | None  # None where the weights are not identified
    answer_id: str
    created: int = field(default_factory=lambda: int(time.time()))

    def fields(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.answer_id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerSource:
    """What an answer is read with: the tokenizer, and how many tokens a block of the cache holds."""

    tokenizer: Tokenizer
    block_size: int


def new_id(prefix: str) -> str:
    """Returns an id that cannot be guessed."""
    return f"{prefix}{os.urandom(12).hex()}"


def to_json(value: object) -> bytes:
    """Returns compact JSON in UTF-8; values hold no NaN."""
    return escaped_lines(_COMPACT.encode(value)).encode()


def json_text(text: str) -> bytes:
    """Returns a text as a JSON string in UTF-8."""
    return escaped_lines(encode_basestring(text)).encode()


def escaped_lines(text: str) -> str:
    if not text.isascii():
        for character, escape in _LINE_BREAKS:  # a hundred times as fast as one `translate`
            text = text.replace(character, escape)
    return text


def event(value: object) -> bytes:
    """Returns an event of a stream."""
    return b"data: " + to_json(value) + b"\n\n"


def failure_events(error: ApiError) -> bytes:
    """Returns the events with which a stream ends by an error."""
    return event({"error": openai_error(error)}) + DONE


def usage_fields(usage: Usage) -> dict[str, Any]:
    """Returns `usage`. Tokens of reasoning are told apart as soon as the server tells reasoning apart."""
    return {
        "prompt_tokens": usage.num_prompt,
        "completion_tokens": usage.num_completion,
        "total_tokens": usage.num_prompt + usage.num_completion,
        "prompt_tokens_details": {"cached_tokens": usage.num_cached, "cache_write_tokens": usage.num_written},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
