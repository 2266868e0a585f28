"""A waiting request is matched anew in a few lookups, and a remembered match is never stale. Work is counted, not time."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping

import pytest

from quire.kv.block import Block
from quire.kv.findable import Findable
from quire.kv.manager import KVCacheManager
from quire.kv.pool import BlockPool
from quire.kv.table import PrefixMatch
from quire.request import Request, RequestStatus
from quire.sched.plan import StepPlan
from support.sched_world import completed, large_scheduler, planned, prompt_of, request_of, scheduler_of


class CountedKeys(Mapping[bytes, Block]):
    """Counts how often a key is looked up."""

    def __init__(self, keys: Mapping[bytes, Block], tally: Counter[str]) -> None:
        self._keys, self._tally = keys, tally

    def __contains__(self, key: object) -> bool:
        self._tally["lookups"] += 1
        return key in self._keys

    def __getitem__(self, key: bytes) -> Block:
        self._tally["lookups"] += 1
        return self._keys[key]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


@pytest.fixture
def tally(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Lookups of keys, hashes and comparisons of blocks that `kv` makes."""
    counted: Counter[str] = Counter()
    by_key = Findable.by_key.fget
    assert by_key is not None
    monkeypatch.setattr(Findable, "by_key", property(lambda index: CountedKeys(by_key(index), counted)))

    def count(module: str, name: str) -> None:
        import importlib

        wrapped = getattr(importlib.import_module(module), name)

        def call(*args: object) -> object:
            counted[name] += 1
            return wrapped(*args)

        monkeypatch.setattr(f"{module}.{name}", call)

    count("quire.kv.table", "block_key")
    count("quire.kv.matching", "block_tokens")
    return counted


def work_of_plan(scheduler: object, tally: Counter[str]) -> tuple[StepPlan, int]:
    tally.clear()
    plan = planned(scheduler)  # type: ignore[arg-type]
    return plan, tally.total()


def test_requests_that_wait_for_a_long_prompt_cost_a_few_lookups_a_step(tally: Counter[str]) -> None:
    scheduler = large_scheduler()
    scheduler.submit(prompt_of("long", 32_000, 1))
    completed(scheduler, planned(scheduler))
    for index in range(16):
        scheduler.submit(prompt_of(f"joiner-{index}", 32_000, 1))
    most = 0
    for _ in range(40):
        plan, work = work_of_plan(scheduler, tally)
        assert [chunk.request_id for chunk in plan.scheduled] == ["long"]
        most = max(most, work)
        completed(scheduler, plan)
    assert most <= 16 * 14, "a step commits 16 blocks, which are found by doubling and halving"


def test_a_request_that_waits_for_memory_costs_a_few_lookups_a_step(tally: Counter[str]) -> None:
    scheduler = scheduler_of(1_100, budget=4_000, max_context=4_400, max_num_seqs=4)
    scheduler.submit(request_of("turn 1", range(4_000), max_tokens=1))
    completed(scheduler, planned(scheduler))
    scheduler.submit(request_of("holder", range(10_000, 10_200), max_tokens=200))
    completed(scheduler, planned(scheduler))
    turn_2 = request_of("turn 2", (*range(4_000), *range(9_000, 9_395)))
    scheduler.submit(turn_2)
    assert tally["block_key"] == 1_000 + 50 + 1_098, "every block is hashed once, when its request comes"
    works = []
    for _ in range(20):
        plan, work = work_of_plan(scheduler, tally)
        assert turn_2.status is RequestStatus.WAITING
        works.append(work)
        completed(scheduler, plan)
    assert max(works) <= 20, works


def test_an_evicted_match_is_found_by_halving(tally: Counter[str]) -> None:
    manager = KVCacheManager(BlockPool(1_000, 4), fingerprint=b"model")
    cached(manager, "first", range(3_900))
    waiting = opened(manager, "waiting", range(3_900))
    assert manager.match(waiting).num_tokens == 3_899
    taken = manager.pool.allocate(600, "other")
    assert taken is not None
    tally.clear()
    match = manager.match(waiting)
    assert match[:2] == (400, 1_600)
    assert tally.total() <= 16
    tally.clear()
    assert manager.match(waiting) == match
    assert tally.total() <= 4


def opened(manager: KVCacheManager, name: str, tokens: range | tuple[int, ...]) -> Request:
    request = request_of(name, tokens)
    manager.open(name)
    return request


def cached(manager: KVCacheManager, name: str, tokens: range | tuple[int, ...]) -> None:
    """A request that was computed and has ended."""
    request = opened(manager, name, tokens)
    assert manager.admit(request, manager.match(request), request.num_tokens) is not None
    request.num_computed_tokens = request.num_tokens
    manager.commit(request, request.num_tokens)
    manager.end_step()
    manager.close(name)


def test_a_remembered_match_is_the_match_of_a_request_that_remembers_nothing() -> None:
    dice = random.Random(3)
    manager = KVCacheManager(BlockPool(24, 4), fingerprint=b"model")
    families = [tuple(dice.choices(range(3), k=60)) for _ in range(3)]
    waiting = [opened(manager, f"w{index}", families[index % 3][: dice.randrange(8, 60)]) for index in range(9)]
    found: Counter[int] = Counter()
    for number in range(600):
        tokens = (*dice.choice(families)[: dice.randrange(50)], dice.randrange(3))
        cached(manager, f"n{number}", tokens)
        for request in dice.sample(waiting, 4):
            fresh = opened(manager, "fresh", request.prompt_token_ids)
            assert facts(manager.match(request)) == facts(manager.match(fresh))
            found[manager.match(request).num_blocks] += 1
            manager.close("fresh")
    manager.check()
    assert len(found) > 8


def facts(match: PrefixMatch) -> tuple[int, int, object]:
    return match.num_blocks, match.num_tokens, match.source
