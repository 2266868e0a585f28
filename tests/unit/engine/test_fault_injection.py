"""An error at any place that a step calls: it ends one request at most where it can be told which, and changes nobody's bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest

from quire.engine import core as core_module
from quire.engine.books import Books
from quire.engine.completion import CompletionState, RequestGroup
from quire.engine.core import EngineCore
from quire.engine.readers import FinalOutputs
from quire.engine.routing import RoutedCore
from quire.engine.step_events import StepEvent
from quire.kv.events import EventLog
from quire.kv.explain import CacheExplanation, Unexplained
from quire.kv.manager import KVCacheManager
from quire.kv.pool import BlockPool
from quire.request import FinishReason, RequestOutput
from quire.sched.scheduler import Scheduler
from quire.text.tokenizer import Tokenizer
from support.fake_engine import FakeExecutor, make_core, submission

LONG = tuple(range(26)) * 4
SUBMISSIONS = (
    submission("greedy", (1, 2, 3), max_tokens=40),
    submission("drawn", LONG, max_tokens=6, temperature=1.0, seed=7, logprobs=2),
    submission("scored", LONG[3:60], max_tokens=3, prompt_logprobs=1),
    submission("stopped", (8, 9), max_tokens=12, stop=["zz"], min_tokens=2),
    submission("shared", LONG[:70], max_tokens=9, n=2, temperature=0.7, seed=3),
)
LATER = submission("later", LONG, max_tokens=5)
FEW_BLOCKS = 10
"""Fewer than these requests want at once: some are preempted."""


class InjectedError(Exception):
    """The error of a test."""


@dataclass(frozen=True)
class Site:
    """A place that a step calls; `num_failed` requests end at most by an error there."""

    owner: Any
    name: str
    num_failed: int = 1


SITES = {
    "plan": Site(Scheduler, "plan_step", 0),
    "match": Site(KVCacheManager, "match"),
    "plan: admit": Site(KVCacheManager, "admit", 0),
    "plan: reserve": Site(KVCacheManager, "reserve", 0),
    "plan: allocate": Site(BlockPool, "allocate", 0),
    "batch": Site(core_module, "build_batch"),
    "submit": Site(FakeExecutor, "run"),
    "head": Site(FakeExecutor, "head"),
    "argmax": Site(FakeExecutor, "argmax"),
    "sample": Site(FakeExecutor, "sample"),
    "score": Site(FakeExecutor, "score"),
    "scores": Site(RequestGroup, "note_scores"),
    "abandon": Site(Scheduler, "abandon"),
    "advance": Site(CompletionState, "advance"),
    "complete": Site(Scheduler, "complete_step", len(SUBMISSIONS)),
    "complete: commit": Site(KVCacheManager, "commit", len(SUBMISSIONS)),
    "complete: release": Site(BlockPool, "release", len(SUBMISSIONS)),
    "idle check": Site(KVCacheManager, "check_idle", 0),
    "log": Site(EventLog, "record", len(SUBMISSIONS)),
    "abort": Site(Scheduler, "abort", 0),
    "reader": Site(FinalOutputs, "read"),
}


class Injection(NamedTuple):
    """At which call of a site an error comes, and whether the call has done its work by then."""

    site: str
    number: int
    is_after: bool

    def __str__(self) -> str:
        return f"{self.site} {self.number} {'after' if self.is_after else 'before'}"


class Bomb:
    """Stands for a function and raises at its `number`th call, before it or `after` it has done its work."""

    def __init__(self, function: Callable[..., Any], number: int, *, after: bool) -> None:
        self.has_exploded = False
        self._function, self._num_left, self._after = function, number, after

    def __get__(self, instance: object, owner: type) -> Callable[..., Any]:
        return lambda *arguments, **named: self(instance, *arguments, **named)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self._num_left -= 1
        is_due = self._num_left == 0
        if is_due and not self._after:
            self._explode()
        result = self._function(*arguments, **named)
        if is_due:
            self._explode()
        return result

    def _explode(self) -> None:
        self.has_exploded = True
        raise InjectedError("injected")


class Readers:
    """Who waits for the outputs of the submissions, and an aborted request."""

    def __init__(self, core: EngineCore) -> None:
        self.routed = RoutedCore(core, "test")
        self._readers: dict[str, FinalOutputs] = {}

    def run(self, *submissions: Any, aborted: str | None = None) -> dict[str, RequestOutput | BaseException]:
        for each in submissions:
            group = self.routed.check([each])
            self._readers[each.request_id] = reader = FinalOutputs([each.request_id])
            self.routed.submit(group, reader)
        num_steps = 0
        while self.routed.step():
            num_steps += 1
            assert num_steps < 1000, "the engine makes no progress"
            if num_steps == 4 and aborted is not None:
                self.routed.leave([aborted])
        return {each.request_id: self._taken(each.request_id) for each in submissions if each.request_id != aborted}

    def _taken(self, request_id: str) -> RequestOutput | BaseException:
        reader = self._readers[request_id]
        assert reader.is_ready, f"{request_id} waits for ever"
        try:
            return reader.take()[0]
        except BaseException as error:
            return error


def _answer(output: RequestOutput) -> Any:
    """Returns all of an output that a client sees."""
    return output.prompt_logprobs, [(each.text, each.token_ids, each.finish_reason, each.logprobs) for each in output.outputs]


def _has_failed(output: RequestOutput | BaseException) -> bool:
    return isinstance(output, BaseException) or any(each.finish_reason is FinishReason.ERROR for each in output.outputs)


def _require_one_story(readers: Readers, outputs: dict[str, RequestOutput | BaseException]) -> None:
    """What an output says of the cache is what the ledger says, also of requests that failed in the step that let them in."""
    for request_id, output in outputs.items():
        if isinstance(output, RequestOutput):
            found = readers.routed.explain(request_id)
            assert found is not Unexplained.UNKNOWN
            assert output.num_cached_tokens == (found.num_reused_tokens if isinstance(found, CacheExplanation) else 0)


def _world(tokenizer: Tokenizer) -> Readers:
    core = make_core(FakeExecutor(FEW_BLOCKS), tokenizer, max_num_batched_tokens=48)
    core.watcher = lambda _: None
    return Readers(core)


@pytest.fixture(scope="module")
def expected(tokenizer: Tokenizer) -> dict[str, Any]:
    """The answers of each request alone."""
    outputs = {each.request_id: _world(tokenizer).run(each)[each.request_id] for each in (*SUBMISSIONS, LATER)}
    return {name: _answer(output) for name, output in outputs.items() if isinstance(output, RequestOutput)}


def _injections() -> Iterator[Injection]:
    for name in SITES:
        for number in (1, 2, 7):
            for is_after in (False, True):
                yield Injection(name, number, is_after)


def _plant(monkeypatch: pytest.MonkeyPatch, injection: Injection) -> Bomb:
    if injection.site == "abandon":  # a plan is taken back after the error of a request
        _plant(monkeypatch, Injection("scores", 1, is_after=False))
    site = SITES[injection.site]
    bomb = Bomb(getattr(site.owner, site.name), injection.number, after=injection.is_after)
    monkeypatch.setattr(site.owner, site.name, bomb)
    return bomb


@pytest.mark.parametrize("injection", list(_injections()), ids=str)
def test_error_in_a_step_changes_no_other_request(
    monkeypatch: pytest.MonkeyPatch, tokenizer: Tokenizer, expected: dict[str, Any], injection: Injection
) -> None:
    name, site, readers = injection.site, SITES[injection.site], _world(tokenizer)
    _plant(monkeypatch, injection)
    company = submission("left", (4, 5, 6), max_tokens=60)
    outputs = readers.run(*SUBMISSIONS, company, aborted="left")
    failed = [request_id for request_id, output in outputs.items() if _has_failed(output)]
    assert len(failed) <= site.num_failed
    for request_id, output in outputs.items():
        if request_id not in failed:
            assert isinstance(output, RequestOutput)
            assert _answer(output) == expected[request_id], request_id
    _require_one_story(readers, outputs)
    later = readers.run(LATER)["later"]
    if not (name == "reader" and _has_failed(later)):
        assert isinstance(later, RequestOutput)
        assert _answer(later) == expected["later"]
    core = readers.routed.core
    core.scheduler.manager.check()
    assert core.scheduler.manager.pool.num_free == core.executor.num_blocks
    assert core.request_ids == ()


@pytest.mark.parametrize("name", SITES)
def test_every_site_is_reached(monkeypatch: pytest.MonkeyPatch, tokenizer: Tokenizer, name: str) -> None:
    readers, bomb = _world(tokenizer), _plant(monkeypatch, Injection(name, 1, is_after=False))
    readers.run(*SUBMISSIONS, submission("left", (4, 5, 6), max_tokens=60), aborted="left")
    assert bomb.has_exploded


def test_plan_that_always_fails_ends_requests_newest_first(monkeypatch: pytest.MonkeyPatch, tokenizer: Tokenizer) -> None:
    readers = _world(tokenizer)
    plan_step = Scheduler.plan_step

    def fail_at_the_newest(scheduler: Scheduler) -> Any:
        if "stopped" in scheduler._requests:
            raise InjectedError("injected")
        return plan_step(scheduler)

    monkeypatch.setattr(Scheduler, "plan_step", fail_at_the_newest)
    outputs = readers.run(*SUBMISSIONS[:4])
    assert [name for name, output in outputs.items() if _has_failed(output)] == ["stopped"]


def test_error_while_requests_are_failed_loses_no_output(monkeypatch: pytest.MonkeyPatch, tokenizer: Tokenizer) -> None:
    def fail_always(*_: object) -> None:
        raise InjectedError("injected")

    monkeypatch.setattr(RequestGroup, "note_scores", fail_always)
    monkeypatch.setattr(Scheduler, "fail", bomb := Bomb(Scheduler.fail, 2, after=False))
    scored = [submission(f"scored{index}", (index, 4, 5), max_tokens=3, prompt_logprobs=1) for index in range(2)]
    outputs = _world(tokenizer).run(*scored)
    assert bomb.has_exploded
    assert all(_has_failed(output) for output in outputs.values())


def test_watcher_that_fails_is_left_out_and_loses_no_output(tokenizer: Tokenizer, expected: dict[str, Any]) -> None:
    readers = _world(tokenizer)
    calls: list[StepEvent] = []

    def watch(_: object) -> None:
        calls.append(None)  # type: ignore[arg-type]
        raise InjectedError("injected")

    readers.routed.core.watcher = watch
    outputs = readers.run(*SUBMISSIONS)
    assert len(calls) == 1
    assert {name: _answer(output) for name, output in outputs.items() if isinstance(output, RequestOutput)} == {
        each.request_id: expected[each.request_id] for each in SUBMISSIONS
    }


def test_error_of_a_half_written_check_is_reported(monkeypatch: pytest.MonkeyPatch, tokenizer: Tokenizer) -> None:
    readers = _world(tokenizer)
    monkeypatch.setattr(Books, "_require_idle", Bomb(Books._require_idle, 1, after=False))
    readers.run(SUBMISSIONS[0])
    assert ["injected" in str(error) for error in readers.routed.core.integrity_errors] == [True]
