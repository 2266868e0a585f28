"""The weights of a row, sorted into buckets of nearly equal ones, so that a vocabulary is never sorted whole.

    weight   e^d with d = (logit - best) / temperature = -k ln(2) / 64 + r
    bucket   k, from 0 for the best token on; 64 buckets an octave
    shade    e^r, within half a percent of 1

    bucket        0         1            2         ...      heaviest first
    tokens     [ best ] [ a  b  c ] [ d e f g h ]
    cumulative        w0          w1            w2          a goal between w1 and w2: order d .. h, add from w1 on

All of it is made of the four operations and square roots in a fixed order, so that every machine finds the same bits. NumPy's own
`exp` and `sum` choose their instructions by processor. The compiled core repeats this file (`csrc/exp_buckets.h`), faster.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from functools import cache

import numpy as np

from quire.arrays import Float64Array
from quire.sample.arrays import IdArray, RowArray

LEAST = -44.0
"""Tokens lighter than e^-44 or 2^-63 of the best one are left out: 53 bits of noise hardly reach them."""

_BUCKETS_PER_OCTAVE = 64
_NUM_BUCKETS = 4096
_NUM_LANES = 4  # a bucket's sum has four lanes, lane l of ids l, l + 4, ..; then (0 + 1) + (2 + 3)
_BUCKETS_PER_NAT = 92.33248261689366  # 64 / ln 2
_NATS_HIGH, _NATS_LOW = float.fromhex("0x1.62e42fep-7"), float.fromhex("0x1.f473de6af278fp-36")  # ln 2 / 64
_SHIFT = 1.5 * 2.0**52  # added to a small number, it leaves the nearest integer


def sharpness(temperature: float) -> float:
    """Returns 1 / temperature, at most the largest number."""
    return min(1 / temperature, sys.float_info.max)


@dataclass(frozen=True, slots=True)
class Place:
    """A token in the order: its bucket, its number there, the cumulative weight up to and with it, and its id."""

    bucket: int
    number: int
    cumulative: float
    token_id: int


class Buckets:
    """The weights of logits [V] at a sharpness; tokens whose d is below `least` weigh nothing. Banned tokens are -inf."""

    def __init__(self, logits: RowArray, sharpness: float = 1.0, least: float = LEAST) -> None:
        with np.errstate(over="ignore"):
            nats = (logits.astype(np.float64) - float(logits.max())) * sharpness
        self._ids: IdArray = np.flatnonzero(nats >= max(least, LEAST))
        nats = nats[self._ids]
        numbers = (nats * _BUCKETS_PER_NAT + _SHIFT) - _SHIFT
        self._owners = (-numbers).astype(np.intp)
        self._shades = _exp_near_zero((nats - numbers * _NATS_HIGH) - numbers * _NATS_LOW)
        bins = self._owners * _NUM_LANES + self._ids % _NUM_LANES
        lanes = np.bincount(bins, self._shades, _NUM_BUCKETS * _NUM_LANES).reshape(_NUM_BUCKETS, _NUM_LANES)
        sums = (lanes[:, 0] + lanes[:, 1]) + (lanes[:, 2] + lanes[:, 3])
        self._cumulative = np.cumsum(sums * np.array(_bucket_weights()))

    @property
    def total(self) -> float:
        return float(self._cumulative[-1])

    def reaching(self, goal: float) -> Place:
        """Returns the first token at which the cumulative weight is `goal` or more."""
        bucket = int(np.searchsorted(self._cumulative, goal, side="left"))
        ids, cumulative = self._in_order(bucket)
        return _place(bucket, int(np.searchsorted(cumulative, goal, side="left")), ids, cumulative)

    def beyond(self, goal: float) -> Place:
        """Returns the first token at which the cumulative weight is more than `goal`, or the last one."""
        last = int(np.searchsorted(self._cumulative, self.total, side="left"))
        bucket = min(int(np.searchsorted(self._cumulative, goal, side="right")), last)
        ids, cumulative = self._in_order(bucket)
        return _place(bucket, int(np.searchsorted(cumulative, goal, side="right")), ids, cumulative)

    def _in_order(self, bucket: int) -> tuple[IdArray, Float64Array]:
        """Returns the bucket's tokens, heaviest first, equal ones by the smaller id, and the cumulative weight at each."""
        members = np.flatnonzero(self._owners == bucket)
        members = members[np.argsort(-self._shades[members], kind="stable")]
        before = self._cumulative[bucket - 1] if bucket else 0.0
        weights = self._shades[members] * _bucket_weights()[bucket]
        return self._ids[members], np.cumsum(np.concatenate(([before], weights)))[1:]


def _place(bucket: int, number: int, ids: IdArray, cumulative: Float64Array) -> Place:
    """A bucket's sum and the sum down its order may round differently: its last token then stands for its end."""
    number = min(number, ids.size - 1)
    return Place(bucket, number, float(cumulative[number]), int(ids[number]))


def _exp_near_zero(r: Float64Array) -> Float64Array:
    """Returns e^r by its Taylor series; r^6 / 6! is below 2^-54."""
    series = np.full_like(r, 1 / 120)
    for factorial in (24, 6, 2, 1, 1):
        series = 1 / factorial + r * series
    return series


@cache
def _bucket_weights() -> tuple[float, ...]:
    """Returns 2^(-k/64) for every bucket k, by square roots, which every machine rounds alike."""
    roots, root = [], 0.5
    for _ in range(6):
        root = math.sqrt(root)
        roots.append(root)
    roots.reverse()  # roots[bit] = 2^(-2^bit / 64)
    weights = [math.prod(root for bit, root in enumerate(roots) if k >> bit & 1) for k in range(_BUCKETS_PER_OCTAVE)]
    for k in range(_BUCKETS_PER_OCTAVE, _NUM_BUCKETS):
        weights.append(weights[k - _BUCKETS_PER_OCTAVE] / 2)
    return tuple(weights)
