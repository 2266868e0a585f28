"""Reads the body of a request: plain JSON, of a bounded size."""

from __future__ import annotations

from starlette.requests import Request

from quire.server.errors import ApiError, Refusal
from quire.server.limits import Limits
from quire.units import format_bytes


async def read_body(request: Request, limits: Limits) -> bytes:
    """Returns the whole body.

    Raises ApiError (413, 415) for one that is too large, that is encoded, or that does not say it is JSON: a page on another
    site can make a browser send any other type without asking this server first.
    """
    _require_json(request)
    declared = request.headers.get("content-length", "0")
    if not declared.isdigit() or int(declared) > limits.body_bytes:
        raise _too_large(limits)
    pieces, num_bytes = [], 0
    async for piece in request.stream():
        num_bytes += len(piece)
        if num_bytes > limits.body_bytes:
            raise _too_large(limits)
        pieces.append(piece)
    return b"".join(pieces)


def declared_bytes(request: Request) -> int | None:
    """Returns the length that the head of a request declares for its body, None where it declares none."""
    declared = request.headers.get("content-length", "")
    return int(declared) if declared.isdigit() else None


def _require_json(request: Request) -> None:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise _unsupported("the body is not declared to be JSON", 'Send the header "Content-Type: application/json".')
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise _unsupported("the body is encoded", "Send it without Content-Encoding.")


def _unsupported(problem: str, next_step: str) -> ApiError:
    return ApiError(problem, next_step=next_step, refusal=Refusal(status=415, code="unsupported_media_type"))


def _too_large(limits: Limits) -> ApiError:
    return ApiError(
        "the body is too large",
        limit=format_bytes(limits.body_bytes),
        next_step="Send less.",
        refusal=Refusal(status=413, code="request_too_large", headers={"connection": "close"}),
    )
