"""From logits to tokens, row by row: the result of a row depends on that row alone.

Log-probabilities describe the model: they are taken from the raw logits, before temperature, penalties, bias and filters
(what vLLM calls `raw_logprobs`, its default).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from quire.errors import SampleRowError, SamplingError
from quire.request import Greedy, SamplingParams, TokenLogprobs
from quire.sample.arrays import Float32Array, RowArray
from quire.sample.filters import SampleRow, TokenCounts, adjusted
from quire.sample.noise import uniform
from quire.sample.rows import best_id, drawn_id, token_logprobs

__all__ = ["SampleRow", "SampledToken", "TokenCounts", "not_finite", "require_known_tokens", "sample", "score"]

_Item = TypeVar("_Item")


class SampledToken(NamedTuple):
    """The token chosen for a row; `logprobs` is None unless the request asks for them."""

    token_id: int
    logprobs: TokenLogprobs | None


def sample(logits: Float32Array, rows: Sequence[SampleRow]) -> list[SampledToken]:
    """Returns one token for each row of `logits` [S, V], which is left unchanged.

    A pure function: noise comes from each row's seed and position. Raises SampleRowError, with the index of the first row
    whose logits are not finite or whose tokens are all banned; the call may be repeated without that row.
    """
    logits = np.ascontiguousarray(logits)
    return [_sample_row(logits[row_idx], row, row_idx) for row_idx, row in _numbered(logits, rows)]


def score(logits: Float32Array, targets: Sequence[int], num_top: int) -> list[TokenLogprobs]:
    """Returns teacher-forced log-probabilities: row r of `logits` [R, V] predicts `targets[r]`.

    Each mapping holds the target, with its rank, and the `num_top` most likely tokens. Raises SampleRowError on a row that is
    not finite.
    """
    logits = np.ascontiguousarray(logits)
    scores = []
    for row_idx, target in _numbered(logits, targets):
        _require_finite(logits[row_idx], row_idx)
        scores.append(token_logprobs(logits[row_idx], target, num_top))
    return scores


def require_known_tokens(params: SamplingParams, vocab_size: int) -> None:
    """Raises SamplingError where `params` names a token id that the model does not have."""
    unknown = [token_id for token_id in (*params.logit_bias, *params.stop_token_ids) if token_id >= vocab_size]
    if unknown:
        raise SamplingError(
            "logit_bias or stop_token_ids names a token the model does not have",
            given=unknown[0],
            limit=vocab_size - 1,
            next_step="Use token ids of this model's vocabulary.",
        )


def not_finite(row_idx: int, num_values: int, vocab_size: int) -> SampleRowError:
    """Returns the error for a row of which `num_values` logits are NaN or infinite."""
    return SampleRowError(
        "the model's logits hold NaN or infinity",
        row_idx=row_idx,
        given=f"{num_values} of {vocab_size} values",
        next_step="Check the checkpoint's weights, or load it with dtype float32.",
    )


def _sample_row(logits: Float32Array, row: SampleRow, row_idx: int) -> SampledToken:
    token_id = _require_finite(logits, row_idx)
    changed = adjusted(logits, row)
    if changed is not logits:
        token_id = _best_allowed(changed, row_idx)
    method = row.params.method
    if not isinstance(method, Greedy):
        token_id = drawn_id(changed, method, uniform(row.seed, row.position))
    num_top = row.params.logprobs
    return SampledToken(token_id=token_id, logprobs=None if num_top is None else token_logprobs(logits, token_id, num_top))


def _best_allowed(logits: RowArray, row_idx: int) -> int:
    token_id = int(logits.argmax())
    if logits[token_id] == -np.inf:
        raise SampleRowError(
            "every token is banned by bad_words or min_tokens", row_idx=row_idx, next_step="Allow at least one token."
        )
    return token_id


def _require_finite(logits: Float32Array, row_idx: int) -> int:
    """Returns the best token of a row whose logits are finite."""
    token_id = best_id(logits)
    if token_id is None:
        raise not_finite(row_idx, int(np.count_nonzero(~np.isfinite(logits))), logits.size)
    return token_id


def _numbered(logits: Float32Array, items: Sequence[_Item]) -> Sequence[tuple[int, _Item]]:
    if len(items) != logits.shape[0]:
        raise ValueError(f"{logits.shape[0]} rows of logits but {len(items)} descriptions")
    return list(enumerate(items))
