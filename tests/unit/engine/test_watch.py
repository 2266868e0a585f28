"""Watching steps: one record per step, with its plan, what it drew or why it failed, and what happened to blocks."""

from __future__ import annotations

import pytest

from quire.engine.watch import StepRecord
from quire.executors.protocol import Float32Array, StepBatch
from quire.kv.events import KVEvent, PoolReplaced, StepAbandoned
from quire.text.tokenizer import Tokenizer
from quire.verify.pool_mirror import PoolMirror
from support.fake_engine import FakeExecutor, make_core, run_all, submission

PROMPT = tuple(range(20)) * 3
POISON = 13


class FailingExecutor(FakeExecutor):
    """Raises in every step that holds the poisoned token."""

    error: BaseException = ValueError("poison")

    def run(self, batch: StepBatch) -> Float32Array:
        if POISON in batch.token_ids:
            raise self.error
        return super().run(batch)


def test_every_step_leaves_one_record_of_what_it_computed_and_drew(tokenizer: Tokenizer) -> None:
    core, records = make_core(FakeExecutor(), tokenizer), list[StepRecord]()
    core.watcher = records.append
    outputs = run_all(core, submission("a", PROMPT, max_tokens=4), submission("b", (1, 2), max_tokens=2))
    assert [record.plan.step for record in records] == list(range(len(records)))
    for name, output in outputs.items():
        drawn = [token_id for record in records for token_id in record.drawn.token_ids.get(name, [])]
        assert drawn == list(output.outputs[0].token_ids)


def test_events_of_all_records_tell_the_state_of_the_pool(tokenizer: Tokenizer) -> None:
    core, records = make_core(FakeExecutor(), tokenizer), list[StepRecord]()
    pool = core.scheduler.manager.pool
    core.watcher = records.append
    run_all(core, submission("a", PROMPT, max_tokens=9), submission("b", PROMPT, max_tokens=2))
    run_all(core, submission("c", PROMPT, max_tokens=3))
    mirror = PoolMirror(pool.num_blocks)
    for record in records:
        assert all(event.step == record.plan.step for event in record.events)
        mirror.fold(record.events)
    mirror.require_equal(pool)


def test_failed_step_is_recorded_with_the_reason_and_as_abandoned(tokenizer: Tokenizer) -> None:
    core, records = make_core(FailingExecutor(), tokenizer), list[StepRecord]()
    core.watcher = records.append
    run_all(core, submission("good", (1, 2), max_tokens=1), submission("bad", (1, POISON), max_tokens=1))
    failed, completed = records
    assert list(failed.drawn.failures) == ["bad"]
    assert StepAbandoned in map(type, failed.events)
    assert (list(completed.drawn.token_ids), completed.drawn.failures) == (["good"], {})
    assert completed.plan.step == failed.plan.step


def test_interrupted_step_is_told_by_the_events_of_the_next_record(tokenizer: Tokenizer) -> None:
    executor = FailingExecutor()
    executor.error = KeyboardInterrupt()
    core, records = make_core(executor, tokenizer), list[StepRecord]()
    core.watcher = records.append
    core.submit(submission("bad", (1, POISON), max_tokens=1))
    with pytest.raises(KeyboardInterrupt):
        core.step()
    assert records == []
    core.abort("bad")
    run_all(core, submission("good", (1, 2), max_tokens=1))
    assert [type(event) for event in records[0].events].count(StepAbandoned) == 1


def test_log_survives_a_repair(tokenizer: Tokenizer) -> None:
    core, records = make_core(FakeExecutor(), tokenizer), list[StepRecord]()
    core.watcher = records.append
    core.scheduler.manager.pool.allocate(2, "left over")
    run_all(core, submission("a", PROMPT, max_tokens=1))
    assert len(core.integrity_errors) == 1
    run_all(core, submission("b", PROMPT, max_tokens=1))
    events = [event for record in records for event in record.events]
    assert [type(event) for event in events].count(PoolReplaced) == 1
    assert isinstance(events[-1], KVEvent)
    mirror = PoolMirror(core.scheduler.manager.pool.num_blocks)
    mirror.fold(events)
    mirror.require_equal(core.scheduler.manager.pool)


def test_record_tells_which_requests_ended_and_when_the_step_ran(tokenizer: Tokenizer) -> None:
    core, records = make_core(FakeExecutor(), tokenizer), list[StepRecord]()
    core.watcher = records.append
    core.submit(submission("aborted", (5, 6), max_tokens=9))
    core.step()
    core.abort("aborted")
    run_all(core, submission("a", (1, 2), max_tokens=2), submission("b", (3,), max_tokens=1))
    assert [record.ended for record in records] == [(), ("aborted", "b"), ("a",)]
    assert [(record.began_s, record.ended_s) for record in records] == [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0)]


def test_queue_time_ends_where_the_first_step_begins(tokenizer: Tokenizer) -> None:
    core = make_core(FakeExecutor(), tokenizer, max_num_seqs=1)
    outputs = run_all(core, submission("first", (1, 2), max_tokens=3), submission("second", (3,), max_tokens=2))
    metrics = [outputs[name].metrics for name in ("first", "second")]
    assert [(each.queue_s, each.ttft_s, each.e2e_s) for each in metrics] == [(0.0, 1.0, 3.0), (3.0, 4.0, 5.0)]
