"""One completion while it grows: released text, tokens, log-probabilities, and why it stops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from quire.errors import RequestError, failure_message, is_failure
from quire.request import CompletionOutput, FinishReason, Logprob, Request, SamplingParams, TokenLogprobs
from quire.sample.sampler import SampledToken, SampleRow, TokenCounts
from quire.sched.plan import Sampled
from quire.text.automaton import Automaton
from quire.text.banned_words import BannedTokens, BannedWords
from quire.text.detokenizer import IncrementalDetokenizer
from quire.text.stop import StopMatcher
from quire.text.tokenizer import Tokenizer


@dataclass(slots=True, kw_only=True)  # not frozen: one is made for every token, in a third of the time
class Progress:
    """What one step added to completion `index` of a request. `text` may be empty: half a character, or a possible stop.

    `logprobs` holds one mapping for each of `token_ids`, or is None where none were asked for.
    """

    request_id: str
    index: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] | None
    cumulative_logprob: float | None
    finish_reason: FinishReason | None
    stop_reason: int | str | None


class OutputWords:
    """What the completions of one submission look for in their text: stop strings and banned words. Built once, shared."""

    def __init__(self, params: SamplingParams, tokenizer: Tokenizer | None) -> None:
        self.stops = Automaton[str](params.stop)
        self.banned: BannedWords | None = None
        if tokenizer is None:
            if params.stop or params.bad_words:
                raise RequestError("stop strings and bad words need a tokenizer", next_step="Use stop_token_ids or logit_bias.")
        elif params.bad_words:
            hidden_ids = tokenizer.special_ids if params.skip_special_tokens else frozenset[int]()
            self.banned = BannedWords(params.bad_words, tokenizer.vocabulary, hidden_ids)


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

    def __init__(self, request: Request, group_id: str, index: int, tokenizer: Tokenizer | None, words: OutputWords) -> None:
        params = request.sampling
        self.request = request
        self.group_id = group_id
        self.index = index
        eos_token_ids = frozenset[int]() if tokenizer is None else tokenizer.eos_token_ids
        self.row = _sample_row(request, eos_token_ids, words)
        self.token_ids = request.token_ids
        self._tokenizer = tokenizer
        self._ending_ids = frozenset(params.stop_token_ids) | (frozenset() if params.ignore_eos else eos_token_ids)
        self._detokenizer = None
        if tokenizer is not None:
            self._detokenizer = IncrementalDetokenizer(
                tokenizer, skip_special=params.skip_special_tokens, after=request.prompt_token_ids
            )
        self._matcher = StopMatcher(words.stops, keeps_stop=params.include_stop_str_in_output)
        self._stop_reason: int | str | None = None
        self._error: str | None = None
        self._text: list[str] = []
        self._num_old_tokens = 0  # tokens and parts of the text that came before the last step
        self._num_old_parts = 0
        self._logprobs: list[TokenLogprobs] = []
        self._cumulative_logprob = 0.0 if params.logprobs is not None else None

    def advance(self, tokens: Sequence[SampledToken]) -> list[Sampled]:
        """Takes the tokens drawn for the next positions, up to the first that ends the completion; returns those taken."""
        self._num_old_tokens = len(self.request.output_token_ids)
        self._num_old_parts = len(self._text)
        num_room = self.request.max_num_tokens - self.request.num_tokens
        taken: list[Sampled] = []
        for token in tokens:
            is_past_minimum = self._num_old_tokens + len(taken) >= self.request.sampling.min_tokens
            is_last = len(taken) + 1 >= num_room
            reason = self._take(token, is_past_minimum=is_past_minimum, is_last=is_last)
            taken.append(Sampled(token.token_id, reason))
            if is_last or reason is not None:
                break
        return taken

    def _take(self, sampled: SampledToken, *, is_past_minimum: bool, is_last: bool) -> FinishReason | None:
        """Takes one token, the last that the length allows if `is_last`; returns STOP if the completion ends with it."""
        token_id, logprobs = sampled
        is_ending_id = is_past_minimum and token_id in self._ending_ids
        if is_ending_id and token_id in self.request.sampling.stop_token_ids:
            self._stop_reason = token_id
        heeds_stops = is_past_minimum and self._stop_reason is None
        self._read(token_id, is_ending_id=is_ending_id, heeds_stops=heeds_stops)
        if is_ending_id or is_last:
            self._release(heeds_stops=heeds_stops)
        if logprobs is not None:
            self._note_logprobs(logprobs, token_id)
        return FinishReason.STOP if is_ending_id or self._stop_reason is not None else None

    def end(self, error: str | None = None) -> None:
        """Releases the text still held back, unless an error ended it; called once, after the scheduler finished the request."""
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

    def progress(self) -> Progress:
        """Returns what the last step added, with what its end released."""
        return Progress(
            request_id=self.group_id,
            index=self.index,
            text="".join(self._text[self._num_old_parts :]),
            token_ids=tuple(self.request.output_token_ids[self._num_old_tokens :]),
            logprobs=tuple(self._logprobs[self._num_old_tokens :]) if self._logprobs else None,
            cumulative_logprob=self._cumulative_logprob,
            finish_reason=self._finish_reason,
            stop_reason=self._stop_reason,
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


def name_tokens(candidates: TokenLogprobs, tokenizer: Tokenizer | None) -> Mapping[int, Logprob]:
    """Returns the candidates with the text of each token where there is a tokenizer."""
    if tokenizer is None:
        return candidates
    return {
        token_id: replace(candidate, decoded_token=tokenizer.token_text(token_id)) for token_id, candidate in candidates.items()
    }


def _sample_row(request: Request, eos_token_ids: frozenset[int], words: OutputWords) -> SampleRow:
    params = request.sampling
    return SampleRow(
        params=params,
        seed=request.seed,
        prompt_token_ids=request.prompt_token_ids,
        output_token_ids=request.output_token_ids,
        eos_token_ids=eos_token_ids,
        ban=None if words.banned is None else BannedTokens(words.banned),
        counts=TokenCounts(request.prompt_token_ids) if _has_penalties(params) else None,
    )


def _has_penalties(params: SamplingParams) -> bool:
    return (params.repetition_penalty, params.frequency_penalty, params.presence_penalty) != (1, 0, 0)
