"""What the two APIs of agents answer, as the OpenAPI file describes it: responses and messages."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from quire.server.openapi_answers import Answered, ChatEntry
from quire.server.openapi_kv_answers import CacheMiss, MessageDiagnostics, NoCacheMiss


class InputTokens(Answered):
    """Tokens of a prompt that the cache held, and those written into it."""

    cached_tokens: int = Field(ge=0)
    cache_write_tokens: int = Field(ge=0)


class OutputTokens(Answered):
    """Tokens of an answer that are reasoning."""

    reasoning_tokens: int = Field(ge=0)


class ResponseUsage(Answered):
    """Tokens that a response took."""

    input_tokens: int = Field(ge=0)
    input_tokens_details: InputTokens
    output_tokens: int = Field(ge=0)
    output_tokens_details: OutputTokens
    total_tokens: int = Field(ge=0)


class OutputText(Answered):
    """The text of an output item."""

    type: Literal["output_text"]
    annotations: list[Any]
    logprobs: list[ChatEntry]
    text: str


class OutputMessage(Answered):
    """A message of the model's."""

    type: Literal["message"]
    id: str
    status: Literal["in_progress", "completed", "incomplete"]
    role: Literal["assistant"]
    content: list[OutputText]


class ResponseAnswer(Answered):
    """An answer of `/v1/responses`, new or kept."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    error: dict[str, Any] | None
    incomplete_details: dict[str, Any] | None
    output: list[OutputMessage]
    background: Literal[False]
    frequency_penalty: float
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: None
    metadata: dict[str, str]
    model: str
    parallel_tool_calls: bool
    presence_penalty: float
    previous_response_id: str | None
    prompt_cache_key: str | None
    reasoning: dict[str, Any]
    safety_identifier: str | None
    service_tier: Literal["default"]
    store: bool
    system_fingerprint: str | None
    temperature: float
    text: dict[str, Any]
    tool_choice: Literal["auto", "none"]
    tools: list[Any]
    top_logprobs: int
    top_p: float
    truncation: Literal["disabled"]
    user: str | None
    usage: ResponseUsage | None
    prompt_cache_diagnostics: CacheMiss | NoCacheMiss | None


class CountedInput(Answered):
    """The tokens of a prompt, in the words of OpenAI's API."""

    object: Literal["response.input_tokens"]
    input_tokens: int = Field(ge=0)


class DeletedResponse(Answered):
    """A response that is not kept any more."""

    id: str
    object: Literal["response"]
    deleted: Literal[True]


class InputItems(Answered):
    """One page of what a response was given."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str
    last_id: str
    has_more: bool


class ThinkingTokens(Answered):
    """Tokens of an answer that are thinking."""

    thinking_tokens: int = Field(ge=0)


class MessageUsage(Answered):
    """Tokens that a message took; `input_tokens` are neither read from the cache nor written into it."""

    input_tokens: int = Field(ge=0)
    cache_creation_input_tokens: int = Field(ge=0)
    cache_read_input_tokens: int = Field(ge=0)
    output_tokens: int = Field(ge=0)
    output_tokens_details: ThinkingTokens
    service_tier: Literal["standard"]


class TextBlock(Answered):
    """A block of text."""

    type: Literal["text"]
    text: str


class MessageAnswer(Answered):
    """An answer of `/v1/messages`."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[TextBlock]
    stop_reason: Literal["end_turn", "stop_sequence", "max_tokens", "model_context_window_exceeded"]
    stop_sequence: str | None
    usage: MessageUsage
    diagnostics: MessageDiagnostics | None


class CountedTokens(Answered):
    """The tokens of a prompt, in the words of Anthropic's API."""

    input_tokens: int = Field(ge=0)
