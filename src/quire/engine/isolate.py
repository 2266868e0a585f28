"""Runs a step's chunks; when the forward pass fails, finds out whose fault it is by running halves of the batch.

    run [a b c d] fails      run [a b] works: nobody there      run [c d] fails: run [c] works, run [d] fails -> d

Running a chunk again is harmless: it writes the same K/V into the same slots, logits do not depend on neighbours, and a draw
is a function of seed and position.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from quire.engine.batch import PaddedTables, TokenSource, build_batch
from quire.engine.drawing import Drawing, RowSource, StepTokens
from quire.engine.failure import failure_message
from quire.engine.logits import run_for_best, run_in_slices
from quire.errors import is_failure
from quire.executors.protocol import Executor
from quire.sched.plan import ScheduledChunk


class Member(TokenSource, RowSource, Protocol):
    """A request on its way through a step."""


def run_chunks(
    executor: Executor,
    chunks: Sequence[ScheduledChunk],
    members: Mapping[str, Member],
    tables: PaddedTables,
) -> StepTokens:
    """Returns what the chunks of `members` bring; with `failures`, that of the requests which fail on their own counts alone."""
    drawing = Drawing(chunks, members, executor.spec.vocab_size)
    try:
        batch = build_batch(chunks, members, executor.layout.block_size, tables)
        if drawing.needs_logits:
            run_in_slices(executor, batch, drawing.read)
        else:
            run_for_best(executor, batch, drawing.read_best)
        return drawing.drawn
    except BaseException as error:
        if not is_failure(error):
            raise
        if len(chunks) == 1:
            return StepTokens(failures={chunks[0].request_id: failure_message(error)})
    middle = len(chunks) // 2
    drawn = StepTokens()
    for half in (chunks[:middle], chunks[middle:]):
        drawn.take(run_chunks(executor, half, members, tables))
    return drawn
