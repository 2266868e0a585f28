"""Order among tokens and their log-probabilities: largest first, equal ones by the smaller id."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from quire.request import Logprob, TokenLogprobs

RowArray = npt.NDArray[np.floating]
Float64Array = npt.NDArray[np.float64]
IdArray = npt.NDArray[np.intp]


def largest_ids(values: RowArray, count: int) -> IdArray:
    """Returns the ids of the `count` largest of `values` [V], largest first, equal ones by the smaller id."""
    if count >= values.size:
        return np.argsort(-values, kind="stable")
    threshold = np.partition(values, values.size - count)[values.size - count]
    above = np.flatnonzero(values > threshold)
    level = np.flatnonzero(values == threshold)[: count - above.size]
    return np.concatenate((above[np.argsort(-values[above], kind="stable")], level))


def log_softmax(logits: RowArray) -> Float64Array:
    """Returns log-probabilities [V] of one row of finite logits, computed in float64."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max()
    shifted -= np.log(np.exp(shifted).sum())
    return shifted


def token_logprobs(logits: RowArray, chosen_id: int, num_top: int) -> TokenLogprobs:
    """Returns the chosen token first, then the `num_top` most likely ones, of one row of finite logits [V].

    `rank` counts from 1 in the order of `largest_ids`, so no two tokens of a row share a rank.
    """
    logprobs = log_softmax(logits)
    chosen = logprobs[chosen_id]
    num_before = np.count_nonzero(logprobs > chosen) + np.count_nonzero(logprobs[:chosen_id] == chosen)
    candidates = {chosen_id: Logprob(logprob=float(chosen), rank=int(num_before) + 1)}
    if num_top:
        for rank, token_id in enumerate(largest_ids(logprobs, num_top).tolist(), start=1):
            candidates.setdefault(token_id, Logprob(logprob=float(logprobs[token_id]), rank=rank))
    return candidates
