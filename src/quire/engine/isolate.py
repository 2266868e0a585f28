"""Runs a step's chunks; when the forward pass fails, finds out whose fault it is by running halves of the batch.

    run [a b c d] fails      run [a b] works: nobody there      run [c d] fails: run [c] works, run [d] fails -> d

Running a chunk again is harmless: it writes the same K/V into the same slots, logits do not depend on neighbours, and a draw
is a function of seed and position.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from quire.engine.batch import TokenSource, build_batch
from quire.engine.drawing import Drawing, StepTokens
from quire.engine.failure import failure_message
from quire.engine.logits import run_in_slices
from quire.executors.protocol import Executor
from quire.sample.sampler import SampleRow
from quire.sched.plan import ScheduledChunk


def run_chunks(
    executor: Executor,
    chunks: Sequence[ScheduledChunk],
    sources: Mapping[str, TokenSource],
    rows: Mapping[str, SampleRow],
) -> StepTokens:
    """Returns what the chunks bring; with `failures`, that of the requests which fail on their own counts alone."""
    drawing = Drawing(chunks, rows)
    try:
        run_in_slices(executor, build_batch(chunks, sources, executor.layout.block_size), drawing.read)
        return drawing.drawn
    except Exception as error:
        if len(chunks) == 1:
            return StepTokens(failures={chunks[0].request_id: failure_message(error)})
    middle = len(chunks) // 2
    drawn = StepTokens()
    for half in (chunks[:middle], chunks[middle:]):
        drawn.take(run_chunks(executor, half, sources, rows))
    return drawn
