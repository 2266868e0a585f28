"""The logits of a step, a slice of rows at a time: a text of a thousand tokens never meets a thousand rows of a vocabulary.

    body    T tokens through all layers, once                        run  ->  hidden rows stay in the executor
    head    [0, R)  [R, 2R)  [2R, S)    rows whose logits are wanted   run, head, head; each slice is read, then dropped

A row of the head does not depend on its neighbours, so on the native executor no slice changes a bit. The reference and the
torch executor never promised that: their matrix products may order sums by shape.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from quire.executors.protocol import ArgmaxTokens, Executor, Float32Array, StepBatch
from quire.units import MIB

MAX_LOGIT_BYTES = 32 * MIB
"""Logits that exist at once: 55 rows of a 152k vocabulary, where products are long past being bound by reading the head."""

_BYTES_PER_LOGIT = 4

LogitReader = Callable[[Float32Array], None]
"""Takes the next rows of logits [R, V] and keeps none of them."""

BestReader = Callable[[ArgmaxTokens], None]


def run_in_slices(executor: Executor, batch: StepBatch, read: LogitReader) -> None:
    """Runs a step and gives the logits of its sample rows to `read`, in order, at most `MAX_LOGIT_BYTES` at a time.

    A vocabulary of more than 8M tokens still gets one row a slice. Raises what the executor raises, between two slices too.
    """
    rows = batch.sample_rows
    size = rows_per_slice(executor.spec.vocab_size)
    if len(rows) <= size:
        read(executor.run(batch))
        return
    read(executor.run(replace(batch, sample_rows=rows[:size])))
    for start in range(size, len(rows), size):
        read(executor.head(rows[start : start + size]))


def run_for_best(executor: Executor, batch: StepBatch, read: BestReader) -> None:
    """Runs a step and gives the best tokens of its sample rows to `read`, in order. Otherwise as `run_in_slices`."""
    rows = batch.sample_rows
    executor.run(batch.without_samples())
    size = rows_per_slice(executor.spec.vocab_size)
    for start in range(0, len(rows), size):
        read(executor.argmax(rows[start : start + size]))


def rows_per_slice(vocab_size: int) -> int:
    """Returns how many rows of logits fit `MAX_LOGIT_BYTES`; at least one."""
    return max(1, MAX_LOGIT_BYTES // (_BYTES_PER_LOGIT * vocab_size))
