"""From logits to tokens, a batch of rows at a time: the result of a row depends on that row alone.

Log-probabilities describe the model: they are taken from the raw logits, before temperature, penalties, bias and filters
(what vLLM calls `raw_logprobs`, its default).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from quire.arrays import Float32Array
from quire.errors import SampleRowError, SamplingError
from quire.request import SamplingParams, TokenLogprobs
from quire.sample.definition import RowToken
from quire.sample.filters import SampleRow, TokenCounts

__all__ = [
    "RowSampler",
    "SampleRow",
    "SampledToken",
    "TokenCounts",
    "not_finite",
    "require_choice",
    "require_known_tokens",
    "sample",
    "score",
]


class SampledToken(NamedTuple):
    """The token chosen for a row; `logprobs` is None unless the request asks for them."""

    token_id: int
    logprobs: TokenLogprobs | None


class RowSampler(Protocol):
    """Chooses and scores tokens, whole batches at a time. All samplers give the same tokens and bits, those of `definition`."""

    def sample(self, logits: Float32Array, rows: Sequence[SampleRow]) -> list[RowToken]:
        """Returns the token of each row of logits [S, V], C-contiguous."""
        ...

    def score(self, logits: Float32Array, token_ids: Sequence[int], num_top: int) -> list[RowToken]:
        """Returns the log-probabilities of one given token per row of logits [S, V], C-contiguous, and of the `num_top` best."""
        ...


def sample(sampler: RowSampler, logits: Float32Array, rows: Sequence[SampleRow]) -> list[SampledToken]:
    """Returns one token for each row of `logits` [S, V], which is left unchanged.

    Noise comes from each row's seed and position: no call depends on another one. Raises SampleRowError, with the index of the
    first row whose logits are not finite or whose tokens are all banned; the call may be repeated without that row.
    """
    tokens = sampler.sample(_rows(logits, rows), rows)
    return [SampledToken(_token_of(token, row_idx, logits), token.logprobs) for row_idx, token in enumerate(tokens)]


def score(sampler: RowSampler, logits: Float32Array, targets: Sequence[int], num_top: int) -> list[TokenLogprobs]:
    """Returns teacher-forced log-probabilities: row r of `logits` [R, V] predicts `targets[r]`.

    Each mapping holds the target, with its rank, and the `num_top` most likely tokens. Raises SampleRowError on a row that is
    not finite.
    """
    scores = []
    for row_idx, scored in enumerate(sampler.score(_rows(logits, targets), targets, num_top)):
        if scored.logprobs is None:
            raise not_finite(row_idx, scored.num_not_finite, logits.shape[1])
        scores.append(scored.logprobs)
    return scores


def require_known_tokens(params: SamplingParams, vocab_size: int) -> None:
    """Raises SamplingError where `params` names a token id that the model does not have."""
    for name in ("logit_bias", "stop_token_ids", "allowed_token_ids"):
        unknown = next((token_id for token_id in getattr(params, name) or () if token_id >= vocab_size), None)
        if unknown is not None:
            raise SamplingError(
                f"{name} names a token the model does not have",
                given=unknown,
                limit=vocab_size - 1,
                next_step="Use token ids of this model's vocabulary.",
            )


def require_choice(params: SamplingParams, vocab_size: int, *bans: Iterable[int]) -> None:
    """Raises SamplingError where `min_tokens` leaves no token to choose.

    It keeps out the tokens that end an output; `bans` are those of the tokenizer, and those that may be banned besides.
    """
    if not params.min_tokens:
        return
    closed = set(params.stop_token_ids).union(*bans)
    choice = range(vocab_size) if params.allowed_token_ids is None else params.allowed_token_ids
    if all(token_id in closed for token_id in choice):
        raise SamplingError(
            "min_tokens leaves no token to choose: each one ends the output, or may write one of bad_words",
            next_step="Leave min_tokens out, or stop at fewer tokens.",
        )


def not_finite(row_idx: int, num_values: int, vocab_size: int) -> SampleRowError:
    """Returns the error for a row of which `num_values` logits are NaN or infinite."""
    return SampleRowError(
        "the model's logits hold NaN or infinity",
        row_idx=row_idx,
        given=f"{num_values} of {vocab_size} values",
        next_step="Check the checkpoint's weights, or load it with dtype float32.",
    )


def _token_of(token: RowToken, row_idx: int, logits: Float32Array) -> int:
    if token.num_not_finite:
        raise not_finite(row_idx, token.num_not_finite, logits.shape[1])
    if token.token_id is None:
        raise SampleRowError(
            "every token is banned by bad_words or min_tokens", row_idx=row_idx, next_step="Allow at least one token."
        )
    return token.token_id


def _rows(logits: Float32Array, items: Sequence[object]) -> Float32Array:
    if len(items) != logits.shape[0]:
        raise ValueError(f"{logits.shape[0]} rows of logits but {len(items)} descriptions")
    return np.ascontiguousarray(logits)
