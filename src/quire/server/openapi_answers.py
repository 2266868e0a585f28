"""What the server answers, as its OpenAPI file describes it: the fields of every object that is not an event of a stream."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

FinishReason = Literal["stop", "length", "abort"]


class Answered(BaseModel):
    """An object that holds these fields and no others."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class PromptTokens(Answered):
    """Tokens of a prompt that the cache held, and those written into it."""

    cached_tokens: int = Field(ge=0)
    cache_write_tokens: int = Field(ge=0)


class CompletionTokens(Answered):
    """Tokens of an answer that are reasoning."""

    reasoning_tokens: int = Field(ge=0)


class UsageAnswer(Answered):
    """Tokens that a request took."""

    prompt_tokens: int = Field(ge=0)
    completion_tokens: int = Field(ge=0)
    total_tokens: int = Field(ge=0)
    prompt_tokens_details: PromptTokens
    completion_tokens_details: CompletionTokens


class Candidate(Answered):
    """A token that might have come, and its log-probability."""

    token: str
    logprob: float
    bytes: list[int]


class ChatEntry(Candidate):
    """A token of a chat's answer, and the most likely ones at its place."""

    top_logprobs: list[Candidate]


class ChatLogprobs(Answered):
    """Log-probabilities of a chat's answer."""

    content: list[ChatEntry]
    refusal: None


class ChatMessage(Answered):
    """What the model answered."""

    role: Literal["assistant"]
    content: str
    refusal: None
    annotations: list[Any]


class ChatChoice(Answered):
    """One answer to a chat."""

    index: int = Field(ge=0)
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason
    token_ids: list[int] | None = None


class Envelope(Answered):
    """What every answer of the engine begins with."""

    id: str
    created: int
    model: str
    system_fingerprint: str | None


PromptEntries = list[dict[str, Any] | None]


class ChatCompletion(Envelope):
    """An answer of `/v1/chat/completions`."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: UsageAnswer
    service_tier: Literal["default"]
    prompt_logprobs: PromptEntries | None = None
    prompt_token_ids: list[int] | None = None


class CompletionLogprobs(Answered):
    """Log-probabilities of a text, one entry per token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class CompletionChoice(Answered):
    """One continuation of one prompt."""

    index: int = Field(ge=0)
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason
    prompt_logprobs: PromptEntries | None = None
    prompt_token_ids: list[int] | None = None
    token_ids: list[int] | None = None


class Completion(Envelope):
    """An answer of `/v1/completions`: the choices of the first prompt come first."""

    object: Literal["text_completion"]
    choices: list[CompletionChoice]
    usage: UsageAnswer


class RankedToken(Answered):
    """A token that might have come, and its place among all."""

    token_id: int
    token: str | None
    logprob: float
    rank: int


class ScoreAnswer(Envelope):
    """An answer of `/v1/score`: one entry per token of context and prompt."""

    object: Literal["score"]
    token_ids: list[int]
    tokens: list[str]
    num_context_tokens: int
    logprobs: list[float | None]
    top_logprobs: list[list[RankedToken] | None] | None
    total: float
    loss: float | None
    perplexity: float | None
    usage: UsageAnswer


class Piece(Answered):
    """A token as llama-server writes it: its text, or its bytes where these are no whole characters."""

    id: int
    piece: str | list[int]


class Tokens(Answered):
    """The tokens of a text or of a chat."""

    count: int = Field(ge=0)
    max_model_len: int
    tokens: list[int] | list[Piece]
    token_strs: list[str] | None


class Text(Answered):
    """The text of tokens, under the names of two servers."""

    prompt: str
    content: str


class ModelMeta(Answered):
    """What llama-server tells of a model."""

    n_ctx: int


class ModelCard(Answered):
    """A name of the model, and the context that one request can use."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: Literal["quire"]
    type: Literal["model"]
    display_name: str
    created_at: str
    lifecycle: Literal["active"]
    capabilities: dict[str, Any]
    root: str
    max_model_len: int
    context_length: int
    max_input_tokens: int
    max_tokens: int
    meta: ModelMeta


class ModelList(Answered):
    """All names."""

    object: Literal["list"]
    data: list[ModelCard]
    has_more: Literal[False]
    first_id: str
    last_id: str


class State(BaseModel):
    """Whether the server is up, and why not."""

    status: str
    reason: str | None = None


class VersionAnswer(Answered):
    """The version of Quire."""

    version: str


class Index(Answered):
    """What is served."""

    name: Literal["quire"]
    version: str
    time: int
    endpoints: list[str]


class Description(BaseModel):
    """This file."""

    openapi: Literal["3.1.0"]
    info: dict[str, Any]
    paths: dict[str, Any]
    components: dict[str, Any]


class OpenAIErrorBody(Answered):
    """What was wrong, in the words of OpenAI's API."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(Answered):
    """An error of every API but Anthropic's."""

    error: OpenAIErrorBody


class AnthropicErrorBody(Answered):
    """What was wrong, in the words of Anthropic's API."""

    type: str
    message: str
    details: dict[str, str] = Field(default_factory=dict)


class AnthropicError(Answered):
    """An error below `/v1/messages`."""

    type: Literal["error"]
    error: AnthropicErrorBody
    request_id: str
