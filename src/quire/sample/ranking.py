"""Order among tokens and their log-probabilities: largest first, equal ones by the smaller id."""

from __future__ import annotations

import math

import numpy as np

from quire.arrays import Float64Array
from quire.sample.arrays import IdArray, RowArray
from quire.sample.buckets import Buckets


def largest_ids(values: RowArray, count: int) -> IdArray:
    """Returns the ids of the `count` largest of `values` [V], largest first, equal ones by the smaller id."""
    if count >= values.size:
        return np.argsort(-values, kind="stable")
    threshold = np.partition(values, values.size - count)[values.size - count]
    above = np.flatnonzero(values > threshold)
    level = np.flatnonzero(values == threshold)[: count - above.size]
    return np.concatenate((above[np.argsort(-values[above], kind="stable")], level))


def num_before(values: RowArray, token_id: int) -> int:
    """Returns how many ids come before `token_id` in the order of `largest_ids`."""
    value = values[token_id]
    return int(np.count_nonzero(values > value) + np.count_nonzero(values[:token_id] == value))


def exp_sum(logits: RowArray) -> float:
    """Returns the sum of e^(logit - best) of one row, without what is lighter than e^-44."""
    return Buckets(logits).total


def log_softmax(logits: RowArray) -> Float64Array:
    """Returns log-probabilities [V] of one row of finite logits, computed in float64."""
    return logits.astype(np.float64) - float(logits.max()) - math.log(exp_sum(logits))
