"""The fields of the Responses API, and what becomes of those that this server cannot serve."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from quire.server.errors import ApiError, refuse
from quire.server.fields import SamplingFields, ignored_fields, read_fields
from quire.server.json_body import Fields
from quire.server.limits import MAX_LABEL_CHARS, MAX_METADATA_CHARS, MAX_METADATA_NAME_CHARS, Limits

Label = Annotated[str, Field(max_length=MAX_LABEL_CHARS)]

_LOGPROBS = "message.output_text.logprobs"
_ACCEPTED_INCLUDES = (_LOGPROBS, "reasoning.encrypted_content")
"""There is nothing to encrypt in the second; agents ask for it in every request."""

_UNSUPPORTED: Mapping[str, str] = MappingProxyType(
    {
        "background": "an answer in the background",
        "conversation": "a stored conversation: previous_response_id continues a response",
        "prompt": "a stored prompt",
        "context_management": "shortening the context",
    }
)


class _Group(BaseModel):
    """A group of fields; what is not declared has no effect and is named."""

    model_config = ConfigDict(extra="allow", strict=True)

    def ignored(self, group: str, *without_effect: str) -> Iterator[str]:
        """Yields the names of fields without effect as they stand in the request."""
        given = [name for name in without_effect if getattr(self, name) is not None]
        return (f"{group}.{name}" for name in [*given, *(self.model_extra or {})])


class TextFields(_Group):
    """`text`."""

    format: Any = None
    verbosity: Label | None = None


class ReasoningFields(_Group):
    """`reasoning`."""

    effort: Label | None = None
    summary: Label | None = None


class PromptCacheOptions(_Group):
    """`prompt_cache_options`. `prewarm` computes the prompt into the cache and generates nothing."""

    comparison_response_id: Label | None = None
    prewarm: bool | None = None
    mode: Label | None = None
    ttl: Label | None = None


class ResponseFields(SamplingFields):
    """The fields of a response."""

    input: Any = None
    instructions: str | None = None
    previous_response_id: Label | None = None
    store: bool | None = None
    max_output_tokens: int | None = None
    include: list[str] | None = None
    top_logprobs: int | None = None
    text: TextFields | None = None
    reasoning: ReasoningFields | None = None
    prompt_cache_options: PromptCacheOptions | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    metadata: Any = None
    prompt_cache_key: Label | None = None
    safety_identifier: Label | None = None
    user: Label | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    documents: Any = None
    background: bool | None = None
    conversation: Any = None
    prompt: Any = None
    context_management: Any = None

    @property
    def reasoning_effort(self) -> str | None:
        """How much to think; None where the request leaves it to the model."""
        return None if self.reasoning is None else self.reasoning.effort

    @property
    def is_prewarming(self) -> bool:
        """Whether the prompt is to be computed and nothing generated."""
        return self.prompt_cache_options is not None and self.prompt_cache_options.prewarm is True

    @property
    def comparison_id(self) -> str | None:
        """The response with whose request this one is compared; None where no diagnosis of the cache is wanted."""
        return None if self.prompt_cache_options is None else self.prompt_cache_options.comparison_response_id

    @property
    def num_top(self) -> int | None:
        """How many candidates are wanted besides each token's log-probability; None: no log-probabilities."""
        return self.top_logprobs or 0 if _LOGPROBS in (self.include or ()) else None


def read_response_fields(fields: Fields, limits: Limits) -> ResponseFields:
    """Returns a request checked for types; raises ApiError for a field that asks for what this server does not do."""
    request = read_fields(ResponseFields, fields)
    for name, what in _UNSUPPORTED.items():
        if getattr(request, name) not in (None, False):
            raise refuse(
                f"{name} asks for {what}, which this server does not support",
                f"Leave {name} out.",
                param=name,
                code=f"unsupported_{name}",
            )
    if request.n not in (None, 1):
        raise refuse("a response has one output", "Leave n out, or use /v1/chat/completions.", param="n")
    if request.prompt_logprobs is not None:
        raise refuse("a response has no prompt_logprobs", "Leave it out, or use /v1/completions.", param="prompt_logprobs")
    _require_metadata(request.metadata, limits)
    _require_text(request.text)
    return request


def ignored_names(request: ResponseFields) -> Iterator[str]:
    """Yields the names of fields without effect."""
    yield from ignored_fields(request)
    if request.return_token_ids is not None:
        yield "return_token_ids"
    yield from (f"include.{name}" for name in request.include or () if name not in _ACCEPTED_INCLUDES)
    if request.top_logprobs and request.num_top is None:
        yield "top_logprobs"
    if request.text is not None:
        yield from request.text.ignored("text", "verbosity")
    if request.reasoning is not None:
        yield from request.reasoning.ignored("reasoning", "summary")
    if request.prompt_cache_options is not None:
        yield from request.prompt_cache_options.ignored("prompt_cache_options", "mode", "ttl")


def _require_metadata(metadata: Any, limits: Limits) -> None:
    """Raises ApiError unless metadata is a short mapping of short texts. The error repeats no name of the client's."""
    is_mapping = metadata is None or (isinstance(metadata, dict) and len(metadata) <= limits.metadata)
    if not is_mapping or any(not _is_entry(*entry) for entry in (metadata or {}).items()):
        raise refuse(
            f"metadata must map at most {limits.metadata} names of up to {MAX_METADATA_NAME_CHARS} characters "
            f"to texts of up to {MAX_METADATA_CHARS}",
            'Send {"name": "text"}, or leave it out.',
            param="metadata",
        )


def _is_entry(name: str, value: object) -> bool:
    return len(name) <= MAX_METADATA_NAME_CHARS and isinstance(value, str) and len(value) <= MAX_METADATA_CHARS


def _require_text(text: TextFields | None) -> None:
    kind = {"type": "text"} if text is None or text.format is None else text.format
    if not isinstance(kind, dict) or kind.get("type") != "text":
        raise _unsupported_format()


def _unsupported_format() -> ApiError:
    return refuse(
        "text.format asks for structured output, which this server does not support yet",
        'Leave it out, or send {"type": "text"}.',
        param="text.format",
        code="unsupported_structured_output",
    )
