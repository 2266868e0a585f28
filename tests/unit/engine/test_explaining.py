"""Explaining across the inbox: a request is known from the moment it was submitted."""

from __future__ import annotations

from quire.engine.readers import FinalOutputs
from quire.engine.routing import RoutedCore
from quire.kv.explain import CacheExplanation, Unexplained
from quire.text.tokenizer import Tokenizer
from support.fake_engine import FakeExecutor, make_core, submission


def test_request_in_the_inbox_waits_and_one_that_nobody_sent_is_unknown(tokenizer: Tokenizer) -> None:
    routed = RoutedCore(make_core(FakeExecutor(), tokenizer), "test")
    asked = submission("a", (1, 2, 3), max_tokens=2, n=2, temperature=1.0, seed=1)
    routed.submit(routed.check([asked]), FinalOutputs(["a"]))
    assert (routed.explain("a"), routed.explain("b")) == (Unexplained.WAITING, Unexplained.UNKNOWN)
    routed.step()
    found = routed.explain("a")
    assert isinstance(found, CacheExplanation)
    assert found.request_id == "a/0"
    routed.end()


def test_request_that_was_aborted_while_it_waited_was_never_let_in(tokenizer: Tokenizer) -> None:
    core = make_core(FakeExecutor(), tokenizer, max_num_seqs=1)
    routed = RoutedCore(core, "test")
    for name in ("runs", "waits"):
        core.submit(submission(name, (1, 2, 3), max_tokens=9))
    core.step()
    assert routed.explain("waits") is Unexplained.WAITING
    core.abort("waits")
    assert routed.explain("waits") is Unexplained.NEVER_LET_IN
    routed.end()
