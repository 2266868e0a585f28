"""How far one way to compute a model is from another: their next-token distributions, compared at every position."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from quire.arrays import Float64Array
from quire.executors.protocol import Float32Array

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.integer]


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """The divergence of a computation from its reference. KL(reference || other) is in nats per token.

    `top1` is the share of positions where both have the same most likely token. `perplexity` is the computation's own.
    """

    num_tokens: int
    kl_mean: float
    kl_p99: float
    kl_max: float
    top1: float
    perplexity: float


@dataclass(slots=True)
class DivergenceMeter:
    """Takes logits of both for the same rows, one slice at a time, and keeps three numbers per row."""

    _kls: list[Float64Array] = field(default_factory=list)
    _losses: list[Float64Array] = field(default_factory=list)
    _is_same: list[BoolArray] = field(default_factory=list)

    def add(self, reference: Float32Array, found: Float32Array, next_ids: IntArray) -> None:
        """Takes logits [R, V] of both, and the token [R] that really follows each row."""
        expected, given = log_softmax(reference), log_softmax(found)
        self._kls.append((np.exp(expected) * (expected - given)).sum(axis=1))
        self._losses.append(-given[np.arange(len(next_ids)), next_ids])
        self._is_same.append(reference.argmax(axis=1) == found.argmax(axis=1))

    def add_piece(self, reference: Iterable[Float32Array], found: Iterable[Float32Array], token_ids: Sequence[int]) -> None:
        """Takes slices of logits of both, in step, that together predict all tokens of a piece but the first."""
        done = 1
        for expected, given in zip(reference, found, strict=True):
            self.add(expected, given, np.array(token_ids[done : done + len(expected)]))
            done += len(expected)

    def result(self, chosen: BoolArray | None = None) -> Divergence:
        """Returns the figures of the rows taken so far, of all or of the chosen ones, at least one."""
        rows = slice(None) if chosen is None else chosen
        kls: Float64Array = np.concatenate(self._kls)[rows]
        return Divergence(
            num_tokens=len(kls),
            kl_mean=float(kls.mean()),
            kl_p99=float(np.quantile(kls, 0.99)),
            kl_max=float(kls.max()),
            top1=float(np.concatenate(self._is_same)[rows].mean()),
            perplexity=_perplexity(float(np.concatenate(self._losses)[rows].mean())),
        )


def _perplexity(loss: float) -> float:
    """Returns exp(loss), infinity beyond the range of floats."""
    return math.exp(loss) if loss <= math.log(sys.float_info.max) else math.inf


def log_softmax(logits: Float32Array) -> Float64Array:
    """Returns log-probabilities of rows of logits, in float64: divergences of good formats vanish in float32."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted
