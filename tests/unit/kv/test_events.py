"""The event log: what happened to blocks, in order, numbered, and what a reader has missed."""

from __future__ import annotations

import pytest

from quire.config import SchedulerConfig
from quire.errors import IntegrityError
from quire.kv.events import EventLog, KVEvent, KVEventKind, StepAbandoned
from quire.kv.manager import KVCacheManager
from quire.kv.pool import BlockPool
from quire.request import Request, SamplingParams
from quire.sched.scheduler import Scheduler
from quire.verify.pool_mirror import PoolMirror

kinds = KVEventKind


def pool_of(num_blocks: int, max_events: int = 100) -> tuple[BlockPool, EventLog]:
    log = EventLog(max_events)
    return BlockPool(num_blocks, 2, events=log), log


def block_events(log: EventLog) -> list[KVEvent]:
    return [event for event in log.drain() if isinstance(event, KVEvent)]


def test_events_tell_a_blocks_life_in_its_verbs() -> None:
    pool, log = pool_of(1)
    log.step = 7
    (block,) = pool.allocate(1, "a") or []
    pool.commit(block, b"root", b"key", (1, 2), "a")
    pool.share(block, "b")
    pool.release(block, "a")
    pool.release(block, "b")
    pool.allocate(1, "c")
    events = block_events(log)
    expected = [kinds.ALLOCATED, kinds.COMMITTED, kinds.SHARED, kinds.RELEASED, kinds.RELEASED, kinds.EVICTED, kinds.ALLOCATED]
    assert [event.kind for event in events] == expected
    assert {event.step for event in events} == {7}
    assert (events[5].request_id, events[5].hash) == ("c", b"key")
    assert len(log) == 0


def test_content_that_is_findable_already_is_told_as_a_duplicate() -> None:
    pool, log = pool_of(2)
    first, second = pool.allocate(2, "a") or []
    pool.commit(first, b"root", b"key", (1, 2), "a")
    pool.commit(second, b"root", b"key", (1, 2), "b")
    committed, duplicate = block_events(log)[2:]
    assert (committed.kind, committed.block_id, committed.hash) == (kinds.COMMITTED, first.id, b"key")
    assert (duplicate.kind, duplicate.block_id, duplicate.hash, duplicate.request_id) == (kinds.DUPLICATE, second.id, b"key", "b")
    assert second.hash is None


def test_every_event_has_the_next_number_also_after_others_were_read() -> None:
    pool, log = pool_of(3)
    pool.allocate(2, "a")
    first = log.drain()
    pool.allocate(1, "b")
    assert [event.seq for event in (*first, *log.drain())] == [0, 1, 2]
    assert log.num_dropped == 0


def test_full_log_drops_the_oldest_and_counts_them() -> None:
    pool, log = pool_of(5, max_events=2)
    pool.allocate(5, "a")
    assert [event.block_id for event in block_events(log)] == [3, 4]
    assert log.num_dropped == 3


def test_abandoned_step_is_told_after_its_blocks_came_back() -> None:
    log = EventLog()
    manager = KVCacheManager(BlockPool(4, 2, events=log), fingerprint=b"model")
    scheduler = Scheduler(SchedulerConfig(), manager, max_context=8)
    scheduler.submit(Request(request_id="a", prompt_token_ids=(1, 2, 3), sampling=SamplingParams(max_tokens=1)))
    plan = scheduler.plan_step()
    assert plan is not None
    scheduler.abandon(plan)
    *before, last = log.drain()
    assert [event.kind for event in before if isinstance(event, KVEvent)] == [kinds.ALLOCATED] * 2 + [kinds.RELEASED] * 2
    assert last == StepAbandoned(seq=4, step=plan.step)
    again = scheduler.plan_step()
    assert again is not None
    assert again.step == plan.step


def test_new_pool_goes_on_with_the_log_of_the_one_it_replaces() -> None:
    pool, log = pool_of(2)
    pool.allocate(2, "a")
    other = BlockPool(2, 2)
    other.take_place_of(pool)
    other.allocate(1, "b")
    mirror = PoolMirror()
    mirror.fold(log.drain())
    mirror.require_equal(other)
    with pytest.raises(IntegrityError, match="another state"):
        mirror.require_equal(pool)


def test_missing_event_is_noticed() -> None:
    pool, log = pool_of(3, max_events=2)
    pool.allocate(3, "a")
    with pytest.raises(IntegrityError, match="event 0 is missing"):
        PoolMirror().fold(log.drain())


def test_invented_duplicate_is_noticed() -> None:
    with pytest.raises(IntegrityError, match="no block holds"):
        PoolMirror().fold([KVEvent(0, 0, kinds.DUPLICATE, 0, "a", b"key")])
