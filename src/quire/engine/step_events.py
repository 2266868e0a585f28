"""What a step tells the readers of requests."""

from __future__ import annotations

from dataclasses import dataclass

from quire.request import FinishReason, RequestOutput, TokenLogprobs


@dataclass(slots=True)  # neither frozen nor by keyword: one is made per token, in a third of the time
class Progress:
    """What one step added to completion `index` of a request. `text` may be empty: half a character, or a possible stop.

    `logprobs` holds one mapping for each of `token_ids`, or is None where none were asked for.
    """

    request_id: str
    index: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] | None = None
    cumulative_logprob: float | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None


@dataclass(slots=True)
class PromptProgress:
    """How far a step brought a prompt: its tokens, those of them found in the cache, and those that have K/V now.

    It is told of the first completion of a submission that `reports_prompt`, until that draws its first token.
    """

    request_id: str
    num_tokens: int
    num_cached_tokens: int
    num_computed_tokens: int


StepEvent = PromptProgress | Progress | RequestOutput
"""A part of a prompt, tokens of one completion, or the final output of a request."""
