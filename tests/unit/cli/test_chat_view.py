"""Maps of blocks and explanations."""

from __future__ import annotations

from quire.cli.chat_view import MAP_CELLS, explanation_rows, pool_map, prompt_map
from quire.kv.ledger import CacheExplanation, MissReason
from quire.kv.pool import BlockPool


def _explanation(num_tokens: int, num_reused: int, diverged_at: int | None = None) -> CacheExplanation:
    return CacheExplanation(
        request_id="r", num_tokens=num_tokens, num_reused_tokens=num_reused, reason=MissReason.DIVERGED, diverged_at=diverged_at
    )


def test_prompt_map_has_a_character_a_block() -> None:
    assert prompt_map(_explanation(100, 64), 32) == "==++"
    assert prompt_map(_explanation(1, 0), 32) == "+"


def test_long_prompt_map_fits_and_never_hides_a_computed_block() -> None:
    shown = prompt_map(_explanation(32 * 1000, 32 * 999), 32)
    assert len(shown) <= MAP_CELLS
    assert shown.endswith("=+")


def test_divergence_is_placed_in_its_block() -> None:
    assert explanation_rows(_explanation(100, 32, diverged_at=40), 32)["diverged"] == "at token 40, in block 1"
    assert "diverged" not in explanation_rows(_explanation(100, 32), 32)


def test_every_reason_has_words() -> None:
    for reason in MissReason:
        explanation = CacheExplanation(request_id="r", num_tokens=4, num_reused_tokens=0, reason=reason)
        assert explanation_rows(explanation, 32)["then"]


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
