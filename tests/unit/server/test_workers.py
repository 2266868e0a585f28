"""Large work is done by few threads, with a bounded queue and a deadline; what was accepted is always finished."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from quire.server.errors import ApiError
from quire.server.limits import Limits
from quire.server.workers import Workers

LARGE = 100_000


@pytest.fixture
def workers() -> Iterator[Workers]:
    """Workers that have all the time they need."""
    workers = Workers(Limits(worker_jobs=2, worker_s=60.0))
    yield workers
    workers.close()


@pytest.fixture
def hasty_workers() -> Iterator[Workers]:
    """Workers for jobs that are never done in time."""
    workers = Workers(Limits(worker_jobs=2, worker_s=0.05))
    yield workers
    workers.close()


def test_small_work_is_done_at_once_and_large_work_elsewhere(workers: Workers) -> None:
    async def names() -> list[str]:
        return [await workers.run(num_bytes, lambda: threading.current_thread().name) for num_bytes in (1, LARGE)]

    here, there = asyncio.run(names())
    assert here == threading.current_thread().name
    assert there.startswith("quire-worker")


def test_late_work_and_work_beyond_the_queue_are_refused(hasty_workers: Workers) -> None:
    gate = threading.Event()

    async def statuses() -> list[int]:
        tasks = [asyncio.create_task(hasty_workers.run(LARGE, gate.wait)) for _ in range(3)]
        done = await asyncio.gather(*tasks, return_exceptions=True)
        gate.set()
        return [each.refusal.status for each in done if isinstance(each, ApiError)]

    assert sorted(asyncio.run(statuses())) == [429, 504, 504]


def test_what_was_accepted_is_finished_however_much_waits(hasty_workers: Workers) -> None:
    gate = threading.Event()

    async def result() -> int:
        blocked = [asyncio.create_task(hasty_workers.finish(LARGE, gate.wait)) for _ in range(4)]
        last = asyncio.create_task(hasty_workers.finish(LARGE, lambda: 7))
        await asyncio.sleep(0.1)
        gate.set()
        await asyncio.gather(*blocked)
        return await last

    assert asyncio.run(result()) == 7


def test_room_comes_back_when_work_is_done() -> None:
    workers = Workers(Limits(worker_jobs=1))

    async def results() -> list[int]:
        return [await workers.run(LARGE, lambda number=number: number) for number in range(10)]

    assert asyncio.run(results()) == list(range(10))
    workers.close()
