"""The fields that requests of both completion APIs share, and what becomes of every other: each is translated, refused by
name, or ignored and named in the header `x-quire-ignored`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from quire.sampling import MAX_SEED
from quire.server.errors import ApiError, refuse
from quire.server.json_body import Fields
from quire.server.limits import MAX_LABEL_CHARS, Limits
from quire.server.sampling_schema import AllowedIds, Biases, NamedIds, Texts

_INT64 = (-(2**63), 2**63 - 1)
_MAX_DRAWN_SEED_BITS = 53  # JavaScript keeps no larger integer
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,40}")
_TOKEN_ID = re.compile(r"[0-9]{1,10}")
_OF_TOKENS = ("stop_token_ids", "allowed_token_ids", "prompt_logprobs")
Priority = Annotated[int | None, Field(ge=-100, le=100)]
_Model = TypeVar("_Model", bound="RequestFields")


class StreamOptions(BaseModel):
    """`stream_options`."""

    model_config = ConfigDict(strict=True)

    include_usage: bool | None = None


class RequestFields(BaseModel):
    """A request as its API spells it. Declared fields are translated; None is the same as leaving a field out."""

    model_config = ConfigDict(extra="allow", strict=True, protected_namespaces=())

    model: str | None = Field(None, max_length=MAX_LABEL_CHARS)


class SamplingFields(RequestFields):
    """How to continue a prompt: OpenAI's fields, then vLLM's and llama-server's. The engine checks the values."""

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    seed: int | None = Field(None, ge=_INT64[0], le=_INT64[1])
    stop: Texts = None
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Biases = None
    max_tokens: int | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    min_tokens: int | None = None
    stop_token_ids: NamedIds = None
    allowed_token_ids: AllowedIds = None
    bad_words: Texts = None
    ignore_eos: bool | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    prompt_logprobs: int | None = None
    return_token_ids: bool | None = None
    return_progress: bool | None = None
    cache_prompt: bool | None = None
    cache_salt: str | None = Field(None, max_length=MAX_LABEL_CHARS)
    priority: Priority = None

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with its usage."""
        return self.stream_options is not None and self.stream_options.include_usage is True


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsupported:
    """A field that asks for something which is refused; `neutral` are the values with which it asks for nothing."""

    what: str
    code: str
    neutral: tuple[object, ...] = ()


_STRUCTURE = Unsupported(what="structured output", code="unsupported_structured_output")
_GRAMMAR = Unsupported(what=_STRUCTURE.what, code=_STRUCTURE.code, neutral=("",))
_TOOLS = Unsupported(what="tool calls", code="unsupported_tools", neutral=([],))
_CUTTING = Unsupported(what="cutting the prompt: no prompt is shortened", code="unsupported_truncation")

UNSUPPORTED: Mapping[str, Unsupported] = MappingProxyType(
    dict.fromkeys(("guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs"), _STRUCTURE)
    | dict.fromkeys(("grammar", "json_schema", "regex", "ebnf", "structural_tag"), _GRAMMAR)
    | dict.fromkeys(("tools", "functions"), _TOOLS)
    | {
        "response_format": Unsupported(what=_STRUCTURE.what, code=_STRUCTURE.code, neutral=({"type": "text"},)),
        "tool_choice": Unsupported(what=_TOOLS.what, code=_TOOLS.code, neutral=("auto", "none")),
        "function_call": Unsupported(what=_TOOLS.what, code=_TOOLS.code, neutral=("auto", "none")),
        "truncate_prompt_tokens": _CUTTING,
        "truncation": Unsupported(what=_CUTTING.what, code=_CUTTING.code, neutral=("disabled",)),
        "audio": Unsupported(what="audio", code="unsupported_audio"),
        "modalities": Unsupported(what="anything but text", code="unsupported_modality", neutral=(["text"], [])),
        "chat_template": Unsupported(what="a template of the request", code="unsupported_template"),
        "logits_processors": Unsupported(what="code of the request", code="unsupported_code", neutral=([],)),
        "use_beam_search": Unsupported(what="beam search", code="unsupported_beam_search", neutral=(False,)),
        "prompt_embeds": Unsupported(what="embeddings as a prompt", code="unsupported_embeddings"),
        "kv_transfer_params": Unsupported(what="a transfer of K/V", code="unsupported_transfer"),
    }
)


def read_fields(model: type[_Model], fields: Fields) -> _Model:
    """Returns a request checked for types; raises ApiError that names the field at fault, or one that is not supported."""
    try:
        request = model.model_validate(fields)
    except ValidationError as error:
        raise _of_validation(error) from None
    for name, value in (request.model_extra or {}).items():
        unsupported = UNSUPPORTED.get(name)
        if unsupported is not None and value is not None and value not in unsupported.neutral:
            raise refuse(
                f"{name} asks for {unsupported.what}, which this server does not support yet",
                f"Leave {name} out.",
                param=name,
                code=unsupported.code,
            )
    return request


def ignored_fields(request: RequestFields) -> Iterator[str]:
    """Yields the fields that had no effect: those that are null, then those that are not known."""
    others = request.model_extra or {}
    given = request.model_fields_set.difference(others)
    for name, field in type(request).model_fields.items():
        if name in given and getattr(request, name) is None:
            yield field.alias or name
    for name, value in others.items():
        if value is None or name not in UNSUPPORTED:
            yield name


def ignored_header(names: Iterable[str], limits: Limits) -> str:
    """Returns the value of `x-quire-ignored`: names as they were sent, "?" for what is no name, as many as it has room for."""
    shown = dict.fromkeys(name if _NAME.fullmatch(name) else "?" for name in names)
    header = ", ".join(shown)
    if len(header) <= limits.ignored_bytes:
        return header
    return f"{header[: limits.ignored_bytes - 5].rpartition(', ')[0]}, ..."


def _of_validation(error: ValidationError) -> ApiError:
    """Returns the first fault with its place. Names that a client chose are not repeated."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    names = [str(part) for part in first["loc"] if isinstance(part, int) or _NAME.fullmatch(part)]
    param = ".".join(names) or None
    return refuse(f"{param or 'the body'}: {first['msg']}", "Send it as the API's description says.", param=param)


def sampling_of(request: SamplingFields, recommended: Mapping[str, float], limits: Limits) -> dict[str, Any]:
    """Returns the parameters of `SamplingParams` that a request asks for, without those of its API alone.

    What is left out is what the model recommends, else the API's default. A temperature of 0 and a top_p of 0 both mean the
    most likely token, whatever else is asked for.
    """
    names = (
        "presence_penalty",
        "frequency_penalty",
        "min_tokens",
        "ignore_eos",
        "include_stop_str_in_output",
        "skip_special_tokens",
    )
    given = {name: getattr(request, name) for name in (*names, "stop", "bad_words", *_OF_TOKENS)}
    drawing = {name: getattr(request, name) for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")}
    params = {**recommended, **{name: value for name, value in (given | drawing).items() if value is not None}}
    if 0 in (params.get("temperature"), params.get("top_p")):
        params = {name: value for name, value in params.items() if name not in ("top_p", "top_k", "min_p")} | {"temperature": 0.0}
    require_logprobs("prompt_logprobs", request.prompt_logprobs, limits)
    return params | {"logit_bias": _biases(request.logit_bias, limits)}


def is_greedy(params: Mapping[str, Any]) -> bool:
    """Returns whether parameters take the most likely token."""
    return bool(params.get("temperature") == 0)


def seed_of(seed: int | None) -> int:
    """Returns the engine's seed for any of 64 bits: the lower 63 of its two's complement. None is drawn here."""
    return int.from_bytes(os.urandom(8), "little") >> (64 - _MAX_DRAWN_SEED_BITS) if seed is None else seed & MAX_SEED


def require_logprobs(name: str, value: int | None, limits: Limits) -> int | None:
    """Returns a number of most likely tokens; raises ApiError where the API has no such number."""
    if value is not None and not 0 <= value <= limits.logprobs:
        raise refuse(f"{name} must be from 0 to {limits.logprobs}", f"Pass {name} within that range.", param=name)
    return value


def _biases(value: object, limits: Limits) -> dict[int, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > limits.logit_biases or not all(map(_TOKEN_ID.fullmatch, value)):
        raise refuse(
            f"logit_bias must map at most {limits.logit_biases} token ids, written as text, to numbers",
            'Pass it as {"1234": -100}.',
            param="logit_bias",
        )
    return {int(token_id): bias for token_id, bias in value.items()}
