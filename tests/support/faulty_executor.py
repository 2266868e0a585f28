"""A native executor some of whose calls fail, after they have written garbage where they would have written."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from quire.arrays import Float32Array, Int32Array
from quire.errors import ExecutorError
from quire.executors.native import NativeExecutor
from quire.executors.options import ExecutorOptions
from quire.executors.protocol import ArgmaxTokens, StepBatch
from support.faults import Faults
from support.fuzz_models import Model


class FaultyExecutor(NativeExecutor):
    """Fails as `faults` say; keys and values of other tokens are in the slots of a step then, half of the time."""

    def __init__(self, model: Model, options: ExecutorOptions, faults: Faults) -> None:
        super().__init__(model.spec, model.weights, options)
        self.faults = faults

    def run(self, batch: StepBatch) -> Float32Array:
        if self.faults.strikes():
            if self.faults.dice.random() < 0.7:
                other = (batch.token_ids + self.faults.dice.randint(1, self.spec.vocab_size - 1)) % self.spec.vocab_size
                super().run(replace(batch, token_ids=other.astype(np.int32)))
            raise _injected()
        return super().run(batch)

    def head(self, rows: Int32Array) -> Float32Array:
        if self.faults.strikes():
            raise _injected()
        return super().head(rows)

    def argmax(self, rows: Int32Array) -> ArgmaxTokens:
        if self.faults.strikes():
            raise _injected()
        return super().argmax(rows)

    def copy_block(self, source: int, target: int) -> None:
        """Fails before the copy, or after it."""
        fails = self.faults.strikes()
        if not fails or self.faults.dice.random() < 0.5:
            super().copy_block(source, target)
        if fails:
            raise _injected()

    def copy_own_tile(self, source: int, target: int) -> None:
        """Fails before the copy, or after it."""
        fails = self.faults.strikes()
        if not fails or self.faults.dice.random() < 0.5:
            super().copy_own_tile(source, target)
        if fails:
            raise _injected()


def _injected() -> ExecutorError:
    return ExecutorError("an injected fault", next_step="Nothing is wrong.")
