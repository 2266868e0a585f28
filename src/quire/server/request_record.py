"""One HTTP request that is over, as the log and the traces tell it."""

from __future__ import annotations

from dataclasses import dataclass

from quire.server.metrics_answers import AnswerFacts

ANSWER, REFUSAL, REQUEST_ID = "quire.answer", "quire.refusal", "quire.request_id"
"""Keys of the scope: what the engine computed, the error that was sent instead, and the name in headers and in the log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """A request in the server's own words. No field holds text that a client sent, but for `traceparent`, the header as it came.

    `ended_s` is seconds since 1970; `status` is 499 where the client left before there was one.
    """

    method: str
    route: str
    status: int
    request_id: str
    duration_s: float
    ended_s: float
    code: str | None
    answer: AnswerFacts | None
    traceparent: bytes | None

    def fields(self) -> dict[str, str | int | float]:
        """Returns what is known as names and values; times in seconds."""
        fields: dict[str, str | int | float | None] = {
            "method": self.method,
            "route": self.route,
            "status": self.status,
            "request_id": self.request_id,
            "code": self.code,
            "duration_s": round(self.duration_s, 6),
        }
        if self.answer is not None:
            fields |= _answer_fields(self.answer)
        return {name: value for name, value in fields.items() if value is not None}


def _answer_fields(answer: AnswerFacts) -> dict[str, str | int | float | None]:
    return {
        "prompt_tokens": answer.num_prompt_tokens,
        "cached_tokens": answer.num_cached_tokens,
        "generated_tokens": answer.num_generated_tokens,
        "queue_s": _rounded(answer.queue_s),
        "ttft_s": _rounded(answer.ttft_s),
        "finish_reason": ",".join(dict.fromkeys(answer.reasons)),
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
