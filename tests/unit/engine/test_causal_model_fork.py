"""A hand-driven model in a process that was forked: it goes on, or says why it cannot, and never waits for ever.

Every story runs in a process of its own with a time limit, so that a hang fails.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
PRELUDE = """
import os, signal, threading, warnings
from pathlib import Path
import numpy as np
from quire.engine.causal_model import CausalModel
from quire.engine.past_kvs import PastStore
from quire.errors import ExecutorError
from support.fake_engine import MAX_CONTEXT, FakeExecutor
warnings.filterwarnings("ignore", "This process.*is multi-threaded", DeprecationWarning)
IDS = np.array([[1, 2, 3]])
begun, ends = threading.Event(), threading.Event()

class SlowExecutor(FakeExecutor):
    is_slow = False

    def run(self, batch):
        if self.is_slow:
            begun.set()
            ends.wait(20)
        return super().run(batch)

executor = SlowExecutor(64)
model = CausalModel(PastStore(executor), MAX_CONTEXT, Path("nowhere"))
expected, past = model(IDS)

def work():
    assert (model(IDS)[0] == expected).all()
    assert past[0][0].shape == (1, 1, 3, 2)
    model.check()

def refused(call):
    try:
        call()
    except ExecutorError as error:
        return "spawn" in str(error)
    return False

def forked(run):
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        try:
            os._exit(0 if run() in (None, True) else 1)
        finally:
            os._exit(2)
    return os.waitpid(child, 0)[1]
"""


def lines_of(story: str) -> list[str]:
    """Runs a story in a process of its own; returns the lines it prints."""
    paths = f"import sys; sys.path[:0] = [{str(Path(__file__).parents[2])!r}]\n"
    command = [sys.executable, "-c", paths + PRELUDE + textwrap.dedent(story)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_a_child_and_a_grandchild_compute_on() -> None:
    assert lines_of("print(forked(lambda: (work(), forked(work))[1] == 0), forked(work)); work()") == ["0 0"]


def test_a_fork_during_another_threads_call_is_an_error_that_names_spawn() -> None:
    story = """
    executor.is_slow = True
    thread = threading.Thread(target=lambda: model(IDS))
    thread.start()
    begun.wait(20)
    calls = (lambda: model(IDS), lambda: past[0], model.check, lambda: model.num_free_blocks)
    print([forked(lambda: refused(call)) for call in calls])
    ends.set()
    thread.join()
    work()
    print(forked(work))
    """
    assert lines_of(story) == ["[0, 0, 0, 0]", "0"]


def test_a_fork_within_the_threads_own_call_leaves_it_the_lock() -> None:
    story = """
    def run(batch):
        del executor.run
        return executor.run(batch)

    executor.run = lambda batch: (print(forked(lambda: model.check())), run(batch))[1]
    work()
    """
    assert lines_of(story) == ["0"]
