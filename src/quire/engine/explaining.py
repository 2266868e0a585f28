"""What the cache did for a request, as its owner asks for it: by an output or an id, with the texts of tokens."""

from __future__ import annotations

from collections.abc import Callable

from quire.engine.core import EngineCore
from quire.errors import NotExplainedError, RequestError
from quire.kv.explain import CacheExplanation, Unexplained
from quire.request import RequestOutput
from quire.values import shown

IsIssued = Callable[[str], bool]
"""Whether a request of this id was ever made."""


def read_request_id(asked: object) -> str:
    """Returns the id of an output, or an id itself; raises RequestError for anything else."""
    if isinstance(asked, RequestOutput):
        return asked.request_id
    if not isinstance(asked, str):
        raise RequestError(
            "only the output of a request, or its id, can be explained",
            given=shown(asked),
            next_step="Pass an output that generate, chat or stream has returned, such as outputs[0], or its request_id.",
        )
    return asked


def find_explanation(core: EngineCore, request_id: str) -> CacheExplanation | Unexplained:
    """Returns what is known of a request, or of the first completion of a submission."""
    explain = core.scheduler.manager.explain
    found = explain(request_id)
    return explain(f"{request_id}/0") if found is Unexplained.UNKNOWN else found


def require_explanation(found: CacheExplanation | Unexplained, request_id: str, is_issued: IsIssued) -> CacheExplanation:
    """Returns an explanation; raises NotExplainedError where there is none."""
    if isinstance(found, CacheExplanation):
        return found
    given = shown(request_id)
    if found is Unexplained.WAITING:
        raise NotExplainedError(
            "the request still waits, so the cache was not asked yet",
            given=given,
            next_step="Ask again when it has its first token, or when its answer is complete.",
        )
    if found is Unexplained.NEVER_LET_IN:
        raise NotExplainedError(
            "the request ended before it reused or computed anything",
            given=given,
            next_step="Look at the finish_reason and the error of its output, and send it again.",
        )
    if is_issued(request_id):
        raise NotExplainedError(
            "what the cache did for the request is forgotten, since many others have ended after it",
            given=given,
            next_step="Ask right after the answer, and keep what explain returns.",
        )
    raise NotExplainedError(
        "there was never a request of this id",
        given=given,
        next_step="Pass the request_id of an output, or the output itself.",
    )
