"""A request: one prompt, how to continue it, and its growing output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, StrEnum

from quire.sampling import (
    MAX_COMPLETIONS,
    MAX_LOGPROBS,
    MAX_NAMED_TOKENS,
    MAX_SEED,
    MAX_STOP_CHARS,
    MAX_STOPS,
    Draw,
    Greedy,
    SamplingMethod,
    SamplingParams,
)

__all__ = [
    "MAX_COMPLETIONS",
    "MAX_LOGPROBS",
    "MAX_NAMED_TOKENS",
    "MAX_SEED",
    "MAX_STOPS",
    "MAX_STOP_CHARS",
    "CompletionOutput",
    "Draw",
    "FinishReason",
    "Greedy",
    "Logprob",
    "Request",
    "RequestMetrics",
    "RequestOutput",
    "RequestStatus",
    "SamplingMethod",
    "SamplingParams",
    "TokenLogprobs",
]


class FinishReason(StrEnum):
    """Why an output ended: OpenAI's words, and equal to them as text."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    ERROR = "error"


class RequestStatus(Enum):
    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(slots=True, kw_only=True)
class Request:
    """One prompt and its output on the way through the engine.

    Fields above the line are set once; below it the scheduler is the only writer.
    """

    request_id: str
    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams
    seed: int = 0
    priority: int = 0  # smaller is served first
    tenant: str = ""
    cache_salt: str = ""
    group_id: str = ""  # completions of one prompt have the same
    num_context_tokens: int = 0  # prompt tokens without wanted log-probabilities: all before the first scored one
    # -- written by the scheduler ------------------------------------------------
    arrival: int = 0
    max_num_tokens: int = 0  # prompt and output, by max_tokens, the context and the pool
    output_token_ids: list[int] = field(default_factory=list)
    status: RequestStatus = RequestStatus.WAITING
    finish_reason: FinishReason | None = None
    num_computed_tokens: int = 0
    num_cached_tokens: int = 0
    num_preemptions: int = 0
    own_tile: int = 0  # where it writes, in a KV format with own tiles, while it holds blocks
    waits_since_step: int = 0  # when it began to wait, or last got tokens of its prompt
    waits_as_short: bool = False  # whether it is in its tenant's line of short prompts, or was when it was let in

    @property
    def num_tokens(self) -> int:
        return len(self.prompt_token_ids) + len(self.output_token_ids)

    @property
    def num_pending_tokens(self) -> int:
        """Tokens without K/V: the prompt's rest in prefill, exactly one in decode."""
        return len(self.prompt_token_ids) + len(self.output_token_ids) - self.num_computed_tokens

    @property
    def needs_prompt_logits(self) -> bool:
        return self.sampling.prompt_logprobs is not None

    @property
    def first_logits_at(self) -> int:
        """Position of the first token whose logits are still wanted; those before it need not be computed if K/V exist.

        Logits at position i speak of token i + 1. Only a prompt that is scored wants more than those of the last token.
        """
        if self.needs_prompt_logits and not self.output_token_ids:
            return max(0, self.num_context_tokens - 1)
        return self.num_tokens - 1

    def token_at(self, position: int) -> int:
        """Returns one token of prompt followed by output."""
        place = position - len(self.prompt_token_ids)
        return self.output_token_ids[place] if place >= 0 else self.prompt_token_ids[position]

    def token_ids(self, start: int, stop: int) -> Sequence[int]:
        """Returns tokens [start, stop) of prompt followed by output."""
        num_prompt = len(self.prompt_token_ids)
        if stop <= num_prompt:
            return self.prompt_token_ids[start:stop]
        if start >= num_prompt:
            return self.output_token_ids[start - num_prompt : stop - num_prompt]
        return (*self.prompt_token_ids[start:], *self.output_token_ids[: stop - num_prompt])

    def take_output(self, token_ids: Sequence[int], reason: FinishReason | None) -> FinishReason | None:
        """Appends tokens to the output as far as its length allows; returns why it ends with them, or None where it goes on."""
        num_room = self.max_num_tokens - self.num_tokens
        if len(token_ids) < num_room:
            self.output_token_ids += token_ids
            return reason
        self.output_token_ids += token_ids[:num_room]
        return FinishReason.LENGTH if reason is None or len(token_ids) > num_room else reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Logprob:
    """One candidate at one position; `rank` 1 is the most likely token."""

    logprob: float
    rank: int
    decoded_token: str | None = None


TokenLogprobs = Mapping[int, Logprob]
"""Token id -> Logprob: the chosen token and the best candidates of one position."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestMetrics:
    """Seconds on the engine's clock and what the cache saved. All times count from submission: `queue_s` to the first step."""

    ttft_s: float | None
    e2e_s: float | None
    num_preemptions: int
    num_steps: int
    queue_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionOutput:
    """One of the `n` continuations of a prompt. `cumulative_logprob` is the sum over its tokens, None without `logprobs`.

    `stop_reason` is the stop id or stop string that ended it; None at an end of sequence, and for every other finish reason.
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None
    stop_reason: int | str | None
    seed: int
    logprobs: tuple[TokenLogprobs, ...] | None = None
    cumulative_logprob: float | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestOutput:
    """Everything known about a request; `finished` becomes True exactly once."""

    request_id: str
    prompt: str | None
    prompt_token_ids: tuple[int, ...]
    prompt_logprobs: tuple[TokenLogprobs | None, ...] | None
    outputs: tuple[CompletionOutput, ...]
    num_cached_tokens: int
    metrics: RequestMetrics
    finished: bool
