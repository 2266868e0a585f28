"""The engine's own cost is measured over steps in which every request gets a token. No time is asserted."""

from __future__ import annotations

import numpy as np
import pytest

from quire.bench.null_executor import NullExecutor
from quire.bench.overhead import METHODS, OverheadWork, measure_overhead
from quire.engine.batch import build_batch
from quire.errors import ConfigError, ExecutorError
from quire.models.bundled import directory
from quire.models.checkpoint import Checkpoint
from quire.request import Request, SamplingParams
from quire.sched.plan import ScheduledChunk
from quire.text.tokenizer import Tokenizer


def test_steps_and_rows_of_every_kind_are_reported(checkpoint: Checkpoint) -> None:
    told: list[tuple[str, int, int]] = []
    work = OverheadWork(num_steps=40, repeat=2, batches=(1, 33), vocab_size=1000)
    report = measure_overhead(checkpoint.spec, Tokenizer.from_directory(directory()), work, lambda *what: told.append(what))
    kinds = [f"{kind}, batch {batch}" for kind in ("tokens", "engine") for batch in (1, 33)]
    assert [each.name for each in report.overheads] == [*kinds, *(f"sample, {name}" for name, _ in METHODS)]
    assert all(0 < each.fastest_seconds <= each.seconds for each in report.overheads)
    assert told[-1] == ("Measuring overhead", len(report.overheads), len(report.overheads))


def test_a_run_of_too_many_steps_is_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(ConfigError, match="too many steps"):
        measure_overhead(checkpoint.spec, Tokenizer.from_directory(directory()), OverheadWork(num_steps=10**12))


def test_the_null_executor_answers_with_tokens_of_the_vocabulary_and_nothing_else(checkpoint: Checkpoint) -> None:
    executor = NullExecutor(checkpoint.spec, block_size=32, num_blocks=1)
    rows = np.arange(3, dtype=np.int32)
    first, second = executor.argmax(rows), executor.argmax(rows)
    assert first.token_ids.shape == (3,)
    assert not first.num_not_finite.any()
    assert (first.token_ids != second.token_ids).any()
    assert max(*first.token_ids, *second.token_ids) < checkpoint.spec.vocab_size
    request = Request(request_id="a", prompt_token_ids=(1,), sampling=SamplingParams())
    batch = build_batch([ScheduledChunk("a", 0, 1, (0,), num_sample_rows=1)], {"a": request}, executor.layout)
    assert executor.run(batch.without_samples()).shape == (0, checkpoint.spec.vocab_size)
    for ask in (lambda: executor.run(batch), lambda: executor.head(rows), lambda: executor.read_kv(0, rows)):
        with pytest.raises(ExecutorError, match="computes nothing"):
            ask()
