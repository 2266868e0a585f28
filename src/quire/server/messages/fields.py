"""The fields of `/v1/messages`, as Anthropic's clients spell them. What has no meaning here is ignored and named."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from quire.server.errors import refuse
from quire.server.fields import SamplingFields, ignored_fields, read_fields
from quire.server.json_body import Fields
from quire.server.limits import MAX_LABEL_CHARS

OF_OTHER_APIS = ("n", "prompt_logprobs", "return_progress", "return_token_ids", "stop", "stream_options")
_STRUCTURE = "unsupported_structured_output"


class Thinking(BaseModel):
    """`thinking`: whether the model thinks before it answers."""

    model_config = ConfigDict(extra="allow", strict=True)

    type: Literal["enabled", "adaptive", "between_tools", "disabled"]


class OutputConfig(BaseModel):
    """`output_config`: how much the model thinks, and a schema of its answer."""

    model_config = ConfigDict(extra="allow", strict=True)

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: Any = None


class Diagnostics(BaseModel):
    """`diagnostics`: the answer with whose request this one is compared, None where there is none before it."""

    model_config = ConfigDict(extra="allow", strict=True)

    previous_message_id: str | None = Field(None, max_length=MAX_LABEL_CHARS)


class MessageFields(SamplingFields):
    """The fields of a message."""

    messages: Any = None
    system: Any = None
    stop_sequences: list[str] | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    tools: Any = None
    tool_choice: Any = None
    diagnostics: Diagnostics | None = None


def read_message_fields(fields: Fields) -> tuple[MessageFields, list[str]]:
    """Returns a request checked for types, and the names of fields without effect.

    Raises ApiError that names the field at fault, or one that is not supported.
    """
    foreign = [name for name in OF_OTHER_APIS if name in fields]
    request = read_fields(MessageFields, {name: value for name, value in fields.items() if name not in OF_OTHER_APIS})
    _refuse_structure(request)
    ignored = [*foreign, *ignored_fields(request), *_ignored_inside(request)]
    request.stop = request.stop_sequences
    return request, ignored


def _refuse_structure(request: MessageFields) -> None:
    """Raises ApiError for a schema of the answer: in `output_config`, or where older clients put it."""
    in_config = request.output_config is not None and request.output_config.format is not None
    if in_config or (request.model_extra or {}).get("output_format") is not None:
        name = "output_config.format" if in_config else "output_format"
        raise refuse(
            f"{name} asks for structured output, which this server does not support yet",
            f"Leave {name} out.",
            param=name,
            code=_STRUCTURE,
        )


def _ignored_inside(request: MessageFields) -> list[str]:
    objects = {"thinking": request.thinking, "output_config": request.output_config}
    return [f"{name}.{key}" for name, value in objects.items() if value is not None for key in value.model_extra or {}]
