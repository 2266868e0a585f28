"""What became of each request that the engine was asked to compute: tokens, times, why it ended. Noted once, when it is over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from quire.engine.async_engine import AsyncEngine
from quire.engine.completion import RequestGroup
from quire.kv.explain import CacheExplanation, MissReason
from quire.request import FinishReason, RequestMetrics
from quire.server.errors import SHUTTING_DOWN, ApiError
from quire.server.metrics_values import SLOW_S, Spread, Tally, counter
from quire.server.runs import Run

_DISCONNECT, _SHUTDOWN = "disconnect", "shutdown"
_REASONS = (FinishReason.STOP.value, FinishReason.LENGTH.value, FinishReason.ERROR.value, _DISCONNECT, _SHUTDOWN)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerFacts:
    """One request that was accepted: `reasons` has one entry for each choice, `metrics` and `explanations` one per prompt."""

    num_prompt_tokens: int
    num_cached_tokens: int
    num_generated_tokens: int
    reasons: tuple[str, ...]
    metrics: tuple[RequestMetrics, ...]
    explanations: tuple[CacheExplanation, ...]

    @property
    def queue_s(self) -> float | None:
        """Seconds until a step computed a part of the first prompt; None where none did."""
        return self.metrics[0].queue_s

    @property
    def ttft_s(self) -> float | None:
        """Seconds until the first token of the first prompt; None where there was none."""
        return self.metrics[0].ttft_s


def facts_of(run: Run, engine: AsyncEngine) -> AnswerFacts:
    """Returns what became of a run that is over, or that is being left."""
    groups = run.generation.groups
    explanations = [engine.find_explanation(output.request_id) for output in run.outputs]
    return AnswerFacts(
        num_prompt_tokens=sum(len(group.submission.prompt.token_ids) for group in groups),
        num_cached_tokens=sum(group.states[0].request.num_cached_tokens for group in groups),
        num_generated_tokens=sum(len(state.request.output_token_ids) for group in groups for state in group.states),
        reasons=_reasons_of(run, groups),
        metrics=tuple(group.metrics for group in groups),
        explanations=tuple(explanation for explanation in explanations if explanation is not None),
    )


def _reasons_of(run: Run, groups: Sequence[RequestGroup]) -> tuple[str, ...]:
    ended = {output.request_id: output for output in run.outputs}
    reasons: list[str] = []
    for group in groups:
        output = ended.get(group.request_id)
        if output is None:
            reasons += [_early_end(run)] * len(group.states)
        else:
            reasons += [completion.finish_reason or FinishReason.ERROR for completion in output.outputs]
    return tuple(reasons)


def _early_end(run: Run) -> str:
    if run.is_gone:
        return _DISCONNECT
    is_shutdown = isinstance(run.error, ApiError) and run.error.refusal.code == SHUTTING_DOWN
    return _SHUTDOWN if is_shutdown else FinishReason.ERROR.value


class AnswerMetrics:
    """Counts requests that are over. Belongs to the event loop."""

    def __init__(self) -> None:
        self.num_heartbeats = 0
        self._ends = Tally(reason=_REASONS)
        self._misses = Tally(reason=[reason.value for reason in MissReason])
        self._missed_tokens = Tally(reason=[reason.value for reason in MissReason])
        self._queue, self._ttft, self._e2e = Spread(SLOW_S), Spread(SLOW_S), Spread(SLOW_S)
        self._num_prompt_tokens = self._num_cached_tokens = 0

    def note(self, facts: AnswerFacts) -> None:
        """Counts one request."""
        for reason in facts.reasons:
            self._ends.add(reason)
        for explanation in facts.explanations:
            self._misses.add(explanation.reason.value)
            self._missed_tokens.add(explanation.reason.value, count=explanation.num_tokens - explanation.num_reused_tokens)
        for each in facts.metrics:
            for spread, seconds in ((self._queue, each.queue_s), (self._ttft, each.ttft_s), (self._e2e, each.e2e_s)):
                if seconds is not None:
                    spread.add(seconds)
        self._num_prompt_tokens += facts.num_prompt_tokens
        self._num_cached_tokens += facts.num_cached_tokens

    def families(self) -> Iterator[Any]:
        """Yields what was counted."""
        yield self._ends.family("quire_requests_ended", "Choices that ended, by reason.")
        yield self._queue.family("quire_queue_seconds", "Time from a prompt's acceptance to its first step.")
        yield self._ttft.family("quire_ttft_seconds", "Time from a prompt's acceptance to its first token.")
        yield self._e2e.family("quire_e2e_seconds", "Time from a prompt's acceptance to the end of its last choice.")
        yield counter("quire_prompt_tokens", "Tokens of prompts.", self._num_prompt_tokens)
        yield counter("quire_cached_tokens", "Tokens of prompts that came from the cache.", self._num_cached_tokens)
        yield self._misses.family("quire_cache_misses", "Prompts answered, by why no more of them came from the cache.")
        yield self._missed_tokens.family("quire_cache_missed_tokens", "Tokens of these prompts that were computed.")
        yield counter("quire_heartbeats", "Heartbeats sent into silent streams.", self.num_heartbeats)
