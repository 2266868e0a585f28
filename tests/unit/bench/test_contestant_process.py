"""A contestant's process: asked and answered, and whatever goes wrong becomes a reason instead of a hang."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
from benchmarks.contestants.process import ContestantProcess
from benchmarks.contestants.protocol import ContestantError, Task

READY = 'print(json.dumps({"ready": {"version": "1"}}), flush=True)\n'
ECHO = """
for line in sys.stdin:
    request = json.loads(line)
    if request["num_new"] > 9:
        print(json.dumps({"failed": "too many"}), flush=True)
    else:
        print(json.dumps({"prefill_s": 0.5, "steps_s": [0.1], "token_ids": request["prompts"]}), flush=True)
"""


def start(body: str, timeout_s: float = 20.0) -> ContestantProcess:
    return ContestantProcess([sys.executable, "-c", "import json, os, sys, time\n" + body], timeout_s)


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


def test_a_request_is_answered_and_a_refusal_is_not_the_end() -> None:
    with start(READY + ECHO) as contestant:
        assert contestant.facts == {"version": "1"}
        long_prompt = list(range(50_000))  # more than a pipe holds
        assert contestant.run(Task(prompts=[long_prompt], num_new=2)).token_ids == [long_prompt]
        with pytest.raises(ContestantError, match="too many"):
            contestant.run(Task(prompts=[[1]], num_new=10))
        assert contestant.run(Task(prompts=[[1]], num_new=2)).prefill_s == 0.5
        assert not contestant.has_ended
    assert contestant.has_ended


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs /proc")
def test_whoever_is_not_asked_is_frozen_with_its_children() -> None:
    child = "import subprocess\nchild = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
    with start(child + 'print(json.dumps({"ready": {"pid": str(child.pid)}}), flush=True)\n' + ECHO) as contestant:
        pid = int(contestant.facts["pid"])
        _wait_until_stopped(pid)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and state_of(pid) != "Z" and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path(f"/proc/{pid}").exists() or state_of(pid) == "Z"


def _wait_until_stopped(pid: int) -> None:
    deadline = time.monotonic() + 10
    while state_of(pid) != "T":
        assert time.monotonic() < deadline, state_of(pid)
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('print(json.dumps({"failed": "cannot be imported: x"}), flush=True)', "cannot be imported: x"),
        ("sys.exit(3)", "its process ended"),
        ("time.sleep(60)", "no answer within"),
    ],
)
def test_a_contestant_that_cannot_start_has_a_reason(body: str, words: str) -> None:
    with pytest.raises(ContestantError, match=words):
        start(body, timeout_s=0.5 if "sleep" in body else 20.0)


def test_a_contestant_that_dies_is_gone_for_good() -> None:
    contestant = start(READY + "sys.stdin.readline()\nsys.exit(1)")
    with pytest.raises(ContestantError, match="ended"):
        contestant.run(Task(prompts=[[1]], num_new=2))
    assert contestant.has_ended
