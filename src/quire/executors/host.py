"""What every executor can have that computes at once and hands out its logits: the rest of the protocol, by definition."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from quire.arrays import Float32Array, Int32Array
from quire.executors.checks import check_own_tile
from quire.executors.protocol import ArgmaxTokens, StepBatch
from quire.sample.definition import NumPySampler


@dataclass(frozen=True, slots=True)
class FinishedStep:
    """A step that ran when it was submitted."""

    logits: Float32Array

    def result(self) -> Float32Array:
        """Returns the logits of the step's sample rows."""
        return self.logits


class HostExecutor(NumPySampler, ABC):
    """Runs a step while it is submitted, finds the argmax in written logits, and samples as NumPy defines it."""

    num_own_tiles: int = 0

    @abstractmethod
    def run(self, batch: StepBatch) -> Float32Array:
        """Runs a step; see Executor."""

    @abstractmethod
    def head(self, rows: Int32Array) -> Float32Array:
        """Returns logits of rows of the latest step; see Executor."""

    def submit(self, batch: StepBatch) -> FinishedStep:
        """Runs a step, and raises as `run`."""
        return FinishedStep(self.run(batch))

    def argmax(self, rows: Int32Array) -> ArgmaxTokens:
        """Returns the argmax of rows of the latest step; raises as `head`."""
        return argmax_of(self.head(rows))

    def copy_own_tile(self, source: int, target: int) -> None:
        """Raises ExecutorError for an own tile that does not exist: all of them, where the KV format has none."""
        for own_tile in (source, target):
            check_own_tile(own_tile, self.num_own_tiles)


def argmax_of(logits: Float32Array) -> ArgmaxTokens:
    """Returns the argmax of each row of logits [S, V]."""
    return ArgmaxTokens(
        token_ids=logits.argmax(axis=1).astype(np.int32),
        num_not_finite=np.count_nonzero(~np.isfinite(logits), axis=1).astype(np.int32),
    )
