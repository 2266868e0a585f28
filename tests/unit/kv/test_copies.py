"""Sharing to the token: blocks copied or taken, the pins that keep them, and the copies of a plan."""

from __future__ import annotations

import pytest

from quire.errors import IntegrityError
from quire.kv.copies import BlockCopy
from quire.kv.manager import KVCacheManager
from quire.kv.pool import BlockPool
from quire.request import Request
from support.sched_world import request_of

SIZE = 4


def manager_of(num_blocks: int = 10) -> KVCacheManager:
    return KVCacheManager(BlockPool(num_blocks, SIZE), fingerprint=b"model")


def admitted(manager: KVCacheManager, name: str, *tokens: int) -> Request:
    request = request_of(name, tokens)
    manager.open(name)
    match = manager.match(request)
    assert manager.admit(request, match, request.num_tokens) is not None
    request.num_computed_tokens = match.num_tokens
    return request


def computed(manager: KVCacheManager, name: str, *tokens: int) -> Request:
    """A request whose prompt is computed; the step has ended."""
    request = admitted(manager, name, *tokens)
    request.num_computed_tokens = request.num_tokens
    manager.commit(request, request.num_tokens)
    manager.take_copies()
    manager.end_step()
    return request


def test_tokens_of_a_full_block_are_copied_and_the_block_is_pinned_until_the_step_ends() -> None:
    manager = manager_of()
    manager.close(computed(manager, "first", 1, 2, 3, 4).request_id)
    second = admitted(manager, "second", 1, 2, 9, 9)
    (source,) = manager.copies.pinned_block_ids
    assert second.num_computed_tokens == 2
    assert manager.take_copies() == (BlockCopy(source, manager.block_ids("second")[0], "second"),)
    assert manager.pool.blocks[source].ref_count == 1
    manager.check()
    manager.end_step()
    assert (manager.pool.blocks[source].ref_count, manager.copies.pinned_block_ids) == (0, ())
    manager.check()


def test_a_free_partial_block_that_matches_is_taken_without_a_copy() -> None:
    manager = manager_of()
    first = computed(manager, "first", 1, 2)
    (block_id,) = manager.block_ids("first")
    manager.close(first.request_id)
    admitted(manager, "second", 1, 2, 3)
    assert (manager.block_ids("second"), manager.take_copies(), manager.copies.pinned_block_ids) == ((block_id,), (), ())
    manager.check()


def test_a_partial_block_that_is_held_is_copied() -> None:
    manager = manager_of()
    computed(manager, "first", 1, 2)
    admitted(manager, "second", 1, 2, 3)
    assert [copy.source for copy in manager.take_copies()] == [*manager.block_ids("first")]
    manager.check()


def test_a_partial_block_of_which_only_a_part_matches_is_copied_and_stays() -> None:
    manager = manager_of()
    manager.close(computed(manager, "first", 1, 2, 3).request_id)
    admitted(manager, "second", 1, 2, 9)
    assert len(manager.take_copies()) == 1
    manager.end_step()
    third = request_of("third", (1, 2, 3, 4))
    manager.open("third")
    assert manager.match(third).num_tokens == 3


def test_what_was_taken_is_found_again_when_the_admission_is_taken_back() -> None:
    manager = manager_of()
    manager.close(computed(manager, "first", 1, 2).request_id)
    second = admitted(manager, "second", 1, 2, 3)
    manager.release("second")
    manager.end_step()
    assert manager.match(second).num_tokens == 2
    manager.check()


def test_what_is_copied_is_not_evicted_by_what_is_let_in_later_in_the_step() -> None:
    manager = manager_of(num_blocks=4)
    manager.close(computed(manager, "first", 1, 2, 3, 4).request_id)
    admitted(manager, "second", 1, 2, 9, 9)
    (source,) = manager.copies.pinned_block_ids
    admitted(manager, "third", *range(50, 58))
    assert source not in manager.block_ids("third")
    manager.open("fourth")
    fourth = request_of("fourth", (60,))
    assert manager.admit(fourth, manager.match(fourth), 1) is None, "the pinned block is not there for others"
    manager.check()


def test_without_room_for_the_source_its_tokens_are_computed() -> None:
    manager = manager_of(num_blocks=2)
    manager.close(computed(manager, "first", 1, 2, 3, 4).request_id)
    second = admitted(manager, "second", 1, 2, 9, 9, 9)
    assert (second.num_computed_tokens, manager.take_copies()) == (0, ())
    manager.check()


def test_a_request_that_gives_its_blocks_back_lets_go_of_what_it_copies_first() -> None:
    manager = manager_of()
    manager.close(computed(manager, "first", *range(8)).request_id)
    admitted(manager, "second", 0, 1, 2, 3, 4, 5, 9, 9)
    manager.release("second")
    assert (manager.copies.pinned_block_ids, manager.take_copies()) == ((), ())
    head = next(block.id for block in manager.pool.blocks if block.token_ids == (0, 1, 2, 3))
    assert manager.pool.free_block_ids()[-1] == head, "what follows a block is evicted before it"
    manager.check()


def test_check_idle_sees_a_pin_that_is_left_over() -> None:
    manager = manager_of()
    computed(manager, "first", 1, 2)
    admitted(manager, "second", 1, 2, 3)
    with pytest.raises(IntegrityError, match="1 copies"):
        manager.check_idle(range(0))
