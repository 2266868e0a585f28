"""What a user asked for while it grows: one prompt and its `n` completions, each of which is a request of the scheduler's."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from quire.engine.prompts import Submission
from quire.engine.step_events import Progress, PromptProgress
from quire.errors import failure_message, is_failure
from quire.request import MAX_SEED, CompletionOutput, FinishReason, Request, RequestMetrics, RequestOutput, TokenLogprobs
from quire.sample.noise import child_seed
from quire.sample.sampler import SampleRow
from quire.sched.plan import ScheduledChunk
from quire.text.banned_words import BannedTokens
from quire.text.output_text import OutputText, OutputWords, name_tokens
from quire.text.tokenizer import Tokenizer


class CompletionState:
    """Follows one scheduler request on behalf of its reader, and decides with each token whether the completion ends with it.

    `group_id` names the submission it belongs to. `row`, `token_ids` and `token_at` are what a step asks of its request.

    STOP is decided by `OutputText`, LENGTH by the scheduler, which knows the limits; a stop that is complete with the last
    token goes before it. Only STOP has a stop reason.
    """

    def __init__(self, request: Request, index: int, group_id: str, tokenizer: Tokenizer | None, words: OutputWords) -> None:
        self.request = request
        self.index = index
        self.group_id = group_id
        eos_token_ids = frozenset[int]() if tokenizer is None else tokenizer.eos_token_ids
        ban = None if words.banned is None else BannedTokens(words.banned)
        self.row = SampleRow.of(request, eos_token_ids=eos_token_ids, ban=ban)
        self.token_ids, self.token_at = request.token_ids, request.token_at
        self._tokenizer = tokenizer
        self._text = OutputText(request.sampling, tokenizer, words, request.prompt_token_ids)
        self._parts, self._push, self._ending_ids = self._text.parts, self._text.push, self._text.ending_ids
        self._is_plain = request.sampling.logprobs is None and not request.sampling.stop
        self._num_prompt = len(request.prompt_token_ids)
        self._error: str | None = None
        self._num_old_tokens = 0  # tokens and parts of the text that came before the last step
        self._num_old_parts = 0
        self._logprobs: list[TokenLogprobs] = []
        self._cumulative_logprob = 0.0 if request.sampling.logprobs is not None else None

    def advance(self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs] | None = None) -> Progress:
        """Takes the tokens drawn for the next positions, up to the first that ends the completion, and returns what they add.

        Its `finish_reason` is STOP or None. Where the scheduler finishes the request by this step, that of `end` replaces it.
        """
        self._num_old_tokens = num_old = len(self.request.output_token_ids)
        self._num_old_parts = len(self._parts)
        num_room = self.request.max_num_tokens - self._num_prompt - num_old
        if self._is_plain and len(token_ids) == 1 < num_room and token_ids[0] not in self._ending_ids:
            text = self._push(token_ids[0])
            self._parts.append(text)
            return Progress(self.group_id, self.index, text, (token_ids[0],))
        num_taken, is_over = 0, False
        while num_taken < min(len(token_ids), max(num_room, 1)) and not is_over:
            token_id = token_ids[num_taken]
            is_past_minimum = num_old + num_taken >= self.request.sampling.min_tokens
            is_over = self._text.take(token_id, is_past_minimum=is_past_minimum, is_last=num_taken + 1 >= num_room)
            if logprobs is not None:
                self._note_logprobs(logprobs[num_taken], token_id)
            num_taken += 1
        return self._progress(token_ids[:num_taken], FinishReason.STOP if is_over else None)

    def prompt_progress(self, num_computed_tokens: int) -> PromptProgress:
        """Returns the progress of a prompt of which so many tokens have K/V."""
        return PromptProgress(self.group_id, self._num_prompt, self.request.num_cached_tokens, num_computed_tokens)

    def end(self, error: str | None = None) -> Progress:
        """Releases the text still held back, unless an error ended it, and returns what the last step added with that.

        Called once, after the scheduler finished the request.
        """
        self._error = error
        if error is None:
            try:
                self._text.finish()
            except BaseException as failure:
                if not is_failure(failure):
                    raise
                self._error = failure_message(failure)
        if self._error is not None:
            self._text.stop_reason = None
        return self._progress(self.request.output_token_ids[self._num_old_tokens :], self._finish_reason)

    def output(self) -> CompletionOutput:
        """Returns the completion so far."""
        request = self.request
        return CompletionOutput(
            index=self.index,
            text="".join(self._parts),
            token_ids=tuple(request.output_token_ids),
            finish_reason=self._finish_reason,
            stop_reason=self._text.stop_reason,
            seed=request.seed,
            logprobs=tuple(self._logprobs) if request.sampling.logprobs is not None else None,
            cumulative_logprob=self._cumulative_logprob,
            error=self._error,
        )

    @property
    def _finish_reason(self) -> FinishReason | None:
        """The scheduler's reason, or ERROR where the last text could not be made."""
        return self.request.finish_reason if self._error is None else FinishReason.ERROR

    def _progress(self, token_ids: Sequence[int], reason: FinishReason | None) -> Progress:
        """Returns these tokens of the last step, with the text that was released since."""
        text = "".join(self._parts[self._num_old_parts :])
        logprobs = tuple(self._logprobs[self._num_old_tokens :]) if self._logprobs else None
        stop_reason = self._text.stop_reason
        return Progress(
            self.group_id, self.index, text, tuple(token_ids), logprobs, self._cumulative_logprob, reason, stop_reason
        )

    def _note_logprobs(self, candidates: TokenLogprobs, token_id: int) -> None:
        self._logprobs.append(name_tokens(candidates, self._tokenizer))
        self._cumulative_logprob = (self._cumulative_logprob or 0.0) + candidates[token_id].logprob


class RequestGroup:
    """The `n` completions of one submission, and what they have in common: the scores of the prompt, and the times.

    `scores` are log-probabilities of the prompt's tokens where they are asked for, filled from left to right; the first token
    and context have none.
    """

    def __init__(self, submission: Submission, tokenizer: Tokenizer | None, now: float) -> None:
        self.submission = submission
        self.request_id = submission.request_id
        self._tokenizer = tokenizer
        self._words = words = OutputWords(submission.sampling, tokenizer)
        self.states = [
            CompletionState(each, index, self.request_id, tokenizer, words) for index, each in enumerate(_children(submission))
        ]
        self.scores: list[TokenLogprobs | None] | None = None
        if submission.sampling.prompt_logprobs is not None:
            self.scores = [None] * max(1, submission.prompt.num_context_tokens)
        self.num_open = len(self.states)
        self._num_steps = 0
        self._last_step: int | None = None
        self._submitted_s = now
        self._begun_s: float | None = None
        self._first_token_s: float | None = None
        self._ended_s: float | None = None

    def bans(self) -> Iterator[Iterable[int]]:
        """Yields the tokens that end an output by themselves, and those that a banned word may keep out."""
        if self._tokenizer is not None:
            yield self._tokenizer.eos_token_ids
        if self._words.banned is not None:
            yield self._words.banned.ever().tolist()

    def note_chunk(self, chunk: ScheduledChunk, step: int, began_s: float, now: float) -> None:
        """Counts a step that computed tokens of any completion; remembers when the first began, and when a token came."""
        if step != self._last_step:
            self._num_steps += 1
            self._last_step = step
            self._begun_s = began_s if self._begun_s is None else self._begun_s
        if self._first_token_s is None and chunk.num_sample_rows:
            self._first_token_s = now

    def note_scores(self, start: int, scores: Sequence[TokenLogprobs]) -> None:
        """Takes the scores of tokens [start, start + len(scores)); those known from before a preemption are skipped."""
        if self.scores is not None:
            self.scores += [name_tokens(score, self._tokenizer) for score in scores[len(self.scores) - start :]]

    def note_end(self, now: float) -> None:
        """Counts a completion that has ended."""
        self.num_open -= 1
        if self.num_open == 0:
            self._ended_s = now

    def output(self) -> RequestOutput:
        """Returns everything known so far; final once no completion is open."""
        completions = tuple(state.output() for state in self.states)
        return self._output(completions, self.scores, is_final=self.num_open == 0)

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
        return self._output((completion,), None, is_final=False)

    @property
    def metrics(self) -> RequestMetrics:
        """What is known so far; may be read in any thread."""
        return RequestMetrics(
            queue_s=None if self._begun_s is None else self._begun_s - self._submitted_s,
            ttft_s=None if self._first_token_s is None else self._first_token_s - self._submitted_s,
            e2e_s=None if self._ended_s is None else self._ended_s - self._submitted_s,
            num_preemptions=sum(state.request.num_preemptions for state in self.states),
            num_steps=self._num_steps,
        )

    def _output(
        self, completions: tuple[CompletionOutput, ...], scores: Sequence[TokenLogprobs | None] | None, *, is_final: bool
    ) -> RequestOutput:
        prompt = self.submission.prompt
        return RequestOutput(
            request_id=self.request_id,
            prompt=prompt.text,
            prompt_token_ids=prompt.token_ids,
            prompt_logprobs=None if scores is None else tuple(scores),
            outputs=completions,
            num_cached_tokens=self.states[0].request.num_cached_tokens,
            metrics=self.metrics,
            finished=is_final,
        )


def _children(submission: Submission) -> list[Request]:
    """Returns one request per completion. Only the first scores the prompt; the others reuse its blocks once written."""
    prompt, sampling = submission.prompt, submission.sampling
    seed = int.from_bytes(os.urandom(8), "little") & MAX_SEED if sampling.seed is None else sampling.seed
    return [
        Request(
            request_id=submission.request_id if sampling.n == 1 else f"{submission.request_id}/{index}",
            prompt_token_ids=prompt.token_ids,
            sampling=sampling if index == 0 else replace(sampling, prompt_logprobs=None),
            seed=child_seed(seed, index),
            priority=submission.priority,
            tenant=submission.tenant,
            cache_salt=prompt.cache_salt,
            group_id=submission.request_id if sampling.n > 1 else "",
            num_context_tokens=prompt.num_context_tokens,
        )
        for index in range(sampling.n)
    ]
