"""One completion while it grows: released text, tokens, log-probabilities, and why it stops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from quire.errors import RequestError, failure_message, is_failure
from quire.request import CompletionOutput, FinishReason, Logprob, Request, SamplingParams, TokenLogprobs
from quire.sample.sampler import SampleRow, TokenCounts
from quire.sched.plan import ScheduledChunk
from quire.text.automaton import Automaton
from quire.text.banned_words import BannedTokens, BannedWords
from quire.text.detokenizer import IncrementalDetokenizer
from quire.text.stop import StopMatcher
from quire.text.tokenizer import Tokenizer


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


class Shared:
    """What the completions of one submission have in common: stop strings and banned words, built once, and its steps.

    `num_steps` counts those that computed tokens of any completion; `first_token_s` is when the first one had a token.
    """

    def __init__(self, group_id: str, params: SamplingParams, tokenizer: Tokenizer | None) -> None:
        self.group_id = group_id
        self.tokenizer = tokenizer
        self.num_steps = 0
        self.first_token_s: float | None = None
        self._last_step: int | None = None
        self.stops = Automaton[str](params.stop)
        self.banned: BannedWords | None = None
        if tokenizer is None:
            if params.stop or params.bad_words:
                raise RequestError("stop strings and bad words need a tokenizer", next_step="Use stop_token_ids or logit_bias.")
        elif params.bad_words:
            hidden_ids = tokenizer.special_ids if params.skip_special_tokens else frozenset[int]()
            self.banned = BannedWords(params.bad_words, tokenizer.vocabulary, hidden_ids)

    def note_chunk(self, chunk: ScheduledChunk, step: int, now: float) -> None:
        """Counts a step, once for all its chunks."""
        if step != self._last_step:
            self.num_steps += 1
            self._last_step = step
        if self.first_token_s is None and chunk.num_sample_rows:
            self.first_token_s = now


class CompletionState:
    """Follows one scheduler request on behalf of its reader, and decides with each token whether the completion ends with it.

    `group_id` names the submission it belongs to. `row` and `token_ids` are what a step asks of its request.

    STOP and the stop reason are decided here, once there are more than `min_tokens` tokens. In this order:

        a stop id          reason: the id        the token stays in `token_ids` and is left out of the text
        a stop string      reason: the string    cut from the text, also where special tokens that are not shown belong to it
        end of sequence    reason: None          as a stop id

    `include_stop_str_in_output` keeps what is left out. LENGTH is decided by the scheduler, which knows the limits; a stop
    that is complete with the last token goes before it. Only STOP has a stop reason.
    """

    def __init__(self, request: Request, index: int, shared: Shared) -> None:
        params, tokenizer = request.sampling, shared.tokenizer
        self.request = request
        self.shared = shared
        self.group_id = shared.group_id
        self.index = index
        eos_token_ids = frozenset[int]() if tokenizer is None else tokenizer.eos_token_ids
        self.row = _sample_row(request, eos_token_ids, shared.banned)
        self.token_ids = request.token_ids
        self._tokenizer = tokenizer
        self._ending_ids = frozenset(params.stop_token_ids) | (frozenset() if params.ignore_eos else eos_token_ids)
        self._detokenizer = None
        if tokenizer is not None:
            self._detokenizer = IncrementalDetokenizer(
                tokenizer, skip_special=params.skip_special_tokens, after=request.prompt_token_ids
            )
        self._push = _no_text if self._detokenizer is None else self._detokenizer.push
        self._is_plain = params.logprobs is None and not params.stop
        self._matcher = StopMatcher(shared.stops, keeps_stop=params.include_stop_str_in_output)
        self._stop_reason: int | str | None = None
        self._error: str | None = None
        self._text: list[str] = []
        self._num_old_tokens = 0  # tokens and parts of the text that came before the last step
        self._num_old_parts = 0
        self._logprobs: list[TokenLogprobs] = []
        self._cumulative_logprob = 0.0 if params.logprobs is not None else None

    def advance(self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs] | None = None) -> Progress:
        """Takes the tokens drawn for the next positions, up to the first that ends the completion, and returns what they add.

        Its `finish_reason` is STOP or None. Where the scheduler finishes the request by this step, that of `end` replaces it.
        """
        output, parts = self.request.output_token_ids, self._text
        self._num_old_tokens = num_old = len(output)
        self._num_old_parts = len(parts)
        num_room = self.request.max_num_tokens - len(self.request.prompt_token_ids) - num_old
        if self._is_plain and len(token_ids) == 1 < num_room and token_ids[0] not in self._ending_ids:
            text = self._push(token_ids[0])
            parts.append(text)
            return Progress(self.group_id, self.index, text, (token_ids[0],))
        num_taken, reason = 0, None
        while num_taken < min(len(token_ids), max(num_room, 1)) and reason is None:
            is_past_minimum = num_old + num_taken >= self.request.sampling.min_tokens
            reason = self._take(token_ids[num_taken], is_past_minimum=is_past_minimum, is_last=num_taken + 1 >= num_room)
            if logprobs is not None:
                self._note_logprobs(logprobs[num_taken], token_ids[num_taken])
            num_taken += 1
        return self._progress(token_ids[:num_taken], reason)

    def _take(self, token_id: int, *, is_past_minimum: bool, is_last: bool) -> FinishReason | None:
        """Takes one token, the last that the length allows if `is_last`; returns STOP if the completion ends with it."""
        is_ending_id = is_past_minimum and token_id in self._ending_ids
        if is_ending_id and token_id in self.request.sampling.stop_token_ids:
            self._stop_reason = token_id
        heeds_stops = is_past_minimum and self._stop_reason is None
        self._read(token_id, is_ending_id=is_ending_id, heeds_stops=heeds_stops)
        if is_ending_id or is_last:
            self._release(heeds_stops=heeds_stops)
        return FinishReason.STOP if is_ending_id or self._stop_reason is not None else None

    def end(self, error: str | None = None) -> Progress:
        """Releases the text still held back, unless an error ended it, and returns what the last step added with that.

        Called once, after the scheduler finished the request.
        """
        self._error = error
        if error is None:
            try:
                self._release(heeds_stops=False)
            except BaseException as failure:
                if not is_failure(failure):
                    raise
                self._error = failure_message(failure)
        if self._error is not None:
            self._stop_reason = None
        return self._progress(self.request.output_token_ids[self._num_old_tokens :], self._finish_reason)

    def _progress(self, token_ids: Sequence[int], reason: FinishReason | None) -> Progress:
        """Returns these tokens of the last step, with the text that was released since."""
        return Progress(
            self.group_id,
            self.index,
            "".join(self._text[self._num_old_parts :]),
            tuple(token_ids),
            tuple(self._logprobs[self._num_old_tokens :]) if self._logprobs else None,
            self._cumulative_logprob,
            reason,
            self._stop_reason,
        )

    def output(self) -> CompletionOutput:
        """Returns the completion so far."""
        request = self.request
        return CompletionOutput(
            index=self.index,
            text="".join(self._text),
            token_ids=tuple(request.output_token_ids),
            finish_reason=self._finish_reason,
            stop_reason=self._stop_reason,
            seed=request.seed,
            logprobs=tuple(self._logprobs) if request.sampling.logprobs is not None else None,
            cumulative_logprob=self._cumulative_logprob,
            error=self._error,
        )

    @property
    def _finish_reason(self) -> FinishReason | None:
        """The scheduler's reason, or ERROR where the last text could not be made."""
        return self.request.finish_reason if self._error is None else FinishReason.ERROR

    def _note_logprobs(self, candidates: TokenLogprobs, token_id: int) -> None:
        self._logprobs.append(name_tokens(candidates, self._tokenizer))
        self._cumulative_logprob = (self._cumulative_logprob or 0.0) + candidates[token_id].logprob

    def _read(self, token_id: int, *, is_ending_id: bool, heeds_stops: bool) -> None:
        if self._detokenizer is None:
            return
        hides = is_ending_id and not self.request.sampling.include_stop_str_in_output
        if self.request.sampling.stop:
            hidden, text = (self._detokenizer.text_behind(token_id), "") if hides else self._detokenizer.push_all(token_id)
            self._show(text, hidden, heeds_stops=heeds_stops)
        else:
            self._text.append("" if hides else self._detokenizer.push(token_id))

    def _show(self, text: str, hidden: str = "", *, heeds_stops: bool) -> None:
        result = self._matcher.push(text, hidden=hidden, heeds=heeds_stops)
        self._text.append(result.emit)
        if result.matched is not None:
            self._stop_reason = result.matched

    def _release(self, *, heeds_stops: bool) -> None:
        if self._detokenizer is None:
            return
        self._show(self._detokenizer.finish(), heeds_stops=heeds_stops)
        self._text.append(self._matcher.finish())


def _no_text(_token_id: int) -> str:
    return ""


def name_tokens(candidates: TokenLogprobs, tokenizer: Tokenizer | None) -> Mapping[int, Logprob]:
    """Returns the candidates with the text of each token where there is a tokenizer."""
    if tokenizer is None:
        return candidates
    return {
        token_id: replace(candidate, decoded_token=tokenizer.token_text(token_id)) for token_id, candidate in candidates.items()
    }


def _sample_row(request: Request, eos_token_ids: frozenset[int], banned: BannedWords | None) -> SampleRow:
    params = request.sampling
    return SampleRow(
        params=params,
        seed=request.seed,
        prompt_token_ids=request.prompt_token_ids,
        output_token_ids=request.output_token_ids,
        eos_token_ids=eos_token_ids,
        ban=None if banned is None else BannedTokens(banned),
        counts=TokenCounts(request.prompt_token_ids) if _has_penalties(params) else None,
    )


def _has_penalties(params: SamplingParams) -> bool:
    return (params.repetition_penalty, params.frequency_penalty, params.presence_penalty) != (1, 0, 0)
