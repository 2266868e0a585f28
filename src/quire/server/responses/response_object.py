"""The object that an answer is, as it stands at its beginning, at its end, and in the events that carry it whole."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from quire.request import FinishReason
from quire.sampling import SamplingParams
from quire.server.errors import ApiError, message_of
from quire.server.generation import Usage
from quire.server.render import to_json
from quire.server.responses.fields import ResponseFields

COMPLETED, INCOMPLETE = "completed", "incomplete"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseFacts:
    """What is known of an answer before it is computed. `max_output_tokens` is the length that it may have."""

    response_id: str
    model: str
    fingerprint: str | None  # None where the weights are not identified
    request: ResponseFields
    sampling: SamplingParams
    max_output_tokens: int | None
    is_stored: bool


class ResponseObject:
    """Writes one response as JSON. What stays the same is written once: instructions may be long."""

    def __init__(self, facts: ResponseFacts) -> None:
        self.response_id = facts.response_id
        self._head = {"id": facts.response_id, "object": "response", "created_at": int(time.time())}
        self._echo = to_json(_echo_of(facts))[1:-1]

    def running(self) -> bytes:
        """Returns the response as it stands until it is done."""
        return self._written({"status": "in_progress"}, b"", None)

    def ended(self, status: str, output: bytes, usage: Usage, diagnostics: dict[str, Any] | None) -> bytes:
        """Returns the response at its end, with its output items as JSON."""
        outcome: dict[str, Any] = {"status": status}
        if status == COMPLETED:
            outcome["completed_at"] = int(time.time())
        else:
            outcome["incomplete_details"] = {"reason": "max_output_tokens"}
        return self._written(outcome, output, usage, diagnostics)

    def failed(self, error: ApiError) -> bytes:
        """Returns the response that an error ended. The code is the one that the API has for a fault of the server."""
        return self._written({"status": "failed", "error": {"code": "server_error", "message": message_of(error)}}, b"", None)

    def _written(
        self, outcome: dict[str, Any], output: bytes, usage: Usage | None, diagnostics: dict[str, Any] | None = None
    ) -> bytes:
        head = {**self._head, "completed_at": None, "error": None, "incomplete_details": None, **outcome}
        tail = {"usage": None if usage is None else _usage_fields(usage), "prompt_cache_diagnostics": diagnostics}
        return to_json(head)[:-1] + b',"output":[' + output + b"]," + self._echo + b"," + to_json(tail)[1:]


def status_of(finish_reason: FinishReason | None) -> str:
    """Returns the status of an output that ended for a reason."""
    return INCOMPLETE if finish_reason is FinishReason.LENGTH else COMPLETED


def _echo_of(facts: ResponseFacts) -> dict[str, Any]:
    """Returns what a response repeats of its request, with what counts where the request left it out."""
    request = facts.request
    verbosity = None if request.text is None else request.text.verbosity
    return {
        "background": False,
        "frequency_penalty": facts.sampling.frequency_penalty,
        "instructions": request.instructions,
        "max_output_tokens": facts.max_output_tokens or None,
        "max_tool_calls": None,
        "metadata": request.metadata or {},
        "model": facts.model,
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "presence_penalty": facts.sampling.presence_penalty,
        "previous_response_id": request.previous_response_id,
        "prompt_cache_key": request.prompt_cache_key,
        "reasoning": {"effort": request.reasoning_effort, "summary": None},
        "safety_identifier": request.safety_identifier,
        "service_tier": "default",
        "store": facts.is_stored,
        "system_fingerprint": facts.fingerprint,
        "temperature": facts.sampling.temperature,
        "text": {"format": {"type": "text"}} if verbosity is None else {"format": {"type": "text"}, "verbosity": verbosity},
        "tool_choice": "none" if request.tool_choice == "none" else "auto",
        "tools": [],
        "top_logprobs": request.num_top or 0,
        "top_p": facts.sampling.top_p,
        "truncation": "disabled",
        "user": request.user,
    }


def _usage_fields(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.num_prompt,
        "input_tokens_details": {"cached_tokens": usage.num_cached, "cache_write_tokens": usage.num_written},
        "output_tokens": usage.num_completion,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.num_prompt + usage.num_completion,
    }
