"""Errors of the API: what a client reads instead of an answer, in the shape of the API that it speaks.

A message never repeats what the client sent: it names the field, the limit and what to do.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from quire.errors import CapacityError, EmptyPromptError, PromptTooLongError, QuireError, RequestError, SamplingError

_log = logging.getLogger("quire.server")

ANTHROPIC_PATHS = "/v1/messages"
MAX_MESSAGE_CHARS = 600
SHUTTING_DOWN, LOADING = "shutting_down", "loading"
_PLANNED = ("/v1/responses/compact", "/v1/embeddings")

_OPENAI_TYPES: Mapping[int, str] = MappingProxyType(
    {401: "authentication_error", 403: "permission_error", 408: "timeout_error", 429: "rate_limit_error", 504: "timeout_error"}
)
_ANTHROPIC_TYPES: Mapping[int, str] = MappingProxyType(
    {
        401: "authentication_error",
        403: "permission_error",
        404: "not_found_error",
        408: "timeout_error",
        413: "request_too_large",
        429: "rate_limit_error",
        503: "overloaded_error",
        504: "timeout_error",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """How an error is sent: its status, the field at fault (`param`), a word that programs compare (`code`), further headers."""

    status: int = 400
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class ApiError(QuireError):
    """A request that gets an error instead of an answer."""

    def __init__(self, problem: str, *, next_step: str, refusal: Refusal, limit: object = None) -> None:
        super().__init__(problem, next_step=next_step, limit=limit)
        self.refusal = refusal


def refuse(problem: str, next_step: str, *, param: str | None = None, code: str | None = None) -> ApiError:
    """Returns the error for a request that asks for something impossible: status 400."""
    return ApiError(problem, next_step=next_step, refusal=Refusal(param=param, code=code))


def not_served(path: str) -> ApiError:
    """Returns the error for a path that leads nowhere, or not yet."""
    is_planned = path.startswith(_PLANNED)
    problem = "this server does not have this endpoint yet" if is_planned else "there is nothing at this path"
    return ApiError(
        problem, next_step="GET / lists what is served here.", refusal=Refusal(status=404, code="unsupported_endpoint")
    )


def api_error(error: BaseException) -> ApiError:
    """Returns what a client is told about any exception."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RequestError):
        return _of_request(error)
    if isinstance(error, QuireError):
        return ApiError(
            "the engine could not answer this request",
            next_step="Try again; if it stays, see the server's log.",
            refusal=Refusal(status=500, code="engine_error"),
        )
    return ApiError("the server failed", next_step="Report this as a defect.", refusal=Refusal(status=500, code="internal_error"))


def log_defect(error: BaseException, name: str = "a request") -> None:
    """Writes an error that was not raised on purpose into the log, with its traceback and without values."""
    if not isinstance(error, QuireError):
        _log.error("%s failed: %s", name, type(error).__name__, exc_info=error)


def error_body(error: ApiError, path: str, request_id: str) -> bytes:
    """Returns an error as JSON in the shape of the API to which a path belongs."""
    if path == ANTHROPIC_PATHS or path.startswith(f"{ANTHROPIC_PATHS}/"):
        body: object = {"type": "error", "error": anthropic_error(error), "request_id": request_id}
    else:
        body = {"error": openai_error(error)}
    return json.dumps(body, ensure_ascii=False).encode()


def openai_error(error: ApiError) -> dict[str, object]:
    """Returns what OpenAI's clients expect below `error`, in a body and in a stream."""
    refusal = error.refusal
    kind = _OPENAI_TYPES.get(refusal.status, _by_class(refusal.status, "server_error"))
    return {"message": message_of(error), "type": kind, "param": refusal.param, "code": refusal.code}


def anthropic_error(error: ApiError) -> dict[str, object]:
    """Returns what Anthropic's clients expect below `error`, in a body and in a stream."""
    refusal = error.refusal
    kind = _ANTHROPIC_TYPES.get(refusal.status, _by_class(refusal.status, "api_error"))
    details = {} if refusal.code is None else {"details": {"error_code": refusal.code}}
    return {"type": kind, "message": message_of(error), **details}


def message_of(error: QuireError) -> str:
    """Returns the text of an error without control characters, bounded."""
    text = "".join(character if character.isprintable() else " " for character in str(error))
    return text if len(text) <= MAX_MESSAGE_CHARS else f"{text[: MAX_MESSAGE_CHARS - 3]}..."


def _by_class(status: int, of_server: str) -> str:
    return "invalid_request_error" if status < 500 else of_server


def _of_request(error: RequestError) -> ApiError:
    """Returns an error of the engine's checks. What was given is told where the engine counted it."""
    is_counted = isinstance(error, (CapacityError, EmptyPromptError, PromptTooLongError))
    facts = f" ({error.given})" if is_counted and error.given is not None else ""
    code = "context_length_exceeded" if isinstance(error, PromptTooLongError) else None
    return ApiError(
        f"{error.problem}{facts}",
        limit=error.limit,
        next_step=error.next_step,
        refusal=Refusal(param=_param_of(error), code=code),
    )


def _param_of(error: RequestError) -> str | None:
    """Returns the sampling parameter that an error is about: these errors begin with its name."""
    if not isinstance(error, SamplingError):
        return None
    word = error.problem.partition(" ")[0]
    return word if "_" in word or word in {"n", "seed", "stop", "temperature", "logprobs"} else None
