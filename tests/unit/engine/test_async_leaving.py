"""Requests of an `AsyncEngine` that end early, by their reader, an abort or a failure: nothing else is disturbed."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest

from quire import LLM, AsyncEngine
from quire.errors import ExecutorError, PromptTooLongError, RequestError
from quire.executors.protocol import Float32Array, StepBatch
from quire.request import FinishReason, RequestOutput
from support.async_calls import GREEDY, LONG, PREFIX, WAIT_S, all_of, parts, run, settled


class HeldStep:
    """Makes the first step wait, in the engine thread, until the test lets it go on."""

    def __init__(self, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        self._has_begun, self._may_end = threading.Event(), threading.Event()
        self._run = engine.core.executor.run
        monkeypatch.setattr(engine.core.executor, "run", self._held_run)

    async def begun(self) -> None:
        assert await asyncio.to_thread(self._has_begun.wait, WAIT_S)

    def let_go(self) -> None:
        self._may_end.set()

    def _held_run(self, batch: StepBatch) -> Float32Array:
        self._has_begun.set()
        assert self._may_end.wait(WAIT_S)
        return self._run(batch)


async def leave_by_aclose(engine: AsyncEngine) -> None:
    stream = engine.stream(PREFIX, LONG)
    await anext(stream)
    await stream.aclose()


async def leave_by_cancel(engine: AsyncEngine) -> None:
    began = asyncio.Event()

    async def read() -> None:
        async for _ in engine.stream(PREFIX, LONG):
            began.set()

    task = asyncio.create_task(read())
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def leave_by_losing_it(engine: AsyncEngine) -> None:
    stream = engine.stream(PREFIX, LONG)
    await anext(stream)
    del stream
    gc.collect()


@pytest.mark.parametrize("leave", [leave_by_aclose, leave_by_cancel, leave_by_losing_it])
def test_leaving_frees_the_blocks_and_keeps_the_prefix(engine: AsyncEngine, leave: Callable[[AsyncEngine], Any]) -> None:
    async def work() -> RequestOutput:
        await leave(engine)
        await settled(engine)
        assert engine.core.scheduler.manager.pool.num_free == engine.core.executor.num_blocks
        return (await engine.generate(PREFIX, GREEDY))[0]

    assert run(work()).num_cached_tokens > 0


def test_a_request_that_is_left_during_a_step_ends_with_it(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        held = HeldStep(engine, monkeypatch)
        task = asyncio.create_task(engine.generate(PREFIX, LONG))
        await held.begun()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task  # does not wait for the step
        num_steps = len(steps)
        held.let_go()
        await settled(engine)
        assert len(steps) == num_steps

    steps: list[None] = []
    step = engine.core.step
    monkeypatch.setattr(engine.core, "step", lambda: (steps.append(None), step())[1])
    run(work())


def test_an_abort_during_a_step_ends_the_call_with_what_there_is(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> list[RequestOutput]:
        stream = engine.stream("aborted", LONG)
        read = [await anext(stream)]
        held = HeldStep(engine, monkeypatch)
        await held.begun()
        engine.abort(read[0].request_id)
        engine.abort(read[0].request_id[:-1])  # a prefix of an id is another id
        held.let_go()
        return read + await all_of(stream)

    outputs = run(work())
    assert outputs[-1].finished
    assert outputs[-1].outputs[0].finish_reason == FinishReason.ABORT
    assert len(outputs) < 600


def test_a_refused_request_disturbs_no_other(engine: AsyncEngine, llm: LLM) -> None:
    async def work() -> Any:
        return await asyncio.gather(
            all_of(engine.stream("well", GREEDY)),
            engine.generate([1] * 100_000, GREEDY),
            all_of(engine.stream([-1], GREEDY)),
            engine.generate(["accepted", [10**9]], GREEDY),
            engine.chat([{"content": "no role"}], GREEDY),
            return_exceptions=True,
        )

    well, *refusals = run(work())
    assert parts(well) == parts(list(llm.stream("well", GREEDY)))
    assert [type(each) for each in refusals] == [PromptTooLongError, RequestError, RequestError, RequestError]


def test_a_failure_in_a_step_reaches_its_own_reader_only(engine: AsyncEngine, llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    poison = 77
    real_run = engine.core.executor.run

    def choking_run(batch: StepBatch) -> Float32Array:
        if poison in batch.token_ids:
            raise ExecutorError("it choked", next_step="Send other tokens.")
        return real_run(batch)

    monkeypatch.setattr(engine.core.executor, "run", choking_run)

    async def work() -> Any:
        return await asyncio.gather(all_of(engine.stream("well", GREEDY)), all_of(engine.stream([poison], GREEDY)))

    well, poisoned = run(work())
    assert parts(well) == parts(list(llm.stream("well", GREEDY)))
    assert [output.outputs[0].finish_reason for output in poisoned] == [FinishReason.ERROR]
    assert "it choked" in (poisoned[0].outputs[0].error or "")


def test_requests_of_a_closed_event_loop_are_ended(engine: AsyncEngine) -> None:
    async def begin() -> Any:
        stream = engine.stream("lost", LONG)
        await anext(stream)
        return stream

    loop = asyncio.new_event_loop()
    stream = loop.run_until_complete(begin())
    loop.close()  # without loop.shutdown_asyncgens()
    run(settled(engine))
    assert stream is not None
