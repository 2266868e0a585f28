"""`AsyncEngine`: the answers of `LLM`, for any number of coroutines, and the end of the engine itself."""

from __future__ import annotations

import asyncio
import copy
import gc
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any

import pytest

from quire import LLM, AsyncEngine, SamplingParams
from quire.errors import ExecutorError, IntegrityError, NotCopyableError, RequestError
from quire.request import RequestOutput
from support.async_calls import GREEDY, LONG, MESSAGES, OPTIONS, PREFIX, WAIT_S, all_of, parts, run

DRAWN = SamplingParams(temperature=0.9, seed=11, max_tokens=6, n=2, ignore_eos=True)


# -- the same answers ----------------------------------------------------------------


def test_answers_and_streams_are_those_of_the_llm(engine: AsyncEngine, llm: LLM) -> None:
    prompts = [PREFIX + "one", "two", PREFIX + "three"]
    scored = SamplingParams(temperature=0, max_tokens=6, logprobs=2, stop=["e "])

    async def work() -> None:
        assert parts(await engine.generate(prompts, [GREEDY, DRAWN, scored])) == parts(
            llm.generate(prompts, [GREEDY, DRAWN, scored])
        )
        assert parts(await engine.chat(MESSAGES, GREEDY)) == parts(llm.chat(MESSAGES, GREEDY))
        assert (await engine.score("Paris is in France.")).logprobs == llm.score("Paris is in France.").logprobs
        for params in (GREEDY, DRAWN, scored):
            assert parts(await all_of(engine.stream(prompts[0], params))) == parts(list(llm.stream(prompts[0], params)))

    run(work())


def test_many_streams_at_once_get_the_answers_they_get_alone(engine: AsyncEngine, llm: LLM) -> None:
    prompts = [PREFIX * (index % 2) + f"number {index}" for index in range(20)]
    expected = [parts(list(llm.stream(prompt, GREEDY))) for prompt in prompts]

    async def work() -> list[list[RequestOutput]]:
        return await asyncio.gather(*(all_of(engine.stream(prompt, GREEDY)) for prompt in prompts))

    assert [parts(outputs) for outputs in run(work())] == expected


def test_event_loops_of_several_threads_may_share_an_engine(engine: AsyncEngine, llm: LLM) -> None:
    prompts = [f"loop {index}" for index in range(4)]
    expected = [parts(list(llm.stream(prompt, GREEDY))) for prompt in prompts]
    with ThreadPoolExecutor(len(prompts)) as threads:
        assert list(threads.map(lambda prompt: parts(run(all_of(engine.stream(prompt, GREEDY)))), prompts)) == expected


def test_a_conversation_finds_its_last_turn_in_the_cache(engine: AsyncEngine) -> None:
    conversation = engine.conversation()
    conversation.add_user("What is the capital of France? " * 12)
    (first,) = run(engine.generate(conversation.prompt_token_ids(), GREEDY))
    conversation.add_assistant(first.outputs[0].token_ids)
    conversation.add_user("And of Spain?")
    (second,) = run(engine.generate(conversation.prompt_token_ids(), GREEDY))
    explanation = engine.explain(second)
    assert explanation is not None
    assert explanation.num_reused_tokens == second.num_cached_tokens > 0


def test_a_step_wakes_an_event_loop_once_for_all_its_readers(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    num_steps, num_wakeups, num_streams = 0, 0, 5
    step = engine.core.step

    def counted_step() -> Any:
        nonlocal num_steps
        num_steps += 1
        return step()

    async def work() -> None:
        loop = asyncio.get_running_loop()
        call = loop.call_soon_threadsafe

        def counted_call(*arguments: Any, **options: Any) -> Any:
            nonlocal num_wakeups
            num_wakeups += threading.current_thread().name == "quire-engine"
            return call(*arguments, **options)

        monkeypatch.setattr(loop, "call_soon_threadsafe", counted_call)
        await asyncio.gather(*(all_of(engine.stream(f"stream {index}", GREEDY)) for index in range(num_streams)))

    monkeypatch.setattr(engine.core, "step", counted_step)
    run(work())
    assert 8 <= num_wakeups <= num_steps


def test_a_call_that_awaits_final_outputs_is_woken_once(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []

    async def work() -> None:
        loop = asyncio.get_running_loop()
        call = loop.call_soon_threadsafe

        def noted_call(*arguments: Any, **options: Any) -> Any:
            threads.append(threading.current_thread().name)
            return call(*arguments, **options)

        monkeypatch.setattr(loop, "call_soon_threadsafe", noted_call)
        await engine.generate(["one", "two", "three"], GREEDY)

    run(work())
    assert threads.count("quire-engine") == 1


def test_a_slow_reader_stops_no_other_and_misses_nothing(engine: AsyncEngine, llm: LLM) -> None:
    async def work() -> list[RequestOutput]:
        async with aclosing(engine.stream("slow", GREEDY)) as slow:
            read = [await anext(slow)]
            await engine.generate(["quick"] * 3, GREEDY)
            return read + await all_of(slow)

    assert parts(run(work())) == parts(list(llm.stream("slow", GREEDY)))


# -- the engine's own end ------------------------------------------------------------


def new_engine(**options: Any) -> AsyncEngine:
    return AsyncEngine(**OPTIONS | options)


async def everything(engine: AsyncEngine) -> list[Any]:
    calls = (engine.generate("x", GREEDY), engine.chat(MESSAGES, GREEDY), all_of(engine.stream("x", GREEDY)), engine.score("x"))
    return await asyncio.gather(*calls, return_exceptions=True)


def test_closing_ends_streams_and_refuses_later_calls() -> None:
    async def work() -> None:
        async with new_engine() as engine:
            core, stream = engine.core, engine.stream("closed on", LONG)
            await anext(stream)
            waiting = asyncio.create_task(engine.generate("closed on", LONG))
            await asyncio.sleep(0)
        with pytest.raises(RequestError, match="this AsyncEngine is closed"):
            await all_of(stream)
        with pytest.raises(RequestError, match="this AsyncEngine is closed"):
            await waiting
        assert [type(each) for each in await everything(engine)] == [RequestError] * 4
        assert (core.has_work, core.integrity_errors) == (False, [])
        await engine.close()

    run(work())


def test_a_crash_of_the_engine_thread_reaches_every_reader_and_later_call(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        engine = new_engine()
        stream = engine.stream("crashed", LONG)
        await anext(stream)

        def crash() -> Any:
            raise IntegrityError("the books burned", next_step="Report this.")

        monkeypatch.setattr(engine.core, "step", crash)
        results = await asyncio.gather(all_of(stream), *(engine.generate("x", LONG) for _ in range(3)), return_exceptions=True)
        for result in (*results, *await everything(engine)):
            assert isinstance(result, ExecutorError)
            assert "the engine thread ended by an error" in str(result)
            assert "the books burned" in str(result)
        await engine.close()

    run(work())


def test_an_engine_that_is_dropped_ends_its_thread() -> None:
    engine = new_engine()
    thread = engine._engine._thread
    run(engine.generate("x", GREEDY))
    del engine
    gc.collect()
    thread.join(WAIT_S)
    assert not thread.is_alive()


def test_a_program_that_never_closes_its_engine_ends() -> None:
    code = (
        "import asyncio, quire\n"
        "engine = quire.AsyncEngine(threads=1, kv_memory='16MiB')\n"
        "async def main():\n"
        "    stream = engine.stream('x', quire.SamplingParams(max_tokens=600, ignore_eos=True))\n"
        "    print(len((await anext(stream)).outputs[0].token_ids))\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")  # from Python 3.12 on
def test_a_forked_process_is_refused_and_does_not_hang(engine: AsyncEngine) -> None:
    child = os.fork()
    if child == 0:
        signal.alarm(30)  # ends a child that hangs
        try:
            refusals = asyncio.run(everything(engine))
            asyncio.run(engine.close())
            os._exit(0 if all(isinstance(each, ExecutorError) and "forked" in str(each) for each in refusals) else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_an_engine_is_not_copied(engine: AsyncEngine) -> None:
    with pytest.raises(NotCopyableError):
        copy.copy(engine)
