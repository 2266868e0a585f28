"""What a request asks to change in its logits before a token is chosen, in vLLM's order.

bad words, min_tokens     banned tokens become -inf, and all but allowed_token_ids
logit_bias                added
repetition_penalty        tokens of prompt or output: positive logits divided, negative ones multiplied
frequency_penalty         output only: subtracted once per occurrence
presence_penalty          output only: subtracted once
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from quire.arrays import Float32Array, Float64Array
from quire.request import Request, SamplingParams
from quire.sample.arrays import IdArray, RowArray, TokenIds
from quire.sample.mask import TokenMask

_NO_IDS: IdArray = np.empty(0, dtype=np.intp)
_NO_LOGITS: Float64Array = np.empty(0, dtype=np.float64)


class TokenCounts:
    """How often each token occurs in one request; kept with the request, so that a step costs its new tokens only.

    Without one, penalties count prompt and output again in every step, with the same result.
    """

    __slots__ = ("_num_counted", "_output", "_prompt")

    def __init__(self, prompt_token_ids: Sequence[int]) -> None:
        self._prompt: IdArray = np.unique(np.asarray(prompt_token_ids, dtype=np.intp))
        self._output: Counter[int] = Counter()
        self._num_counted = 0

    def catch_up(self, output_token_ids: Sequence[int]) -> None:
        """Counts the tokens that are new since the last call; an output that became shorter is counted again."""
        if len(output_token_ids) < self._num_counted:
            self._output.clear()
            self._num_counted = 0
        self._output.update(output_token_ids[self._num_counted :])
        self._num_counted = len(output_token_ids)

    def seen_ids(self) -> IdArray:
        """Returns the distinct tokens of prompt and output."""
        return np.union1d(self._prompt, self.output_counts()[0])

    def output_counts(self) -> tuple[IdArray, IdArray]:
        """Returns the distinct tokens of the output and how often each occurs."""
        ids = np.fromiter(self._output.keys(), dtype=np.intp, count=len(self._output))
        return ids, np.fromiter(self._output.values(), dtype=np.intp, count=len(self._output))


class TokenBan(Protocol):
    """Tokens that may not come next, as a function of the output so far alone."""

    def after(self, output_token_ids: Sequence[int]) -> TokenIds:
        """Returns their ids, ascending; some may be beyond the vocabulary."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRow:
    """Whose logits a row holds: everything that decides the next token, except the logits.

    `ban` names the tokens that may not come next; `counts` saves recounting the context when penalties are used.
    """

    params: SamplingParams
    seed: int
    prompt_token_ids: Sequence[int]
    output_token_ids: Sequence[int]
    eos_token_ids: frozenset[int]
    ban: TokenBan | None = None
    counts: TokenCounts | None = None
    allowed: TokenIds | None = field(init=False)
    _min_output: int = field(init=False)  # tokens from which on the best of the model's own logits is all that is asked for

    def __post_init__(self) -> None:
        params = self.params
        allowed = None if params.allowed_token_ids is None else np.array(params.allowed_token_ids, dtype=np.int64)
        object.__setattr__(self, "allowed", allowed)
        bans = (self.ban is not None, allowed is not None)
        changes = (params.logit_bias, *bans, _has_penalties(params), params.logprobs is not None)
        is_plain = params.temperature == 0 and not any(changes)
        object.__setattr__(self, "_min_output", params.min_tokens if is_plain else sys.maxsize)

    @classmethod
    def of(cls, request: Request, *, eos_token_ids: frozenset[int], ban: TokenBan | None) -> SampleRow:
        """Returns the row of a request, which follows its output as it grows."""
        return cls(
            params=request.sampling,
            seed=request.seed,
            prompt_token_ids=request.prompt_token_ids,
            output_token_ids=request.output_token_ids,
            eos_token_ids=eos_token_ids,
            ban=ban,
            counts=TokenCounts(request.prompt_token_ids) if _has_penalties(request.sampling) else None,
        )

    @property
    def takes_best(self) -> bool:
        """Whether the token is the best of the model's own logits and nothing else is asked of them."""
        return len(self.output_token_ids) >= self._min_output

    @property
    def position(self) -> int:
        """Position of the token to be drawn."""
        return len(self.prompt_token_ids) + len(self.output_token_ids)


@dataclass(frozen=True, slots=True)
class RowChanges:
    """What a request changes in one row: new logits of some tokens, then which tokens are allowed (None: all)."""

    ids: IdArray
    logits: Float64Array
    mask: TokenMask | None


def changes_to(logits: Float32Array, row: SampleRow) -> RowChanges | None:
    """Returns what `row` changes in its logits [V], in float64; None where it changes nothing."""
    params = row.params
    mask = TokenMask.banning(_banned_ids(row), logits.size, row.allowed)
    if not params.logit_bias and not _has_penalties(params):
        return None if mask is None else RowChanges(_NO_IDS, _NO_LOGITS, mask)
    seen, output, occurrences = _counted(row)
    bias = np.fromiter(params.logit_bias, dtype=np.intp, count=len(params.logit_bias))
    ids = np.unique(np.concatenate((bias, seen, output)))
    changed = logits[ids].astype(np.float64)
    changed[np.searchsorted(ids, bias)] += np.fromiter(params.logit_bias.values(), dtype=np.float64, count=bias.size)
    places = np.searchsorted(ids, seen)
    values = changed[places]
    changed[places] = np.where(values > 0, values / params.repetition_penalty, values * params.repetition_penalty)
    places = np.searchsorted(ids, output)
    changed[places] -= params.frequency_penalty * occurrences
    changed[places] -= params.presence_penalty
    return RowChanges(ids, changed, mask)


def adjusted(logits: Float32Array, changes: RowChanges) -> RowArray:
    """Returns a copy of the logits [V] with these changes; banned tokens are -inf."""
    changed = logits.astype(np.float64)
    changed[changes.ids] = changes.logits
    if changes.mask is not None:
        changed[changes.mask.banned(logits.size)] = -np.inf
    return changed


def _banned_ids(row: SampleRow) -> Iterable[TokenIds]:
    if len(row.output_token_ids) < row.params.min_tokens:
        yield np.array(sorted({*row.eos_token_ids, *row.params.stop_token_ids}), dtype=np.int64)
    if row.ban is not None:
        yield row.ban.after(row.output_token_ids)


def _has_penalties(params: SamplingParams) -> bool:
    return params.repetition_penalty != 1 or params.frequency_penalty != 0 or params.presence_penalty != 0


def _counted(row: SampleRow) -> tuple[IdArray, IdArray, IdArray]:
    """Returns the tokens that each penalty concerns: those seen, those of the output, and how often these occur."""
    params = row.params
    if not _has_penalties(params):
        return _NO_IDS, _NO_IDS, _NO_IDS
    counts = row.counts or TokenCounts(row.prompt_token_ids)
    counts.catch_up(row.output_token_ids)
    seen = counts.seen_ids() if params.repetition_penalty != 1 else _NO_IDS
    return seen, *counts.output_counts()
