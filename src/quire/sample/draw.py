"""One draw from one row: temperature, min-p, top-k, top-p, then the inverse of the cumulative distribution.

Every filter keeps a head of the same order (most likely first, equal ones by the smaller id):

    min_p   tokens at least min_p times as likely as the best one
    top_k   the first k
    top_p   the shortest head that holds top_p of what the two others left
"""

from __future__ import annotations

import math

import numpy as np

from quire.request import Draw
from quire.sample.arrays import IdArray, RowArray
from quire.sample.buckets import LEAST, Buckets, sharpness
from quire.sample.ranking import largest_ids


def draw(logits: RowArray, method: Draw, noise: float) -> int:
    """Returns the token that `noise` in [0, 1) selects from one row of logits [V]; banned tokens are -inf.

    Sums run in float64 in a fixed order: by id inside a bucket, then down the buckets, then down the order inside one.
    """
    ids: IdArray | None = None
    if method.top_k is not None and method.top_k < logits.size:
        ids = np.sort(largest_ids(logits, method.top_k))
        logits = logits[ids]
    idx = _inverse_cdf(Buckets(logits, sharpness(method.temperature), least_nats(method)), method.top_p, noise)
    return idx if ids is None else int(ids[idx])


def least_nats(method: Draw) -> float:
    """Returns how far below the best logit, in units of the temperature, min-p lets a token lie."""
    return math.log(method.min_p) if method.min_p > 0 else LEAST


def _inverse_cdf(buckets: Buckets, top_p: float, noise: float) -> int:
    if top_p >= 1:
        return buckets.beyond(buckets.total * noise).token_id
    last = buckets.reaching(buckets.total * top_p)
    place = buckets.beyond(last.cumulative * noise)
    is_kept = (place.bucket, place.number) <= (last.bucket, last.number)
    return place.token_id if is_kept else last.token_id
