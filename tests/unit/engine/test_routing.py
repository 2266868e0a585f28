"""The inbox, the router and the readers: what a core refuses goes to one reader, and an end reaches all."""

from __future__ import annotations

import pytest

from quire.engine.readers import Deltas, FinalOutputs
from quire.engine.routing import RoutedCore
from quire.errors import DuplicateRequestError, ExecutorError, RequestError
from quire.text.tokenizer import Tokenizer
from support.fake_engine import FakeExecutor, make_core, submission

PROMPT = (1, 2, 3)


@pytest.fixture
def routed(tokenizer: Tokenizer) -> RoutedCore:
    return RoutedCore(make_core(FakeExecutor(), tokenizer), "engine")


def ask(routed: RoutedCore, *request_ids: str) -> FinalOutputs:
    outputs = FinalOutputs(request_ids)
    submissions = [submission(each, PROMPT, max_tokens=3, ignore_eos=True) for each in request_ids]
    routed.submit(routed.check(submissions), outputs)
    return outputs


def test_what_was_asked_takes_effect_with_the_next_step(routed: RoutedCore) -> None:
    outputs = ask(routed, "a", "b")
    assert not routed.core.has_work
    assert routed.step()
    assert routed.core.request_ids == ("a", "b")
    while routed.step():
        pass
    assert [output.request_id for output in outputs.take()] == ["a", "b"]


def test_an_empty_inbox_and_no_requests_are_nothing_to_compute(routed: RoutedCore) -> None:
    assert not routed.step()
    routed.inbox.abort("unknown")
    assert not routed.step()


def test_what_only_the_core_can_refuse_is_its_callers_exception(routed: RoutedCore) -> None:
    routed.core.submit(submission("a", PROMPT, max_tokens=3, ignore_eos=True))
    other, refused = ask(routed, "b"), ask(routed, "a")
    while routed.step():
        pass
    assert other.take()[0].finished
    with pytest.raises(DuplicateRequestError):
        refused.take()


def test_a_request_whose_reader_left_before_the_step_is_not_begun(routed: RoutedCore) -> None:
    ask(routed, "a")
    routed.leave(["a"])
    assert not routed.step()


def test_an_end_reaches_every_reader_and_later_call(routed: RoutedCore) -> None:
    core = routed.core
    outputs = ask(routed, "a")
    routed.step()
    queued = ask(routed, "b")
    routed.end(ExecutorError("the engine burned down", next_step="Build another one."))
    for refused in (outputs.take, queued.take, lambda: ask(routed, "c"), routed.step, lambda: routed.core):
        with pytest.raises(ExecutorError, match="burned down"):
            refused()
    assert not core.has_work
    routed.drain()
    assert routed.inbox.is_empty


def test_a_submission_that_loses_the_race_with_the_end_is_refused(routed: RoutedCore) -> None:
    groups = routed.check([submission("a", PROMPT)])
    routed.end()
    with pytest.raises(RequestError, match="this engine is closed"):
        routed.submit(groups, FinalOutputs(["a"]))


def test_a_stream_gives_what_it_has_before_its_error(routed: RoutedCore) -> None:
    groups = routed.check([submission("a", PROMPT, max_tokens=9, ignore_eos=True)])
    deltas = Deltas(groups[0])
    routed.submit(groups, deltas)
    routed.step()
    routed.end()
    assert len(deltas.take().outputs[0].token_ids) == 1
    with pytest.raises(RequestError, match="closed"):
        deltas.take()
