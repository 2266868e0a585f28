"""What the OpenAPI file says about fields whose values the engine checks: their forms and ranges."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import WithJsonSchema

from quire.sampling import (
    COUNT_LIMITS,
    MAX_ALLOWED_TOKENS,
    MAX_NAMED_TOKENS,
    MAX_STOP_CHARS,
    MAX_STOPS,
    NUMBER_LIMITS,
)
from quire.server.limits import Limits

_ANSWERED_WITHOUT_TOKENS = ("/v1/completions", "/v1/messages")
_NULL = {"type": "null"}
_STRING = {"type": "string"}
_ID = {"type": "integer", "minimum": 0}
_SOME_TEXT = {"type": "string", "minLength": 1, "maxLength": MAX_STOP_CHARS}
_IDS = {"type": "array", "items": _ID}
_PART = {
    "type": "object",
    "required": ["type"],
    "properties": {"type": {"enum": ["text", "input_text", "output_text", "refusal"]}, "text": _STRING, "refusal": _STRING},
}
_MESSAGE = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {
        "role": {"enum": ["developer", "system", "user", "assistant"]},
        "content": {"anyOf": [_STRING, {"type": "array", "items": _PART}]},
        "name": {"anyOf": [_STRING, _NULL]},
        "reasoning_content": {"anyOf": [_STRING, _NULL]},
        "reasoning": {"anyOf": [_STRING, _NULL]},
    },
}


def _any_of(*schemas: dict[str, Any]) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": list(schemas)})


Texts = Annotated[Any, _any_of(_SOME_TEXT, {"type": "array", "items": _SOME_TEXT, "maxItems": MAX_STOPS}, _NULL)]
NamedIds = Annotated[Any, _any_of({**_IDS, "maxItems": MAX_NAMED_TOKENS}, _NULL)]
AllowedIds = Annotated[Any, _any_of({**_IDS, "minItems": 1, "maxItems": MAX_ALLOWED_TOKENS}, _NULL)]
Ids = Annotated[Any, WithJsonSchema(_IDS)]
Prompt = Annotated[Any, _any_of(_STRING, _IDS)]
MaybePrompt = Annotated[Any, _any_of(_STRING, _IDS, _NULL)]
Prompts = Annotated[Any, _any_of(_STRING, _IDS, {"type": "array", "items": {"anyOf": [_STRING, _IDS]}, "minItems": 1})]
Biases = Annotated[
    Any,
    _any_of(
        {
            "type": "object",
            "propertyNames": {"pattern": "^[0-9]{1,10}$"},
            "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
            "maxProperties": 300,
        },
        _NULL,
    ),
]
Messages = Annotated[Any, WithJsonSchema({"type": "array", "items": _MESSAGE, "minItems": 1})]
MaybeMessages = Annotated[Any, _any_of({"type": "array", "items": _MESSAGE, "minItems": 1}, _NULL)]


def ranges_of(path: str, limits: Limits) -> dict[str, dict[str, float]]:
    """Returns the least and the largest value of every number among the sampling parameters of an endpoint."""
    counts = {name: limit for name, limit in COUNT_LIMITS.items() if name not in ("seed", "logprobs", "max_tokens")}
    ranges: dict[str, dict[str, float]] = {
        name: {"minimum": low, "maximum": high} for name, (low, high) in (counts | dict(NUMBER_LIMITS)).items()
    }
    ranges["n"] = {"minimum": 1, "maximum": limits.completions}
    ranges["prompt_logprobs"] = {"minimum": 0, "maximum": limits.logprobs}
    if path == "/v1/completions":
        ranges["logprobs"] = {"minimum": 0, "maximum": limits.logprobs}
    least = 0 if path in _ANSWERED_WITHOUT_TOKENS else 1
    longest: dict[str, dict[str, float]] = {
        name: {"minimum": least} for name in ("max_tokens", "max_completion_tokens", "max_output_tokens")
    }
    return ranges | longest | {"top_logprobs": {"minimum": 0, "maximum": limits.logprobs}}
