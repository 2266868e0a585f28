"""One draw from one row: temperature, min-p, top-k, top-p, then the inverse of the cumulative distribution.

Every filter keeps a head of the same order (most likely first, equal ones by the smaller id):

    min_p   tokens at least min_p times as likely as the best one
    top_k   the first k
    top_p   the shortest head that holds top_p of what the two others left

so the draw needs only as much of the sorted order as the noise reaches, and a large vocabulary is rarely sorted whole.
"""

from __future__ import annotations

import numpy as np

from quire.request import Draw
from quire.sample.ranking import Float64Array, IdArray, RowArray, largest_ids

_FIRST_HEAD = 64
_HEAD_GROWTH = 16


def draw(logits: RowArray, method: Draw, noise: float) -> int:
    """Returns the token that `noise` in [0, 1) selects from one row of logits [V]; banned tokens are -inf.

    Sums run in float64 in a fixed order: over all ids for the total, down the order for the cumulative distribution.
    """
    ids: IdArray | None = None
    if method.top_k is not None and method.top_k < logits.size:
        ids = np.sort(largest_ids(logits, method.top_k))
        logits = logits[ids]
    idx = _inverse_cdf(_weights(logits, method), method.top_p, noise)
    return idx if ids is None else int(ids[idx])


def _weights(logits: RowArray, method: Draw) -> Float64Array:
    """Returns probabilities relative to the best token's, 0 for those that min-p removes."""
    weights = logits.astype(np.float64)
    weights -= weights.max()
    with np.errstate(over="ignore", under="ignore"):
        weights /= method.temperature
        np.exp(weights, out=weights)
    if method.min_p > 0:
        weights[weights < method.min_p] = 0.0
    return weights


def _inverse_cdf(weights: Float64Array, top_p: float, noise: float) -> int:
    total = weights.sum()
    goal = total * (top_p if top_p < 1 else noise)
    ids, cumulative = _head_beyond(goal, weights)
    if top_p < 1:
        num_kept = min(int(np.searchsorted(cumulative, goal, side="left")) + 1, ids.size)
        ids, cumulative = ids[:num_kept], cumulative[:num_kept]
        goal = cumulative[-1] * noise
    idx = min(int(np.searchsorted(cumulative, goal, side="right")), ids.size - 1)
    return int(ids[idx])


def _head_beyond(goal: float, weights: Float64Array) -> tuple[IdArray, Float64Array]:
    """Returns ids and cumulative weights of a head that exceeds `goal`, or of all tokens of positive weight."""
    num_positive = int(np.count_nonzero(weights))
    num_ids = _FIRST_HEAD
    while True:
        ids = largest_ids(weights, min(num_ids, num_positive))
        cumulative = np.cumsum(weights[ids])
        if num_ids >= num_positive or cumulative[-1] > goal:
            return ids, cumulative
        num_ids *= _HEAD_GROWTH
