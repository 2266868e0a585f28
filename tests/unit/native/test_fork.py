"""A process that forks: the child has none of its parent's threads, and both go on computing.

Every story runs in a process of its own with a time limit, so that a hang fails; what it forks ends by an alarm at the latest.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from quire.executors.native import available_isas

pytestmark = [
    pytest.mark.skipif(not available_isas(), reason="the native core is not compiled here"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork"),
]
TESTS = Path(__file__).parents[2]
PRELUDE = """
import multiprocessing, os, signal, sys, threading, time, warnings
from test_executor import batch_of, build
from quire.errors import ExecutorError
from support.configs import spec_of
from support.weights import random_weights
warnings.filterwarnings("ignore", "This process.*is multi-threaded", DeprecationWarning)  # from Python 3.12 on
spec = spec_of("llama")
weights, batch = random_weights(spec), batch_of(300)

def forked(work):
    # Returns how a child that does `work` ended: 0 if it came through.
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        try:
            work()
        except BaseException as error:
            print(type(error).__name__, error, flush=True)
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]
"""


def lines_of(story: str) -> list[str]:
    """Runs a story in a process of its own; returns the lines it prints."""
    paths = f"import sys; sys.path[:0] = [{str(TESTS)!r}, {str(Path(__file__).parent)!r}]\n"
    script = paths + PRELUDE + textwrap.dedent(story)
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_a_child_a_grandchild_and_the_parent_compute_the_same_bits() -> None:
    story = """
    executor = build(spec, weights, threads=3)
    expected = executor.run(batch).tobytes()

    def work():
        for _ in range(3):
            assert executor.run(batch).tobytes() == expected

    def work_and_fork():
        work()
        assert forked(work) == 0
        work()

    print(forked(work_and_fork), forked(work))
    work()
    print("parent")
    """
    assert lines_of(story) == ["0 0", "parent"]


def test_a_child_builds_and_drops_executors_of_its_own() -> None:
    story = """
    executor = build(spec, weights, threads=2)
    expected = executor.run(batch).tobytes()

    def work():
        global executor
        own = build(spec, weights, threads=2)
        assert own.run(batch).tobytes() == expected
        executor = own = None  # neither joins threads that are not there

    print(forked(work))
    """
    assert lines_of(story) == ["0"]


def test_a_child_that_never_computes_leaves_as_any_process_does() -> None:
    story = """
    executor = build(spec, weights, threads=3)
    executor.run(batch)
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        sys.exit(7)  # with all that Python tears down at its end
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    assert lines_of(story) == ["7"]


def test_workers_of_multiprocessing_share_weights_loaded_before() -> None:
    story = """
    executor = build(spec, weights, threads=2)
    expected = executor.run(batch).tobytes()

    def work(index):
        return executor.run(batch).tobytes() == expected

    with multiprocessing.get_context("fork").Pool(2) as pool:
        print(all(pool.map_async(work, range(6)).get(timeout=60)))
    print(executor.run(batch).tobytes() == expected)
    """
    assert lines_of(story) == ["True", "True"]


def test_a_fork_while_another_thread_computes_is_an_error_that_names_spawn() -> None:
    """That thread's step is cut off in the child for ever, with half of its keys and values written."""
    story = """
    executor = build(spec, weights, threads=2)
    expected = executor.run(batch).tobytes()
    stops = threading.Event()

    def compute():
        while not stops.is_set():
            executor.run(batch)

    def work():
        try:
            right = executor.run(batch).tobytes() == expected
            os._exit(10 if right else 11)
        except ExecutorError as error:
            os._exit(20 if "spawn" in str(error) else 21)

    thread = threading.Thread(target=compute)
    thread.start()
    ends = {os.waitstatus_to_exitcode(forked(work)) for _ in range(20)}
    stops.set()
    thread.join()
    print(20 in ends and ends <= {10, 20}, ends)
    print(executor.run(batch).tobytes() == expected)
    """
    lines = lines_of(story)
    assert lines[0].startswith("True"), lines
    assert lines[1] == "True"


def test_a_fork_while_another_thread_samples_is_an_error_that_names_spawn() -> None:
    story = """
    import numpy as np
    from quire.executors.native import load_core
    from quire.executors.native_sampler import NativeSampler
    core = load_core()
    sampler = NativeSampler(core, core.BatchSampler("", 2))
    logits = np.random.default_rng(0).standard_normal((64, 20_000), dtype=np.float32)
    stops = threading.Event()

    def score():
        while not stops.is_set():
            sampler.score(logits, [0] * len(logits), 5)

    def work():
        try:
            sampler.score(logits, [0] * len(logits), 5)
            os._exit(10)
        except ExecutorError as error:
            os._exit(20 if "spawn" in str(error) else 21)

    thread = threading.Thread(target=score)
    thread.start()
    ends = {os.waitstatus_to_exitcode(forked(work)) for _ in range(20)}
    stops.set()
    thread.join()
    print(20 in ends and ends <= {10, 20}, ends)
    """
    (line,) = lines_of(story)
    assert line.startswith("True"), line


def test_measurements_run_in_a_child() -> None:
    story = """
    from quire.executors.native import load_core
    core = load_core()
    core.measure_reads("", 2, 1 << 22, 1)

    def work():
        assert all(each.bytes_per_second > 0 for each in core.measure_reads("", 2, 1 << 22, 1))
        assert core.measure_flops("", 2, core.PanelFormat(core.Encoding.F32), 1) > 0

    print(forked(work))
    """
    assert lines_of(story) == ["0"]
