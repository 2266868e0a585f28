"""Looking at the core from outside: between two steps, in the engine thread, and never for ever."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from quire import AsyncEngine
from quire.engine.core import EngineCore
from quire.engine.engine_thread import EngineThread
from quire.engine.inbox import Look
from quire.engine.kv_map import BlockState, kv_map
from quire.engine.routing import RoutedCore
from quire.errors import RequestError
from quire.text.tokenizer import Tokenizer
from support.async_calls import GREEDY, LONG, OPTIONS, PREFIX, WAIT_S, run, settled
from support.fake_engine import FakeExecutor, make_core, submission
from support.gated_executor import GatedExecutor


def test_look_waits_for_the_step_that_runs_and_finds_a_consistent_pool() -> None:
    async def calls() -> None:
        async with AsyncEngine(**OPTIONS) as engine:
            engine.core.executor = gated = GatedExecutor(engine.core.executor)  # type: ignore[assignment]
            gated.gate.clear()
            answer = asyncio.create_task(engine.generate(PREFIX, LONG))
            await asyncio.sleep(0.05)
            look = asyncio.create_task(engine.look(lambda core: (threading.current_thread().name, kv_map(core, range(10**6)))))
            await asyncio.sleep(0.05)
            assert not look.done()
            gated.gate.set()
            thread, found = await look
            assert thread == "quire-engine"
            used = [block for block in found.blocks if block.state is BlockState.USED]
            assert len(used) == found.usage.num_used_blocks > 0
            assert sum(block.num_tokens for block in used) == found.num_used_tokens > 0
            answer.cancel()

    run(calls())


def test_look_at_an_engine_that_has_nothing_to_do() -> None:
    async def calls() -> None:
        async with AsyncEngine(**OPTIONS) as engine:
            await engine.generate(PREFIX, GREEDY)
            await settled(engine)
            found = await engine.look(lambda core: kv_map(core, range(0, 4)))
            assert found.usage.num_used_blocks == found.num_used_tokens == 0
            assert found.usage.num_cached_blocks > 0
            assert [block.block_id for block in found.blocks] == [0, 1, 2, 3]
            assert found.num_blocks == engine.core.scheduler.manager.pool.num_blocks

    run(calls())


def test_error_of_a_look_is_its_callers_alone() -> None:
    def fail(_core: EngineCore) -> None:
        raise LookupError("nothing there")

    async def calls() -> None:
        async with AsyncEngine(**OPTIONS) as engine:
            with pytest.raises(LookupError, match="nothing there"):
                await engine.look(fail)
            assert (await engine.generate(PREFIX, GREEDY))[0].finished

    run(calls())


def test_look_at_an_engine_that_ends_is_refused() -> None:
    async def calls() -> None:
        engine = AsyncEngine(**OPTIONS)
        engine.core.executor = gated = GatedExecutor(engine.core.executor)  # type: ignore[assignment]
        gated.gate.clear()
        answer = asyncio.create_task(engine.generate(PREFIX, LONG))
        await asyncio.sleep(0.05)
        look = asyncio.create_task(engine.look(lambda core: core.has_work))
        await asyncio.sleep(0.05)
        closing = asyncio.create_task(engine.close())
        await asyncio.sleep(0.05)
        gated.gate.set()
        await closing
        with pytest.raises(RequestError):
            await answer
        with pytest.raises(RequestError):
            await look
        with pytest.raises(RequestError):
            await engine.look(lambda core: core.has_work)

    run(calls())


def test_stop_that_comes_while_the_inbox_is_drained_is_obeyed(tokenizer: Tokenizer) -> None:
    engine = EngineThread(make_core(FakeExecutor(), tokenizer))
    stopping = threading.Thread(target=engine.stop, daemon=True)

    def stop_meanwhile(_core: EngineCore) -> None:
        stopping.start()
        while engine.routed.inbox.is_empty:
            time.sleep(0.001)

    run(engine.look(stop_meanwhile))
    stopping.join(WAIT_S / 2)
    assert not engine.is_alive
    engine.stop()


def test_look_comes_with_the_next_step_or_learns_of_the_end(tokenizer: Tokenizer) -> None:
    routed = RoutedCore(make_core(FakeExecutor(), tokenizer), "engine")
    found: list[Any] = []
    routed.look(Look(lambda core: found.append(core.has_work), found.append))
    assert found == []
    assert not routed.step()
    assert found == [False]
    routed.look(Look(lambda core: found.append(core.has_work), found.append))
    routed.end()
    assert isinstance(found[1], RequestError)


def test_blocks_that_requests_share_count_once(tokenizer: Tokenizer) -> None:
    core = make_core(FakeExecutor(), tokenizer)
    size = core.scheduler.manager.pool.block_size
    prompt = tuple(position % 29 + 1 for position in range(size + 1))
    for name in ("a", "b"):
        core.submit(submission(name, prompt, max_tokens=8, ignore_eos=True))
        core.step()
        core.step()
    found = kv_map(core, range(10**6))
    held = [block for block in found.blocks if block.num_holders]
    assert sorted(block.num_holders for block in held) == [1, 1, 2]
    assert found.num_used_tokens == size + sum(request.num_computed_tokens - size for request in core.requests)
