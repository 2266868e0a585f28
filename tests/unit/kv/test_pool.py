from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from quire.errors import IntegrityError
from quire.kv.block import Block
from quire.kv.evicted import Eviction
from quire.kv.hashing import block_key
from quire.kv.pool import BlockPool
from quire.kv.siblings import num_common

ROOT = b"root".ljust(32)


def allocate(pool: BlockPool, count: int, request_id: str = "a") -> list[Block]:
    blocks = pool.allocate(count, request_id)
    assert blocks is not None
    return blocks


def commit(pool: BlockPool, block: Block, token_ids: tuple[int, ...], parent: bytes = ROOT) -> bytes:
    key = block_key(parent, token_ids)
    pool.commit(block, parent, key, token_ids, "a")
    return key


def release_all(pool: BlockPool, blocks: list[Block]) -> None:
    for block in reversed(blocks):
        pool.release(block, "a")


def test_running_out_returns_none_and_takes_nothing() -> None:
    pool = BlockPool(3, 2)
    allocate(pool, 2)
    assert pool.allocate(2, "b") is None
    assert pool.num_free == 1
    pool.check()


def test_shared_block_survives_its_first_owner() -> None:
    pool = BlockPool(2, 2)
    (block,) = allocate(pool, 1)
    key = commit(pool, block, (1, 2))
    pool.share(block, "b")
    pool.release(block, "a")
    assert block.ref_count == 1
    assert pool.find(key, (1, 2)) is block
    assert pool.num_free == 1


def test_a_freed_block_is_found_until_its_memory_is_given_away() -> None:
    pool = BlockPool(2, 2)
    (block,) = allocate(pool, 1)
    key = commit(pool, block, (1, 2))
    pool.release(block, "a")
    assert pool.find(key, (1, 2)) is block
    assert pool.num_cached == 1
    allocate(pool, 2)
    assert pool.find(key, (1, 2)) is None
    assert pool.evicted.most_similar(ROOT, (1, 2)) == (2, Eviction(0, "a", b""))
    assert pool.num_cached == 0


def test_empty_blocks_are_used_before_cached_ones_are_evicted() -> None:
    pool = BlockPool(3, 2)
    cached, empty = allocate(pool, 2)
    commit(pool, cached, (1, 2))
    pool.release(empty, "a")
    pool.release(cached, "a")
    assert pool.free_block_ids() == (empty.id, 2, cached.id)


def test_the_least_recently_released_is_evicted_first_and_tails_before_heads() -> None:
    pool = BlockPool(4, 2)
    first, second = allocate(pool, 2, "first"), allocate(pool, 2, "second")
    for owner, blocks in enumerate((first, second)):
        key = commit(pool, blocks[0], (owner, 0))
        commit(pool, blocks[1], (owner, 1), parent=key)
    release_all(pool, second)
    release_all(pool, first)
    order = [allocate(pool, 1)[0].id for _ in range(4)]
    assert order == [second[1].id, second[0].id, first[1].id, first[0].id]


def test_the_second_block_with_the_same_content_stays_unfindable() -> None:
    pool = BlockPool(2, 2)
    first, second = allocate(pool, 2)
    key = commit(pool, first, (1, 2))
    commit(pool, second, (1, 2))
    assert pool.find(key, (1, 2)) is first
    assert second.hash is None
    pool.check()


def test_a_held_copy_is_found_once_the_block_it_copies_is_free() -> None:
    pool = BlockPool(3, 2)
    first, second = allocate(pool, 1, "a") + allocate(pool, 1, "b")
    key = commit(pool, first, (1, 2))
    commit(pool, second, (1, 2))
    pool.release(first, "a")
    pool.check()
    assert pool.find(key, (1, 2)) is second
    assert (pool.num_cached, pool.free_block_ids()) == (0, (first.id, 2)), "nothing of it is kept twice"
    allocate(pool, 2)
    assert pool.find(key, (1, 2)) is second
    pool.check()


def test_a_held_copy_is_found_at_once_where_the_first_block_is_free() -> None:
    pool = BlockPool(2, 2)
    first, second = allocate(pool, 2)
    key = commit(pool, first, (1, 2))
    pool.release(first, "a")
    commit(pool, second, (1, 2))
    assert pool.find(key, (1, 2)) is second
    assert pool.num_cached == 0
    pool.check()


def test_a_copy_that_is_released_is_empty() -> None:
    pool = BlockPool(2, 2)
    first, second = allocate(pool, 2)
    commit(pool, first, (1, 2))
    commit(pool, second, (1, 2))
    pool.release(second, "b")
    assert (second.copy_of, pool.num_cached, pool.num_free) == (None, 0, 1)
    pool.check()


# -- blocks that are not full ----------------------------------------------------------


def test_the_tokens_of_a_partial_block_are_found_and_its_holder_fills_it() -> None:
    pool = BlockPool(2, 4)
    (block,) = allocate(pool, 1)
    pool.offer(block, ROOT, (1, 2), "a")
    pool.check()
    assert pool.most_similar(ROOT, (1, 2, 3)) == (1, 2)
    assert pool.holding(ROOT, (1, 2)) is block
    commit(pool, block, (1, 2, 3, 4))
    pool.check()
    assert pool.most_similar(ROOT, (1, 2, 3)) == (1, 2, 3, 4)


def test_partial_blocks_are_evicted_before_full_ones_and_after_empty_ones() -> None:
    pool = BlockPool(4, 2)
    full, partial, older, empty = allocate(pool, 4)
    commit(pool, full, (1, 2))
    pool.offer(partial, ROOT, (7,), "a")
    pool.offer(older, ROOT, (8,), "a")
    for block in (full, older, partial, empty):
        pool.release(block, "a")
    pool.check()
    assert pool.free_block_ids() == (empty.id, older.id, partial.id, full.id)
    allocate(pool, 3)
    assert pool.most_similar(ROOT, (7,)) == (1, 2)
    assert pool.num_cached == 1


def test_a_partial_block_is_offered_only_where_its_tokens_are_not_found_already() -> None:
    pool = BlockPool(3, 4)
    first, second, third = allocate(pool, 3)
    commit(pool, first, (1, 2, 3, 4))
    pool.offer(second, ROOT, (1, 2), "a")
    pool.offer(third, ROOT, (1, 9), "a")
    assert (second.is_findable, third.is_findable) == (False, True)
    pool.check()


def test_a_held_partial_block_takes_the_place_of_a_free_one() -> None:
    pool = BlockPool(3, 4)
    first, second = allocate(pool, 2)
    pool.offer(first, ROOT, (1, 2), "a")
    pool.release(first, "a")
    pool.offer(second, ROOT, (1, 2), "b")
    assert pool.holding(ROOT, (1, 2)) is second
    assert (pool.num_cached, pool.free_block_ids()) == (0, (first.id, 2))
    pool.check()


def test_a_partial_block_is_offered_again_when_it_has_grown() -> None:
    pool = BlockPool(1, 4)
    (block,) = allocate(pool, 1)
    pool.offer(block, ROOT, (1,), "a")
    pool.offer(block, ROOT, (1, 2, 3), "a")
    pool.release(block, "a")
    assert pool.most_similar(ROOT, (1, 2, 3)) == (1, 2, 3)
    pool.share(block, "b")
    assert pool.num_cached == 0
    pool.check()


def test_a_colliding_key_is_a_miss() -> None:
    pool = BlockPool(1, 2)
    (block,) = allocate(pool, 1)
    key = commit(pool, block, (1, 2))
    assert pool.find(key, (1, 3)) is None


def test_content_that_is_committed_again_counts_as_known_again() -> None:
    pool = BlockPool(1, 2)
    (block,) = allocate(pool, 1)
    key = commit(pool, block, (1, 2))
    pool.release(block, "a")
    (block,) = allocate(pool, 1)
    assert pool.find(key, (1, 2)) is None
    commit(pool, block, (1, 2))
    assert pool.find(key, (1, 2)) is block


def test_the_most_similar_continuation_tells_where_tokens_diverge() -> None:
    pool = BlockPool(3, 2)
    for block, token_ids in zip(allocate(pool, 2), ((1, 2), (5, 6)), strict=True):
        commit(pool, block, token_ids)
    assert pool.most_similar(ROOT, (1, 9)) == (1, 2)
    assert pool.most_similar(ROOT, (9, 9)) in ((1, 2), (5, 6))
    assert pool.most_similar(b"elsewhere", (1, 2)) is None


def test_divergence_is_exact_among_any_number_of_continuations() -> None:
    rng = random.Random(5)
    size, num_blocks = 8, 400
    pool = BlockPool(num_blocks, size)
    written: list[tuple[int, ...]] = []
    for block in allocate(pool, num_blocks):
        token_ids = tuple(rng.choices(range(3), k=size)) if written else (0,) * size
        if token_ids not in written:
            commit(pool, block, token_ids)
            written.append(token_ids)
    for _ in range(500):
        wanted = tuple(rng.choices(range(4), k=size))
        best = max(next((at for at in range(size) if wanted[at] != each[at]), size) for each in written)
        found = pool.most_similar(ROOT, wanted)
        assert found is not None
        assert num_common(found, wanted) == best
    pool.check()
    for block in pool.blocks:
        pool.release(block, "a")
    allocate(pool, num_blocks // 2)
    pool.check()


def free_a_free_block(pool: BlockPool) -> None:
    pool.release(pool.blocks[0], "a")


def share_an_empty_block(pool: BlockPool) -> None:
    pool.share(pool.blocks[0], "a")


def commit_a_free_block(pool: BlockPool) -> None:
    commit(pool, pool.blocks[0], (1, 2))


def commit_twice(pool: BlockPool) -> None:
    (block,) = allocate(pool, 1)
    commit(pool, block, (1, 2))
    commit(pool, block, (1, 2))


def offer_a_full_block(pool: BlockPool) -> None:
    pool.offer(allocate(pool, 1)[0], ROOT, (1, 2), "a")


def offer_a_free_block(pool: BlockPool) -> None:
    pool.offer(pool.blocks[0], ROOT, (1,), "a")


def commit_half_a_block(pool: BlockPool) -> None:
    (block,) = allocate(pool, 1)
    pool.commit(block, ROOT, ROOT, (1,), "a")


@pytest.mark.parametrize(
    "misuse",
    [
        free_a_free_block,
        share_an_empty_block,
        commit_a_free_block,
        commit_twice,
        commit_half_a_block,
        offer_a_full_block,
        offer_a_free_block,
    ],
)
def test_misuse_is_reported(misuse: Callable[[BlockPool], None]) -> None:
    with pytest.raises(IntegrityError, match="Report this"):
        misuse(BlockPool(2, 2))


def leak(pool: BlockPool) -> None:
    pool.blocks[0].ref_count = 0


def resurrect(pool: BlockPool) -> None:
    pool.blocks[2].ref_count = 1


def lose_the_key(pool: BlockPool) -> None:
    pool.blocks[1].hash = b"another"


def change_the_tokens(pool: BlockPool) -> None:
    pool.blocks[1].token_ids = (1,)


def forget_the_parent(pool: BlockPool) -> None:
    pool.blocks[1].parent = b"another"


def call_it_a_copy(pool: BlockPool) -> None:
    pool.blocks[0].copy_of = pool.blocks[1].hash


def miscount(pool: BlockPool) -> None:
    pool.num_cached += 1


@pytest.mark.parametrize(
    "damage", [leak, resurrect, lose_the_key, change_the_tokens, forget_the_parent, call_it_a_copy, miscount]
)
def test_check_sees_damage(damage: Callable[[BlockPool], None]) -> None:
    pool = BlockPool(3, 2)
    _, cached = allocate(pool, 2)
    commit(pool, cached, (1, 2))
    pool.release(cached, "a")
    pool.check()
    damage(pool)
    with pytest.raises(IntegrityError):
        pool.check()
