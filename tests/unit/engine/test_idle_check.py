"""The integrity check of an idle engine: broken books are found, reported and reset, and no answer waits for all of them."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import pytest

from quire.engine.books import IDLE_CHECK_BLOCKS, MAX_IDLE_CHECKS, Books
from quire.engine.core import EngineCore
from quire.kv.block import Block
from quire.request import Request, SamplingParams
from quire.sched.scheduler import Scheduler
from quire.text.tokenizer import Tokenizer
from support.fake_engine import FakeExecutor, make_core, run_all, submission

PROMPT = tuple(range(20)) * 3


def test_leaked_block_is_reported_and_repaired_when_idle(tokenizer: Tokenizer) -> None:
    core = make_core(FakeExecutor(), tokenizer)
    expected = run_all(core, submission("a", PROMPT))["a"].outputs[0].token_ids
    core.scheduler.manager.pool.allocate(2, "left over")
    assert run_all(core, submission("b", PROMPT))["b"].outputs[0].token_ids == expected
    assert len(core.integrity_errors) == 1
    pool = core.scheduler.manager.pool
    assert pool.num_free == pool.num_blocks
    assert run_all(core, submission("c", PROMPT))["c"].outputs[0].token_ids == expected


def _first_block(core: EngineCore) -> Block:
    return core.scheduler.manager.pool.blocks[0]


def _link_in_a_circle(core: EngineCore) -> None:
    block = _first_block(core)
    block.next_free = block


def _forget_the_owner(core: EngineCore) -> None:
    core.scheduler.manager.open("left over")


BROKEN_BOOKS: dict[str, Callable[[EngineCore], object]] = {
    "a free block is counted as held": lambda core: setattr(_first_block(core), "ref_count", 2),
    "a free block is linked in a circle": _link_in_a_circle,
    "a block has a key under which it is not found": lambda core: setattr(_first_block(core), "hash", b"lost"),
    "a block was allocated to nobody": lambda core: core.scheduler.manager.pool.allocate(1, "nobody"),
    "cached blocks are miscounted": lambda core: setattr(core.scheduler.manager.pool, "num_cached", 7),
    "a table is left over": _forget_the_owner,
    "a request is left over": lambda core: core.scheduler.submit(
        Request(request_id="left over", prompt_token_ids=PROMPT, sampling=SamplingParams())
    ),
}


@pytest.mark.parametrize("defect", BROKEN_BOOKS)
def test_broken_books_are_reported_and_repaired_when_idle(tokenizer: Tokenizer, defect: str) -> None:
    core = make_core(FakeExecutor(), tokenizer)
    expected = run_all(core, submission("a", PROMPT))["a"].outputs[0].token_ids
    assert core.integrity_errors == []
    core.submit(submission("b", PROMPT))
    BROKEN_BOOKS[defect](core)
    core.abort("b")
    assert len(core.integrity_errors) == 1
    core.scheduler.manager.check()
    assert run_all(core, submission("c", PROMPT))["c"].outputs[0].token_ids == expected
    assert len(core.integrity_errors) == 1


def test_an_idle_check_looks_at_a_bounded_part_of_a_large_pool(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    core = make_core(FakeExecutor(2 * IDLE_CHECK_BLOCKS + 50), tokenizer)
    looked_at: list[range] = []
    check_idle = core.scheduler.manager.check_idle
    monkeypatch.setattr(core.scheduler.manager, "check_idle", lambda blocks: (looked_at.append(blocks), check_idle(blocks)))
    for turn in range(4):
        run_all(core, submission(f"turn-{turn}", PROMPT, max_tokens=1))
    assert [len(blocks) for blocks in looked_at] == [IDLE_CHECK_BLOCKS, IDLE_CHECK_BLOCKS, 50, IDLE_CHECK_BLOCKS]
    assert [block_id for blocks in looked_at[:3] for block_id in blocks] == list(range(core.executor.num_blocks))


def test_flipped_count_anywhere_is_found_and_repaired_by_the_checks_of_one_walk(tokenizer: Tokenizer) -> None:
    core = make_core(FakeExecutor(5 * IDLE_CHECK_BLOCKS), tokenizer)
    expected = run_all(core, submission("a", PROMPT))["a"].outputs[0].token_ids
    core.scheduler.manager.pool.blocks[-1].ref_count = 3
    num_checks = 1
    while not core.integrity_errors:
        run_all(core, submission(f"turn-{num_checks}", PROMPT, max_tokens=1))
        num_checks += 1
    assert num_checks == 5
    core.scheduler.manager.check()
    assert run_all(core, submission("b", PROMPT))["b"].outputs[0].token_ids == expected


@pytest.mark.parametrize("num_blocks", [1, 96, 4096, 65_536, 96_001, 1_000_000])
def test_every_block_is_looked_at_within_a_thousand_idle_moments(num_blocks: int) -> None:
    looked_at: list[range] = []
    scheduler = SimpleNamespace(
        manager=SimpleNamespace(pool=SimpleNamespace(num_blocks=num_blocks), check_idle=looked_at.append), has_work=False
    )
    books = Books(lambda: cast(Scheduler, scheduler))
    for _ in range(MAX_IDLE_CHECKS):
        books.check_idle()
    assert {block_id for blocks in looked_at for block_id in blocks} == set(range(num_blocks))
    assert books.errors == []
    most = max(map(len, looked_at))
    assert most <= max(IDLE_CHECK_BLOCKS, num_blocks // MAX_IDLE_CHECKS + 1)


def test_closing_checks_the_whole_pool(tokenizer: Tokenizer) -> None:
    core = make_core(FakeExecutor(2 * IDLE_CHECK_BLOCKS), tokenizer)
    core.submit(submission("a", PROMPT))
    core.step()
    core.scheduler.manager.pool.blocks[-1].ref_count = 1
    core.close()
    assert (core.has_work, len(core.integrity_errors)) == (False, 1)
    core.close()
    assert len(core.integrity_errors) == 1
