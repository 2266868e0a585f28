"""Tables without requests: opened or forked, grown and closed, as rows of `past_kvs` are."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from quire.config import PrefixCache
from quire.errors import IntegrityError
from quire.kv.manager import KVCacheManager
from quire.kv.pool import BlockPool
from quire.units import cdiv

SIZE = 4
NUM_BLOCKS = 10


def manager_of(prefix_cache: PrefixCache = PrefixCache.OFF) -> KVCacheManager:
    return KVCacheManager(BlockPool(NUM_BLOCKS, SIZE), fingerprint=b"model", prefix_cache=prefix_cache)


def held(manager: KVCacheManager, name: str, num_tokens: int) -> tuple[int, ...]:
    """The blocks of a new table."""
    manager.open(name)
    block_ids = manager.reserve(name, num_tokens)
    assert block_ids is not None
    return block_ids


def test_fork_shares_the_first_blocks_and_grows_alone() -> None:
    manager = manager_of()
    parent = held(manager, "parent", 9)
    manager.fork("parent", "child", 2)
    assert manager.block_ids("child") == parent[:2]
    grown = manager.reserve("child", 16)
    assert grown is not None
    assert grown[:2] == parent[:2]
    assert not set(grown[2:]) & set(parent)
    assert manager.block_ids("parent") == parent


def test_shared_blocks_survive_the_table_they_came_from() -> None:
    manager = manager_of()
    parent = held(manager, "parent", 9)
    manager.fork("parent", "child", 2)
    manager.close("parent")
    assert (manager.block_ids("child"), manager.pool.num_free) == (parent[:2], NUM_BLOCKS - 2)
    manager.check()


@pytest.mark.parametrize(("prefix_cache", "num_blocks"), [(PrefixCache.OFF, 4), (PrefixCache.ON, 1)])
def test_fork_of_blocks_that_cannot_be_shared_is_a_defect(prefix_cache: PrefixCache, num_blocks: int) -> None:
    manager = manager_of(prefix_cache)
    held(manager, "parent", 9)
    with pytest.raises(
        IntegrityError, match=f"share {num_blocks} blocks of parent: it holds 3, prefix cache {prefix_cache.value}"
    ):
        manager.fork("parent", "child", num_blocks)
    manager.close("parent")
    manager.check_idle(range(NUM_BLOCKS))


def test_fork_into_an_open_table_is_a_defect() -> None:
    manager = manager_of()
    held(manager, "parent", 9)
    with pytest.raises(IntegrityError, match="has a table already"):
        manager.fork("parent", "parent", 2)
    manager.check()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["open", "fork", "fork", "reserve", "close"]), st.integers(0, 9), st.integers(0, 30))))
def test_tables_are_their_own_histories_in_any_order_of_verbs(verbs: list[tuple[str, int, int]]) -> None:
    manager = manager_of()
    tables: dict[str, tuple[int, ...]] = {}
    for number, (verb, pick, amount) in enumerate(verbs):
        name = list(tables)[pick % len(tables)] if tables else ""
        if verb == "open":
            manager.open(f"row {number}")
            tables[f"row {number}"] = ()
        elif tables and verb == "fork":
            shared = tables[name][: amount % (len(tables[name]) + 1)]
            manager.fork(name, f"row {number}", len(shared))
            tables[f"row {number}"] = shared
        elif tables and verb == "reserve":
            held_before = {block_id for table in tables.values() for block_id in table}
            num_added = max(0, cdiv(amount, SIZE) - len(tables[name]))
            grown = manager.reserve(name, amount)
            assert (grown is None) == (num_added > NUM_BLOCKS - len(held_before))
            if grown is not None:
                added = grown[len(tables[name]) :]
                assert (grown, len(added)) == (tables[name] + added, num_added)
                assert not held_before & set(added)
                tables[name] = grown
        elif tables:
            manager.close(name)
            del tables[name]
        assert {name: manager.block_ids(name) for name in tables} == tables
        assert manager.pool.num_free == NUM_BLOCKS - len({block_id for table in tables.values() for block_id in table})
        manager.check()
