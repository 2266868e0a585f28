"""What a request asks to change in its logits before a token is chosen, in vLLM's order.

bad words, min_tokens     banned tokens become -inf
logit_bias                added
repetition_penalty        tokens of prompt or output: positive logits divided, negative ones multiplied
frequency_penalty         output only: subtracted once an occurrence
presence_penalty          output only: subtracted once
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from quire.request import SamplingParams
from quire.sample.arrays import Float64Array, IdArray, RowArray, TokenIds


class TokenCounts:
    """How often each token occurs in one request; kept beside the request, a step then costs its new tokens only.

    Without one, penalties count prompt and output anew in every step, with the same result.
    """

    __slots__ = ("_num_counted", "_output", "_prompt")

    def __init__(self, prompt_token_ids: Sequence[int]) -> None:
        self._prompt: IdArray = np.unique(np.asarray(prompt_token_ids, dtype=np.intp))
        self._output: Counter[int] = Counter()
        self._num_counted = 0

    def catch_up(self, output_token_ids: Sequence[int]) -> None:
        """Counts the tokens that are new since the last call; an output that became shorter is counted anew."""
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
    """Whose logits a row holds: everything besides the logits that decides the next token.

    `ban` names the tokens that may not come next; `counts` saves recounting the context when penalties are used.
    """

    params: SamplingParams
    seed: int
    prompt_token_ids: Sequence[int]
    output_token_ids: Sequence[int]
    eos_token_ids: frozenset[int]
    ban: TokenBan | None = None
    counts: TokenCounts | None = None
    _is_plain: bool = field(init=False)

    def __post_init__(self) -> None:
        params = self.params
        changes = (params.logit_bias, self.ban is not None, _has_penalties(params), params.logprobs is not None)
        object.__setattr__(self, "_is_plain", params.temperature == 0 and not any(changes))

    @property
    def takes_best(self) -> bool:
        """Whether the token is the best of the model's own logits and nothing else is asked of them."""
        return self._is_plain and len(self.output_token_ids) >= self.params.min_tokens

    @property
    def position(self) -> int:
        """Position of the token to be drawn."""
        return len(self.prompt_token_ids) + len(self.output_token_ids)


def adjusted(logits: RowArray, row: SampleRow) -> RowArray:
    """Returns the logits [V] that a choice is made from: a float64 copy, or `logits` itself where nothing changes."""
    params = row.params
    banned = [ids[: np.searchsorted(ids, logits.size)] for ids in _banned_ids(row)]
    if not any(ids.size for ids in banned) and not params.logit_bias and not _has_penalties(params):
        return logits
    changed = logits.astype(np.float64)
    for ids in banned:
        changed[ids] = -np.inf
    for token_id, bias in params.logit_bias.items():
        changed[token_id] += bias
    if _has_penalties(params):
        _penalise(changed, row)
    return changed


def _banned_ids(row: SampleRow) -> Iterable[TokenIds]:
    if len(row.output_token_ids) < row.params.min_tokens:
        yield np.array(sorted({*row.eos_token_ids, *row.params.stop_token_ids}), dtype=np.int64)
    if row.ban is not None:
        yield row.ban.after(row.output_token_ids)


def _has_penalties(params: SamplingParams) -> bool:
    return params.repetition_penalty != 1 or params.frequency_penalty != 0 or params.presence_penalty != 0


def _penalise(logits: Float64Array, row: SampleRow) -> None:
    params = row.params
    counts = row.counts or TokenCounts(row.prompt_token_ids)
    counts.catch_up(row.output_token_ids)
    if params.repetition_penalty != 1:
        seen = counts.seen_ids()
        values = logits[seen]
        logits[seen] = np.where(values > 0, values / params.repetition_penalty, values * params.repetition_penalty)
    ids, occurrences = counts.output_counts()
    logits[ids] -= params.frequency_penalty * occurrences
    logits[ids] -= params.presence_penalty
