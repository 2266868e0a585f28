"""Maps of the pool's blocks."""

from __future__ import annotations

from quire.cli.chat_view import pool_map
from quire.cli.explain_view import MAP_CELLS
from quire.kv.pool import BlockPool


def test_pool_map_shows_held_cached_and_empty_blocks() -> None:
    pool = BlockPool(8, 2)
    assert pool_map(pool) == ""
    blocks = pool.allocate(3, "r")
    assert blocks is not None
    pool.commit(blocks[1], b"root", b"key", (1, 2), "r")
    pool.release(blocks[0], "r")
    pool.release(blocks[1], "r")
    assert pool_map(pool) == ".=#"


def test_pool_map_of_a_large_pool_shows_its_busiest_states() -> None:
    pool = BlockPool(10 * MAP_CELLS, 2)
    held = pool.allocate(10 * MAP_CELLS, "r")
    assert held is not None
    for block in held[:-1]:
        pool.release(block, "r")
    assert pool_map(pool) == "." * (MAP_CELLS - 1) + "#"
