"""The four APIs as `quire bench serve` speaks them: what a request looks like, and what an event of its stream says."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Message = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What one request asks: a conversation to go on with, greedily, by `max_tokens`; `ignores_eos` never ends it earlier."""

    model: str
    messages: Sequence[Message]
    max_tokens: int
    ignores_eos: bool = True

    @property
    def common(self) -> dict[str, Any]:
        """The fields that every API spells alike."""
        eos = {"ignore_eos": True} if self.ignores_eos else {}
        return {"model": self.model, "temperature": 0, "stream": True, **eos}


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Tokens that a server reports; None for what it does not tell."""

    num_prompt: int | None = None
    num_cached: int | None = None
    num_output: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """What one event says: new text, counts, an error that ends the stream, or that this is the end."""

    text: str = ""
    counts: Counts | None = None
    error: str | None = None
    is_end: bool = False


class Api(Protocol):
    """How one API asks and answers."""

    path: str

    def fields(self, ask: Ask) -> dict[str, Any]: ...
    def news(self, data: str) -> News: ...


class EventLines:
    """The data of server-sent events, out of pieces that are cut anywhere."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> Iterator[str]:
        """Yields the data of each line that is whole now."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip().decode(errors="replace")


class ChatApi:
    """`/v1/chat/completions`."""

    path = "/v1/chat/completions"

    def fields(self, ask: Ask) -> dict[str, Any]:
        usage = {"stream_options": {"include_usage": True}}
        return {**ask.common, **usage, "messages": list(ask.messages), "max_tokens": ask.max_tokens}

    def news(self, data: str) -> News:
        return _completion_news(data, _chat_text)


class CompletionsApi:
    """`/v1/completions`: a conversation is its messages one below the other."""

    path = "/v1/completions"

    def fields(self, ask: Ask) -> dict[str, Any]:
        prompt = "\n".join(message["content"] for message in ask.messages)
        return {**ask.common, "stream_options": {"include_usage": True}, "prompt": prompt, "max_tokens": ask.max_tokens}

    def news(self, data: str) -> News:
        return _completion_news(data, lambda choice: choice.get("text") or "")


class ResponsesApi:
    """`/v1/responses`."""

    path = "/v1/responses"

    def fields(self, ask: Ask) -> dict[str, Any]:
        return {**ask.common, "store": False, "input": list(ask.messages), "max_output_tokens": ask.max_tokens}

    def news(self, data: str) -> News:
        event = json.loads(data)
        kind = event.get("type", "")
        if kind in ("response.output_text.delta", "response.reasoning_text.delta"):
            return News(text=event["delta"])
        if kind in ("response.completed", "response.incomplete"):
            return News(counts=_responses_counts(event["response"].get("usage") or {}), is_end=True)
        if kind in ("response.failed", "error"):
            error = event if kind == "error" else (event["response"].get("error") or {})
            return News(error=str(error.get("code") or "error"))
        return News()


class MessagesApi:
    """`/v1/messages`. What was cached is not among `input_tokens` there."""

    path = "/v1/messages"

    def fields(self, ask: Ask) -> dict[str, Any]:
        system = "\n".join(message["content"] for message in ask.messages if message["role"] == "system")
        messages = [message for message in ask.messages if message["role"] != "system"]
        return {**ask.common, "system": system, "messages": messages, "max_tokens": ask.max_tokens}

    def news(self, data: str) -> News:
        event = json.loads(data)
        match event.get("type"):
            case "content_block_delta":
                return News(text=event["delta"].get("text") or event["delta"].get("thinking") or "")
            case "message_start":
                return News(counts=_messages_counts(event["message"]["usage"]))
            case "message_delta":
                return News(counts=Counts(num_output=event["usage"]["output_tokens"]))
            case "message_stop":
                return News(is_end=True)
            case "error":
                return News(error=str(event["error"].get("type") or "error"))
        return News()


APIS: Mapping[str, Api] = {
    "chat": ChatApi(),
    "completions": CompletionsApi(),
    "responses": ResponsesApi(),
    "messages": MessagesApi(),
}


def error_kind(status: int, body: bytes) -> str:
    """Returns what an error answer is counted under: its status, and the code that it gives."""
    try:
        error = json.loads(body)["error"]
        code = error.get("code") or error.get("type")
    except (ValueError, LookupError, TypeError, AttributeError):
        code = None
    return f"HTTP {status}" if code is None else f"HTTP {status} {code}"


def _completion_news(data: str, text_of: Any) -> News:
    if data == "[DONE]":
        return News(is_end=True)
    chunk = json.loads(data)
    if "error" in chunk:
        return News(error=str(chunk["error"].get("code") or chunk["error"].get("type") or "error"))
    text = "".join(text_of(choice) for choice in chunk.get("choices", ()))
    usage = chunk.get("usage")
    return News(text=text, counts=None if usage is None else _openai_counts(usage))


def _chat_text(choice: Mapping[str, Any]) -> str:
    delta = choice.get("delta") or {}
    return delta.get("content") or delta.get("reasoning_content") or delta.get("reasoning") or ""


def _openai_counts(usage: Mapping[str, Any]) -> Counts:
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
    return Counts(num_prompt=usage.get("prompt_tokens"), num_cached=cached, num_output=usage.get("completion_tokens"))


def _responses_counts(usage: Mapping[str, Any]) -> Counts:
    cached = (usage.get("input_tokens_details") or {}).get("cached_tokens")
    return Counts(num_prompt=usage.get("input_tokens"), num_cached=cached, num_output=usage.get("output_tokens"))


def _messages_counts(usage: Mapping[str, Any]) -> Counts:
    cached = usage.get("cache_read_input_tokens") or 0
    written = usage.get("cache_creation_input_tokens") or 0
    return Counts(num_prompt=usage["input_tokens"] + cached + written, num_cached=cached)
