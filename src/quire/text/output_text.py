"""The text of one completion while it grows, and the stop that ends it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from quire.errors import RequestError
from quire.request import TokenLogprobs
from quire.sampling import SamplingParams
from quire.text.automaton import Automaton
from quire.text.banned_words import BannedWords
from quire.text.detokenizer import IncrementalDetokenizer
from quire.text.stop import StopMatcher
from quire.text.tokenizer import Tokenizer


class OutputWords:
    """What the completions of one prompt look for in their text: stop strings and banned words. Built once, shared."""

    def __init__(self, params: SamplingParams, tokenizer: Tokenizer | None) -> None:
        self.stops = Automaton[str](params.stop)
        self.banned: BannedWords | None = None
        if tokenizer is None:
            if params.stop or params.bad_words:
                raise RequestError("stop strings and bad words need a tokenizer", next_step="Use stop_token_ids or logit_bias.")
        elif params.bad_words:
            hidden_ids = tokenizer.special_ids if params.skip_special_tokens else frozenset[int]()
            self.banned = BannedWords(params.bad_words, tokenizer.vocabulary, hidden_ids)


class OutputText:
    """Turns tokens into released text and decides with each whether the text ends. Without a tokenizer texts stay empty.

    In this order, of tokens that are past the minimum:

        a stop id          reason: the id        the token is left out of the text
        a stop string      reason: the string    cut from the text, also where special tokens that are not shown belong to it
        end of sequence    reason: None          as a stop id

    `include_stop_str_in_output` keeps what is left out. `parts`, joined, are the released text; text that may become a stop
    string is held back. `push` takes a token that ends nothing where there are no stop strings, and returns what to add to
    `parts`.
    """

    __slots__ = ("_detokenizer", "_matcher", "_params", "ending_ids", "parts", "push", "stop_reason")

    def __init__(self, params: SamplingParams, tokenizer: Tokenizer | None, words: OutputWords, after: Sequence[int]) -> None:
        self.parts: list[str] = []
        self.stop_reason: int | str | None = None
        is_ending = frozenset[int]() if tokenizer is None or params.ignore_eos else tokenizer.eos_token_ids
        self.ending_ids = is_ending.union(params.stop_token_ids)
        self._params = params
        self._matcher = StopMatcher(words.stops, keeps_stop=params.include_stop_str_in_output)
        self._detokenizer: IncrementalDetokenizer | None = None
        self.push: Callable[[int], str] = _no_text
        if tokenizer is not None:
            self._detokenizer = IncrementalDetokenizer(tokenizer, skip_special=params.skip_special_tokens, after=after)
            self.push = self._detokenizer.push

    def take(self, token_id: int, *, is_past_minimum: bool, is_last: bool) -> bool:
        """Takes any token, the last that the length allows if `is_last`; returns whether the text ends with it."""
        is_ending_id = is_past_minimum and token_id in self.ending_ids
        if is_ending_id and token_id in self._params.stop_token_ids:
            self.stop_reason = token_id
        heeds_stops = is_past_minimum and self.stop_reason is None
        self._read(token_id, is_ending_id=is_ending_id, heeds_stops=heeds_stops)
        if is_ending_id or is_last:
            self._release(heeds_stops=heeds_stops)
        return is_ending_id or self.stop_reason is not None

    def finish(self) -> None:
        """Releases the text still held back."""
        self._release(heeds_stops=False)

    def _read(self, token_id: int, *, is_ending_id: bool, heeds_stops: bool) -> None:
        if self._detokenizer is None:
            return
        hides = is_ending_id and not self._params.include_stop_str_in_output
        if self._params.stop:
            hidden, text = (self._detokenizer.text_behind(token_id), "") if hides else self._detokenizer.push_all(token_id)
            self._show(text, hidden, heeds_stops=heeds_stops)
        else:
            self.parts.append("" if hides else self._detokenizer.push(token_id))

    def _show(self, text: str, hidden: str = "", *, heeds_stops: bool) -> None:
        result = self._matcher.push(text, hidden=hidden, heeds=heeds_stops)
        self.parts.append(result.emit)
        if result.matched is not None:
            self.stop_reason = result.matched

    def _release(self, *, heeds_stops: bool) -> None:
        if self._detokenizer is None:
            return
        self._show(self._detokenizer.finish(), heeds_stops=heeds_stops)
        self.parts.append(self._matcher.finish())


def name_tokens(candidates: TokenLogprobs, tokenizer: Tokenizer | None) -> TokenLogprobs:
    """Returns the candidates with the text of each token where there is a tokenizer."""
    if tokenizer is None:
        return candidates
    return {
        token_id: replace(candidate, decoded_token=tokenizer.token_text(token_id)) for token_id, candidate in candidates.items()
    }


def _no_text(_token_id: int) -> str:
    return ""
