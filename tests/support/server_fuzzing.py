"""Sends mutated requests to a server in this process and judges its answers."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from quire.server.errors import ANTHROPIC_PATHS
from quire.server.limits import Limits
from support.asgi_client import Asked, Reply, ask, posting, running_app
from support.request_mutations import mutation
from support.stream_rules import fault_of

MAX_CONTEXT = 256
_MAX_ERROR_BYTES = 4096
_FAILURES = (b'data: {"error"', b"event: error\n", b"event: response.failed\n")
_TOGETHER = 16
_PATIENCE_S = 600.0  # how long an answer takes says how busy the machine is
_NORMAL = (
    posting(
        "/v1/chat/completions", {"messages": [{"role": "user", "content": "Name a color."}], "temperature": 0, "max_tokens": 8}
    ),
    posting("/v1/completions", {"prompt": "One, two,", "temperature": 1, "seed": 7, "max_tokens": 8, "logprobs": 2}),
)


class UnfitAnswerError(Exception):
    """An answer that no request may get."""


async def fuzz(count: int, first_seed: int) -> Counter[str]:
    """Sends the requests of so many seeds, some together, and returns how often each status came for each mutation.

    Raises UnfitAnswerError, which names the seed. Between batches normal requests must get the answers that they got first.
    """
    found: Counter[str] = Counter()
    async with running_app({"max_context": MAX_CONTEXT}, limits=Limits(worker_s=_PATIENCE_S)) as (app, service):
        expected = [await _normal_answer(app, asked) for asked in _NORMAL]
        for start in range(first_seed, first_seed + count, _TOGETHER):
            seeds = range(start, min(start + _TOGETHER, first_seed + count))
            found.update(await asyncio.gather(*(_outcome(app, seed) for seed in seeds)))
            if [await _normal_answer(app, asked) for asked in _NORMAL] != expected:
                raise UnfitAnswerError(f"after seed {start} a normal request is answered otherwise")
        if service.trouble is not None or service.runs.num_open:
            raise UnfitAnswerError("the server is not idle afterwards")
    return found


async def _outcome(app: Any, seed: int) -> str:
    name, asked = mutation(seed)
    try:
        reply = await ask(app, asked, _PATIENCE_S)
    except Exception as error:
        raise UnfitAnswerError(f"seed {seed} ({name}): {type(error).__name__}: {error}") from error
    if fault := fault_in(reply, asked):
        raise UnfitAnswerError(f"seed {seed} ({name}): {fault}: {reply.status} {reply.body[:500]!r} for {asked.body[:500]!r}")
    return f"{name}: {reply.status}"


def fault_in(reply: Reply, asked: Asked) -> str | None:
    """Returns what is wrong with an answer; None where nothing is."""
    if reply.status >= 500:
        return "it is a 5xx"
    if reply.is_stream:
        if any(failure in reply.body for failure in _FAILURES):
            return "the stream ends by an error"
        return fault_of(reply.body, asked.path, is_whole=True)
    if reply.status < 400:
        return None
    if len(reply.body) > _MAX_ERROR_BYTES:
        return "the error is too long"
    return _error_fault(reply.body, asked.path)


def _error_fault(body: bytes, path: str) -> str | None:
    content = json.loads(body)
    is_anthropic = path == ANTHROPIC_PATHS or path.startswith(f"{ANTHROPIC_PATHS}/")
    names = {"type", "error", "request_id"} if is_anthropic else {"error"}
    if content.keys() != names or not isinstance(content["error"]["message"], str) or not content["error"]["type"]:
        return "the error has not the form of its API"
    return None


async def _normal_answer(app: Any, asked: Asked) -> Sequence[Any]:
    reply = await ask(app, asked)
    content = json.loads(reply.body)
    return reply.status, content["choices"], content["usage"]["completion_tokens"]
