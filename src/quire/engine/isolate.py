"""Runs a step's chunks; when the forward pass fails, finds out whose fault it is by running halves of the batch.

    run [a b c d] fails      run [a b] works: nobody there      run [c d] fails: run [c] works, run [d] fails -> d

Running a chunk again is harmless: it writes the same K/V into the same slots, and logits do not depend on neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from quire.engine.batch import TokenSource, build_batch
from quire.errors import QuireError
from quire.executors.protocol import Executor, Float32Array
from quire.sched.plan import ScheduledChunk

MAX_MESSAGE_CHARS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRun:
    """Logits [S, V] of all chunks in their order, unless some requests fail alone: then only `failures` counts."""

    logits: Float32Array
    failures: Mapping[str, str]


def run_chunks(executor: Executor, chunks: Sequence[ScheduledChunk], sources: Mapping[str, TokenSource]) -> StepRun:
    """Returns the logits of the chunks, or the ids of the requests that fail on their own with the reason of each."""
    try:
        return StepRun(logits=executor.run(build_batch(chunks, sources, executor.layout.block_size)), failures={})
    except Exception as error:
        if len(chunks) == 1:
            return StepRun(logits=_no_logits(executor), failures={chunks[0].request_id: failure_message(error)})
    middle = len(chunks) // 2
    halves = [run_chunks(executor, half, sources) for half in (chunks[:middle], chunks[middle:])]
    failures = {**halves[0].failures, **halves[1].failures}
    if failures:
        return StepRun(logits=_no_logits(executor), failures=failures)
    return StepRun(logits=np.concatenate([half.logits for half in halves]), failures={})


def failure_message(error: Exception) -> str:
    """Returns what a request's owner is told about an exception that ended it."""
    text = str(error) if isinstance(error, QuireError) else f"{type(error).__name__}: {error}"
    return text[:MAX_MESSAGE_CHARS]


def _no_logits(executor: Executor) -> Float32Array:
    return np.empty((0, executor.spec.vocab_size), dtype=np.float32)
