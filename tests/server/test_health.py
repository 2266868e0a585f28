"""Liveness by progress, and errors of the engine that stay with their request."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import httpx2
import numpy as np
import pytest

from quire.executors.host import FinishedStep, argmax_of
from quire.executors.protocol import ArgmaxTokens, Float32Array, Int32Array, StepBatch, StepHandle
from quire.server.limits import Limits
from support.gated_executor import GatedExecutor
from support.metrics_page import scrape
from support.served import Served, served
from support.stream_rules import data_of

get, post = (partial(ask, timeout=60) for ask in (httpx2.get, httpx2.post))
STALL_S = 1.0
COUNT = {"max_tokens": 30, "ignore_eos": True}
POISON = 3001
"""A token that the good requests neither send nor draw."""


class PoisonedExecutor:
    """Spoils the logits that belong to requests with POISON in their first block, whatever is computed beside them."""

    def __init__(self, executor: Any, kind: float) -> None:
        self._executor, self._kind = executor, kind
        self._blocks: set[int] = set()
        self._rows: Int32Array = np.empty(0, dtype=np.int32)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)

    def submit(self, batch: StepBatch) -> Any:
        owners = np.repeat(np.arange(len(batch.context_lens)), np.diff(batch.query_start))
        begun = owners[batch.positions == 0]  # a block may have been another request's before
        self._blocks -= set(batch.block_tables[begun, 0].tolist())
        self._blocks |= set(batch.block_tables[owners[batch.token_ids == POISON], 0].tolist())
        self._rows = np.flatnonzero(np.isin(batch.block_tables[owners, 0], list(self._blocks))).astype(np.int32)
        logits = self._executor.submit(batch).result()
        return FinishedStep(self._spoiled(logits, batch.sample_rows))

    def copy_block(self, source: int, target: int) -> None:
        self._blocks -= {target}  # a request may begin with tokens that it copies
        self._executor.copy_block(source, target)

    def head(self, rows: Int32Array) -> Float32Array:
        return self._spoiled(self._executor.head(rows), rows)

    def argmax(self, rows: Int32Array) -> ArgmaxTokens:
        return argmax_of(self.head(rows))

    def _spoiled(self, logits: Float32Array, rows: Int32Array) -> Float32Array:
        logits = np.array(logits)
        logits[np.isin(rows, self._rows), 3:8] = self._kind
        return logits


@pytest.fixture
def stalling() -> Iterator[tuple[Served, GatedExecutor]]:
    with served(limits=Limits(stall_s=STALL_S)) as running:
        core = running.service.engine.core
        core.executor = executor = GatedExecutor(core.executor)  # type: ignore[assignment]
        try:
            yield running, executor
        finally:
            executor.gate.set()


def test_stalled_engine_is_told_within_a_second_of_the_limit(stalling: tuple[Served, GatedExecutor]) -> None:
    running, executor = stalling
    executor.gate.clear()
    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(post, f"{running.url}/v1/completions", json=COUNT | {"prompt": "a"}) for _ in range(2)]
        while not running.service.engine.step_s:
            time.sleep(0.001)
        time.sleep(STALL_S / 2)
        assert get(f"{running.url}/health").status_code == 200, "a step may take its time"
        time.sleep(STALL_S / 2 + 1.0)
        health, ready = get(f"{running.url}/health"), get(f"{running.url}/ready")
        assert (health.status_code, ready.status_code) == (503, 503)
        assert health.json() == {"status": "failing", "reason": f"the engine has been in one step for more than {STALL_S:g} s"}
        executor.gate.set()
        assert [answer.result().status_code for answer in answers] == [200, 200]
    assert get(f"{running.url}/health").status_code == 200


def test_engine_without_work_is_healthy_however_long(stalling: tuple[Served, GatedExecutor]) -> None:
    running, _ = stalling
    assert post(f"{running.url}/v1/completions", json=COUNT | {"prompt": "a"}).status_code == 200
    time.sleep(1.5 * STALL_S)
    assert get(f"{running.url}/health").status_code == 200


def test_step_after_step_is_progress_although_one_request_takes_longer_than_the_limit(
    stalling: tuple[Served, GatedExecutor],
) -> None:
    running, executor = stalling
    submit, statuses = executor._executor.submit, list[int]()

    def slow(batch: StepBatch) -> StepHandle:
        time.sleep(STALL_S / 4)
        return submit(batch)

    executor._executor = _with_submit(executor._executor, slow)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(post, f"{running.url}/v1/completions", json=COUNT | {"prompt": "a", "max_tokens": 8})
        while not answer.done():
            statuses.append(get(f"{running.url}/health").status_code)
            time.sleep(0.05)
    assert set(statuses) == {200}
    assert answer.result().status_code == 200


def _with_submit(executor: Any, submit: Any) -> Any:
    class Slowed:
        def __getattr__(self, name: str) -> Any:
            return submit if name == "submit" else getattr(executor, name)

    return Slowed()


@pytest.mark.parametrize("kind", [np.nan, np.inf])
@pytest.mark.parametrize("temperature", [0, 1])
def test_logits_that_are_not_finite_end_their_request_alone(kind: float, temperature: int) -> None:
    fields = COUNT | {"temperature": temperature, "seed": 5}
    prompts = [f"Story number {number}." for number in range(6)]
    with served() as running:
        url = f"{running.url}/v1/completions"
        expected = [post(url, json=fields | {"prompt": prompt}).json()["choices"][0]["text"] for prompt in prompts]
        core = running.service.engine.core
        core.executor = PoisonedExecutor(core.executor, kind)  # type: ignore[assignment]
        with ThreadPoolExecutor(8) as pool:
            bad = [
                pool.submit(post, url, json=fields | {"prompt": [POISON, 5], "stream": is_stream}) for is_stream in (False, True)
            ]
            good = [pool.submit(post, url, json=fields | {"prompt": prompt}) for prompt in prompts]
            whole, streamed = (answer.result() for answer in bad)
            assert (whole.status_code, whole.json()["error"]["code"]) == (500, "engine_error")
            assert '"code":"engine_error"' in data_of(streamed.content)[-2]
            assert [answer.result().json()["choices"][0]["text"] for answer in good] == expected
        assert scrape(running).value("quire_requests_ended_total", reason="error") == 2
