"""What a user asked for: one prompt and its `n` completions, each of which the scheduler sees as a request of its own."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from hashlib import sha256

from quire.engine.completion import CompletionState, Progress, Shared, name_tokens
from quire.request import MAX_SEED, CompletionOutput, Request, RequestMetrics, RequestOutput, SamplingParams, TokenLogprobs
from quire.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A prompt as token ids and how to continue it. `prompt` is its text where there is one.

    Of the first `num_given_tokens` no log-probabilities are wanted, so that they may come from the cache although
    `prompt_logprobs` is set.
    """

    request_id: str
    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams
    prompt: str | None = None
    priority: int = 0
    tenant: str = ""
    cache_salt: str = ""
    num_given_tokens: int = 0


@dataclass(slots=True)
class PromptScores:
    """Log-probabilities of the prompt's tokens, filled from left to right; the first token and given ones have none."""

    scored: list[TokenLogprobs | None]

    def add(self, start: int, scores: list[TokenLogprobs], tokenizer: Tokenizer | None) -> None:
        """Takes the scores of tokens [start, start + len(scores)); those known from before a preemption are skipped."""
        for score in scores[len(self.scored) - start :]:
            self.scored.append(name_tokens(score, tokenizer))


class RequestGroup:
    """The `n` completions of one submission, and what they have in common."""

    def __init__(self, submission: Submission, tokenizer: Tokenizer | None, now: float) -> None:
        self.submission = submission
        self.request_id = submission.request_id
        self._shared = Shared(submission.request_id, submission.sampling, tokenizer)
        self.states = [CompletionState(each, index, self._shared) for index, each in enumerate(_children(submission))]
        has_scores = submission.sampling.prompt_logprobs is not None
        self.scores = PromptScores([None] * max(1, submission.num_given_tokens)) if has_scores else None
        self.num_open = len(self.states)
        self._submitted_s = now
        self._ended_s: float | None = None

    def note_end(self, now: float) -> None:
        """Counts a completion that has ended."""
        self.num_open -= 1
        if self.num_open == 0:
            self._ended_s = now

    def output(self) -> RequestOutput:
        """Returns everything known so far; final once no completion is open."""
        scores = self.scores
        return RequestOutput(
            request_id=self.request_id,
            prompt=self.submission.prompt,
            prompt_token_ids=self.submission.prompt_token_ids,
            prompt_logprobs=tuple(scores.scored) if scores is not None else None,
            outputs=tuple(state.output() for state in self.states),
            num_cached_tokens=self.states[0].request.num_cached_tokens,
            metrics=self.metrics(),
            finished=self.num_open == 0,
        )

    def delta(self, progress: Progress) -> RequestOutput:
        """Returns an output that holds what one step added and nothing older; never the final one."""
        completion = CompletionOutput(
            index=progress.index,
            text=progress.text,
            token_ids=progress.token_ids,
            finish_reason=progress.finish_reason,
            stop_reason=progress.stop_reason,
            seed=self.states[progress.index].request.seed,
            logprobs=progress.logprobs,
            cumulative_logprob=progress.cumulative_logprob,
        )
        return RequestOutput(
            request_id=self.request_id,
            prompt=self.submission.prompt,
            prompt_token_ids=self.submission.prompt_token_ids,
            prompt_logprobs=None,
            outputs=(completion,),
            num_cached_tokens=self.states[0].request.num_cached_tokens,
            metrics=self.metrics(),
            finished=False,
        )

    def metrics(self) -> RequestMetrics:
        """Returns the times and counts so far."""
        first_token_s = self._shared.first_token_s
        return RequestMetrics(
            ttft_s=None if first_token_s is None else first_token_s - self._submitted_s,
            e2e_s=None if self._ended_s is None else self._ended_s - self._submitted_s,
            num_preemptions=sum(state.request.num_preemptions for state in self.states),
            num_steps=self._shared.num_steps,
        )


def last_delta(output: RequestOutput) -> RequestOutput:
    """Returns a final output without the text and tokens that earlier deltas brought already."""
    ends = tuple(replace(completion, text="", token_ids=(), logprobs=None) for completion in output.outputs)
    return replace(output, outputs=ends)


def child_seed(seed: int, index: int) -> int:
    """Returns the seed of completion `index`: the first has the request's own, the others digests of it."""
    if index == 0:
        return seed
    digest = sha256(seed.to_bytes(8, "little") + index.to_bytes(8, "little")).digest()
    return int.from_bytes(digest[:8], "little") & MAX_SEED


def fresh_seed() -> int:
    """Returns a seed from the operating system's randomness."""
    return int.from_bytes(os.urandom(8), "little") & MAX_SEED


def _children(submission: Submission) -> list[Request]:
    """Returns one request a completion. Only the first scores the prompt; the others reuse its blocks once written."""
    sampling = submission.sampling
    seed = fresh_seed() if sampling.seed is None else sampling.seed
    return [
        Request(
            request_id=submission.request_id if sampling.n == 1 else f"{submission.request_id}/{index}",
            prompt_token_ids=submission.prompt_token_ids,
            sampling=sampling if index == 0 else replace(sampling, prompt_logprobs=None),
            seed=child_seed(seed, index),
            priority=submission.priority,
            tenant=submission.tenant,
            cache_salt=submission.cache_salt,
            num_given_tokens=submission.num_given_tokens,
        )
        for index in range(sampling.n)
    ]
