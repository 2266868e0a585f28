"""The log of a pool that is always full, folded back: after each step the pool is exactly what its events tell."""

from __future__ import annotations

from collections import Counter

from quire.kv.events import KVEvent
from quire.verify.pool_mirror import PoolMirror
from support.traffic import Shape, Traffic

NUM_OPERATIONS = 100_000


def test_log_of_a_full_pool_replays_into_its_exact_state() -> None:
    shape, tally = Shape(), Counter[str]()
    traffic, mirror = Traffic(shape, seed=21), PoolMirror(shape.num_blocks)
    pool, num_operations = traffic.manager.pool, 0
    while num_operations < NUM_OPERATIONS:
        traffic.turn()
        events = pool.events.take()
        mirror.fold(events)
        mirror.require_equal(pool)
        num_operations += len(events)
        tally.update(event.kind.value if isinstance(event, KVEvent) else type(event).__name__ for event in events)
        tally["steps"] += 1
        tally["empty blocks"] += pool.num_free - pool.num_cached
    assert min(tally[kind] for kind in ("allocated", "committed", "shared", "released", "evicted", "duplicate")) > 50
    assert tally["StepAbandoned"] > 300
    assert tally["empty blocks"] < 0.05 * shape.num_blocks * tally["steps"]  # the pool is full
