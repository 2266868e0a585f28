"""One `LLM`, or one model called by hand, shared by threads: each answer is the one that its caller gets alone."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import quire
from quire import LLM, SamplingParams
from quire.engine.turns import Turns
from quire.errors import ExecutorError, RequestError
from quire.executors.protocol import Float32Array, StepBatch

PREFIX = "a beginning that many prompts share and that is longer than a block of the cache "
GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
DRAWN = SamplingParams(temperature=0.9, seed=11, max_tokens=9, n=2, ignore_eos=True)
NUM_THREADS = 5
WAIT_S = 60.0
"""Longer than anything here takes: a test that would hang fails instead."""


@pytest.fixture
def llm(tiny_model: Path) -> Iterator[LLM]:
    """On the native executor: it alone promises the same bits whatever is computed together."""
    with LLM(tiny_model, executor="native", kv_memory="256KiB", max_num_seqs=3, threads=1) as opened:
        yield opened
        pool = opened.core.scheduler.manager.pool
        opened.core.scheduler.manager.check()
        assert (pool.num_free, opened.core.integrity_errors, opened.core.has_work) == (pool.num_blocks, [], False)


class HeldStep:
    """Makes the first step wait, wherever it runs, until the test lets it go on."""

    def __init__(self, llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
        self.has_begun, self._may_end = threading.Event(), threading.Event()
        self._run = llm.core.executor.run
        monkeypatch.setattr(llm.core.executor, "run", self._held_run)

    def let_go(self) -> None:
        self._may_end.set()

    def _held_run(self, batch: StepBatch) -> Float32Array:
        self.has_begun.set()
        assert self._may_end.wait(WAIT_S)
        return self._run(batch)


@pytest.fixture
def helper() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as threads:
        yield threads


def answers(llm: LLM, prompts: list[str]) -> list[object]:
    """Asks in every way there is, leaving a stream in the middle as well, and returns what was answered."""
    outputs = llm.generate(prompts, GREEDY)
    drawn = llm.generate(prompts[0], DRAWN)[0]
    left = llm.stream(prompts[1], GREEDY)
    first = next(left)
    del left
    streamed = "".join(delta.outputs[0].text for delta in llm.stream(prompts[0], GREEDY))
    chat = llm.chat([{"role": "user", "content": prompts[0]}], GREEDY)[0]
    tokens = [[each.token_ids for each in output.outputs] for output in (*outputs, drawn, chat)]
    return [tokens, first.outputs[0].token_ids, streamed, llm.score(prompts[0]).token_ids]


def test_threads_get_the_answers_of_one_thread(llm: LLM) -> None:
    work = [[PREFIX + word, word * 3, PREFIX[index:]] for index, word in enumerate(("ape", "bee", "cat", "dog", "elk"))]
    expected = [answers(llm, prompts) for prompts in work]
    with ThreadPoolExecutor(NUM_THREADS) as threads:
        for _ in range(3):
            assert list(threads.map(lambda prompts: answers(llm, prompts), work)) == expected


def test_explanations_belong_to_their_requests(llm: LLM) -> None:
    def explained(word: str) -> bool:
        (output,) = llm.generate(PREFIX + word, GREEDY)
        explanation = llm.explain(output)
        return explanation is not None and explanation.num_reused_tokens == output.num_cached_tokens

    with ThreadPoolExecutor(NUM_THREADS) as threads:
        assert all(threads.map(explained, ["one", "two", "three", "four"] * 3))


def test_conversations_go_on_beside_each_other(llm: LLM) -> None:
    def talk(word: str) -> list[str]:
        conversation, said = llm.conversation(), []
        for turn in range(3):
            conversation.add_user(f"{word} {turn}")
            (output,) = llm.generate(conversation.prompt_token_ids(), GREEDY)
            said.append(conversation.add_assistant(output.outputs[0].token_ids))
        return said

    words = ["ape", "bee", "cat", "dog"]
    expected = [talk(word) for word in words]
    with ThreadPoolExecutor(len(words)) as threads:
        assert list(threads.map(talk, words)) == expected


def test_a_stream_dropped_while_another_thread_computes_ends_after_that_step(
    llm: LLM, helper: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = llm.generate(PREFIX, GREEDY)[0].outputs[0].text
    stream = llm.stream("dropped", GREEDY)
    next(stream)
    step = HeldStep(llm, monkeypatch)
    other = helper.submit(llm.generate, PREFIX, GREEDY)
    assert step.has_begun.wait(WAIT_S)
    del stream  # must not wait for the step
    step.let_go()
    assert other.result(WAIT_S)[0].outputs[0].text == expected


def test_an_interrupt_ends_the_wait_for_another_thread(
    llm: LLM, helper: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = llm.generate(PREFIX, GREEDY)[0].outputs[0].text
    step = HeldStep(llm, monkeypatch)
    other = helper.submit(llm.generate, PREFIX, GREEDY)
    assert step.has_begun.wait(WAIT_S)
    take = Turns.take

    def interrupted_take(turns: Turns, timeout_s: float) -> bool:
        signal.raise_signal(signal.SIGINT)
        return take(turns, timeout_s)

    with monkeypatch.context() as patch:
        patch.setattr(Turns, "take", interrupted_take)
        with pytest.raises(KeyboardInterrupt):
            llm.generate("waiting", GREEDY)
    step.let_go()
    assert other.result(WAIT_S)[0].outputs[0].text == expected


def test_closing_ends_the_calls_of_other_threads(
    tiny_model: Path, helper: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = LLM(tiny_model, executor="reference", kv_memory="1MiB")
    core, step = llm.core, HeldStep(llm, monkeypatch)
    other = helper.submit(llm.generate, PREFIX, SamplingParams(max_tokens=300, ignore_eos=True))
    assert step.has_begun.wait(WAIT_S)
    closing = threading.Thread(target=llm.close)
    closing.start()
    step.let_go()
    closing.join(WAIT_S)
    with pytest.raises(RequestError, match="closed"):
        other.result(WAIT_S)
    assert (core.has_work, core.integrity_errors) == (False, [])
    llm.close()


def exit_code_of_child(work: Callable[[], bool]) -> int:
    """Forks; returns 0 if `work` returned True in the child, which an alarm ends if it hangs."""
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        try:
            os._exit(0 if work() else 1)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")  # from Python 3.12 on
def test_a_forked_process_goes_on_unless_a_step_was_cut_off_there(
    tiny_model: Path, helper: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LLM(tiny_model, executor="reference", kv_memory="1MiB") as llm:
        expected = llm.generate(PREFIX, GREEDY)[0].outputs[0].text
        assert helper.submit(llm.generate, PREFIX, GREEDY).result(WAIT_S)
        assert exit_code_of_child(lambda: llm.generate(PREFIX, GREEDY)[0].outputs[0].text == expected) == 0

        def is_refused() -> bool:
            with pytest.raises(ExecutorError, match=r"forked while another thread computed.*spawn"):
                llm.generate(PREFIX, GREEDY)
            llm.close()
            return True

        step = HeldStep(llm, monkeypatch)
        other = helper.submit(llm.generate, PREFIX, GREEDY)
        assert step.has_begun.wait(WAIT_S)
        assert exit_code_of_child(is_refused) == 0
        step.let_go()
        assert other.result(WAIT_S)[0].outputs[0].text == expected


@pytest.mark.parametrize("call", [lambda llm: llm.generate("again", GREEDY), lambda llm: next(llm.stream("again", GREEDY))])
def test_a_call_within_its_own_step_is_refused_and_does_not_hang(
    llm: LLM, monkeypatch: pytest.MonkeyPatch, call: Callable[[LLM], object]
) -> None:
    refusals: list[RequestError] = []
    run = llm.core.executor.run

    def calling_run(batch: StepBatch) -> Float32Array:
        with pytest.raises(RequestError, match="in the middle of its own step") as caught:
            call(llm)
        refusals.append(caught.value)
        return run(batch)

    expected = llm.generate(PREFIX, GREEDY)[0].outputs[0].text
    monkeypatch.setattr(llm.core.executor, "run", calling_run)
    assert llm.generate(PREFIX, GREEDY)[0].outputs[0].text == expected
    assert refusals


def test_closing_within_a_step_makes_it_the_last_one(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = LLM(tiny_model, executor="reference", kv_memory="1MiB")
    run = llm.core.executor.run

    def closing_run(batch: StepBatch) -> Float32Array:
        llm.close()  # as a signal handler may
        return run(batch)

    monkeypatch.setattr(llm.core.executor, "run", closing_run)
    with pytest.raises(RequestError, match="closed"):
        llm.generate(PREFIX, GREEDY)


@pytest.mark.parametrize("executor", ["native", "reference"])
def test_threads_may_share_a_model_called_by_hand(tiny_model: Path, executor: str) -> None:
    model = quire.load_model(tiny_model, executor=executor, kv_memory="1MiB", threads=1)

    def loop(seed: int) -> tuple[list[int], Float32Array]:
        tokens, past, chosen = np.array([[seed, 3, 7]]), None, []
        for _ in range(12):
            logits, past = model(tokens, past)
            tokens = logits[:, -1:].argmax(axis=-1)
            chosen.append(int(tokens[0, 0]))
        assert past is not None
        return chosen, past[0][0]

    expected = [loop(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as threads:
        for found, wanted in zip(threads.map(loop, range(4)), expected, strict=True):
            assert found[0] == wanted[0]
            np.testing.assert_array_equal(found[1], wanted[1])
    model.check()
    assert model.num_free_blocks == model.executor.num_blocks
