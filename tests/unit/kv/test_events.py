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
    pool = BlockPool(num_blocks, 2)
    pool.events = log = EventLog(max_events)
    return pool, log


def block_events(log: EventLog) -> list[KVEvent]:
    return [event for event in log.take() if isinstance(event, KVEvent)]


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
    first = log.take()
    pool.allocate(1, "b")
    assert [event.seq for event in (*first, *log.take())] == [0, 1, 2]
    assert (log.take(), log.num_dropped) == ((), 0)


def test_events_stay_for_other_readers_when_they_are_taken() -> None:
    pool, log = pool_of(3)
    pool.allocate(3, "a")
    log.record_abandoned_step()
    taken = log.take()
    assert (log.since(0), log.since(2), log.since(4)) == (taken, taken[2:], ())
    assert (len(log), log.num_recorded) == (4, 4)


def test_full_log_drops_the_oldest_and_counts_them() -> None:
    pool, log = pool_of(5, max_events=2)
    pool.allocate(5, "a")
    assert [event.block_id for event in block_events(log)] == [3, 4]
    assert log.num_dropped == 3


def test_abandoned_step_is_told_after_its_blocks_came_back() -> None:
    manager = KVCacheManager(BlockPool(4, 2), fingerprint=b"model")
    scheduler = Scheduler(SchedulerConfig(), manager, max_context=8)
    scheduler.submit(Request(request_id="a", prompt_token_ids=(1, 2, 3), sampling=SamplingParams(max_tokens=1)))
    plan = scheduler.plan_step()
    assert plan is not None
    scheduler.abandon(plan)
    *before, last = manager.pool.events.take()
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
    mirror = PoolMirror(2)
    mirror.fold(log.take())
    mirror.require_equal(other)
    with pytest.raises(IntegrityError, match="another state"):
        mirror.require_equal(pool)


def test_missing_event_is_noticed() -> None:
    pool, log = pool_of(3, max_events=2)
    pool.allocate(3, "a")
    with pytest.raises(IntegrityError, match="event 0 is missing"):
        PoolMirror(3).fold(log.take())


@pytest.mark.parametrize("kind", [kinds.DUPLICATE, kinds.EVICTED])
def test_invented_event_is_noticed(kind: KVEventKind) -> None:
    with pytest.raises(IntegrityError, match="evicted without content, or called a duplicate of none"):
        PoolMirror(1).fold([KVEvent(0, 0, kind, 0, "a", b"key")])


def test_block_that_jumps_the_queue_is_noticed() -> None:
    with pytest.raises(IntegrityError, match="before its turn"):
        PoolMirror(2).fold([KVEvent(0, 0, kinds.ALLOCATED, 1, "a", None)])


def test_wrong_order_of_free_blocks_is_noticed() -> None:
    pool, other = BlockPool(2, 2), BlockPool(2, 2)
    mirror = PoolMirror(2)
    for block in pool.allocate(2, "a") or []:
        pool.release(block, "a")
    mirror.fold(pool.events.take())
    mirror.require_equal(pool)
    with pytest.raises(IntegrityError, match="another order"):
        mirror.require_equal(other)
