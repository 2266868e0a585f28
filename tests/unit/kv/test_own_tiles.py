"""Own tiles: handed out, given back with tokens, copied, and gone."""

from __future__ import annotations

import pytest

from quire.errors import IntegrityError
from quire.kv.copies import BlockCopy
from quire.kv.manager import KVCacheManager
from quire.kv.own_tiles import OwnTiles
from quire.kv.pool import BlockPool
from quire.kv.table import BlockTable
from quire.request import Request
from support.sched_world import request_of

TILE = 4


def manager_of(num_own_tiles: int = 3, block_size: int = TILE) -> KVCacheManager:
    manager = KVCacheManager(BlockPool(20, block_size), fingerprint=b"model", num_own_tiles=num_own_tiles)
    manager.own_tiles.size = TILE
    return manager


def admitted(manager: KVCacheManager, name: str, *tokens: int) -> Request:
    request = request_of(name, tokens)
    manager.open(name)
    match = manager.match(request)
    assert manager.admit(request, match, request.num_tokens) is not None
    request.num_computed_tokens = match.num_tokens
    manager.check()
    return request


def computed(manager: KVCacheManager, name: str, *tokens: int) -> Request:
    request = admitted(manager, name, *tokens)
    ended(manager)
    request.num_computed_tokens = request.num_tokens
    manager.commit(request, request.num_tokens)
    return request


def ended(manager: KVCacheManager) -> tuple[BlockCopy, ...]:
    copies = manager.take_copies()
    manager.end_step()
    manager.check()
    return copies


def own_copies(copies: tuple[BlockCopy, ...]) -> list[tuple[int, int]]:
    return [(copy.source, copy.target) for copy in copies if copy.is_own_tile]


def test_tokens_inside_a_tile_are_copied_from_the_own_tile_of_the_request_that_writes_there() -> None:
    manager = manager_of()
    first = computed(manager, "first", 1, 2, 3)
    second = admitted(manager, "second", 1, 2, 9)
    assert second.num_computed_tokens == 2
    assert own_copies(ended(manager)) == [(first.own_tile, second.own_tile)]


def test_a_tile_that_was_given_back_goes_to_the_request_that_takes_its_block() -> None:
    manager = manager_of()
    first = computed(manager, "first", 1, 2, 3)
    manager.close("first")
    second = admitted(manager, "second", 1, 2, 3, 4)
    assert (second.num_computed_tokens, second.own_tile, ended(manager)) == (3, first.own_tile, ())


def test_a_tile_that_was_given_back_is_copied_where_only_a_part_matches_and_stays() -> None:
    manager = manager_of()
    first = computed(manager, "first", 1, 2, 3)
    manager.close("first")
    second = admitted(manager, "second", 1, 2, 9)
    assert own_copies(ended(manager)) == [(first.own_tile, second.own_tile)]
    third = admitted(manager, "third", 1, 2, 3, 4)
    assert (third.num_computed_tokens, third.own_tile) == (3, first.own_tile)


def test_without_its_own_tile_a_partial_tile_is_computed_again() -> None:
    manager = manager_of(num_own_tiles=1)
    computed(manager, "first", 1, 2, 3)
    manager.close("first")
    computed(manager, "other", 7)
    manager.close("other")
    second = admitted(manager, "second", 1, 2, 3, 4)
    assert (second.num_computed_tokens, ended(manager)) == (0, ())


def test_the_last_tile_left_is_taken_over_instead_of_copied() -> None:
    manager = manager_of(num_own_tiles=1)
    first = computed(manager, "first", 1, 2, 3)
    manager.close("first")
    second = admitted(manager, "second", 1, 2, 9)
    assert (second.num_computed_tokens, second.own_tile, own_copies(ended(manager))) == (2, first.own_tile, [])
    assert not manager.own_tiles.kept


def test_a_tile_whose_request_has_gone_on_is_computed_again() -> None:
    manager = manager_of()
    first = computed(manager, "first", 1, 2, 3)
    first.output_token_ids += [4, 5]
    manager.reserve("first", 5)
    first.num_computed_tokens = 5
    manager.commit(first, 5)
    assert admitted(manager, "second", 1, 2, 3, 9).num_computed_tokens == 0


def test_whole_tiles_of_a_larger_block_are_copied_without_their_own_tile() -> None:
    manager = manager_of(block_size=3 * TILE)
    computed(manager, "first", *range(12))
    second = admitted(manager, "second", *range(10), 99, 98)
    assert second.num_computed_tokens == 2 * TILE
    assert [copy.is_own_tile for copy in ended(manager)] == [False]


def test_what_was_taken_is_kept_again_when_the_admission_is_taken_back() -> None:
    manager = manager_of()
    first = computed(manager, "first", 1, 2, 3)
    manager.close("first")
    second = admitted(manager, "second", 1, 2, 3, 4)
    manager.release("second")
    ended(manager)
    second.num_computed_tokens = 0
    match = manager.match(second)
    assert (match.num_tokens, match.own_tile) == (3, first.own_tile)


def test_own_tiles_run_out() -> None:
    own_tiles = OwnTiles(1)
    own_tiles.take(BlockTable("a", b"root"))
    assert own_tiles.num_taken == 1
    with pytest.raises(IntegrityError, match="1 own tiles are taken"):
        own_tiles.take(BlockTable("b", b"root"))


def test_giving_back_what_is_not_held_is_reported() -> None:
    with pytest.raises(IntegrityError, match="no request holds it"):
        OwnTiles(2).give_back(1, None)


def test_check_sees_a_tile_that_is_in_two_places() -> None:
    own_tiles = OwnTiles(2)
    table = BlockTable("a", b"root")
    table.own_tile = own_tiles.take(table)
    own_tiles.check()
    own_tiles.give_back(table.own_tile, (b"root", (1,)))
    own_tiles._taken[table.own_tile] = table
    with pytest.raises(IntegrityError, match="are known"):
        own_tiles.check()
