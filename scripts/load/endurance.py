"""Long prompts, the end of a server, and an hour of everything."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from quire.engine.core import EngineCore
from quire.executors.protocol import Executor, StepBatch, StepHandle
from quire.server.limits import Limits
from quire.units import MIB
from scripts.load.clients import closed_loop, end_amid, in_process, raise_descriptor_limit, silences, storm
from scripts.load.promises import Promise, percentile, promise, timing
from scripts.load.world import expected_texts, no_errors, requests_of, same_bits, server

_LONG_TEXT = "one two three four five six seven eight nine ten " * 20
_STREAMING: Mapping[str, Mapping[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": _LONG_TEXT}], "max_tokens": 4},
    "/v1/completions": {"prompt": _LONG_TEXT, "max_tokens": 4},
    "/v1/responses": {"input": _LONG_TEXT, "max_output_tokens": 4, "store": False},
    "/v1/messages": {"messages": [{"role": "user", "content": _LONG_TEXT}], "max_tokens": 4},
}
_SAMPLE_S = 5.0
_WATCHED = (("resident memory", "MiB", 0.02), ("descriptors", "", 0.10), ("p50 CPU time of a step", "ms", 0.25))
"""What is sampled, and by which share it may seem to grow over the second half of a run."""


class SlowExecutor:
    """Passes everything on to another executor, whose next step takes `pause_s` longer."""

    def __init__(self, executor: Executor, pause_s: float) -> None:
        self._executor, self._pause_s = executor, pause_s

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)

    def submit(self, batch: StepBatch) -> StepHandle:
        pause_s, self._pause_s = self._pause_s, 0.0
        time.sleep(pause_s)
        return self._executor.submit(batch)


def heartbeats(prefill_s: float = 60.0, limits: Limits | None = None, silence_s: float = 6.0) -> list[Promise]:
    """Holds up a prompt on every endpoint that streams."""
    promises: list[Promise] = []
    with server(limits=limits) as (running, _):
        core = running.service.engine.core
        executor = core.executor
        for path, fields in _STREAMING.items():
            core.executor = SlowExecutor(executor, prefill_s)  # type: ignore[assignment]
            request = {"model": "any", "stream": True, **fields}
            longest, length, num_pieces, error = in_process(silences, running.url, path, request).result()
            if error == "HTTP 404":
                continue
            seen = f"{longest:.2f} s of {length:.1f} s, {num_pieces} pieces"
            promises += [
                promise(f"{path} ends well", error or "it did", error is None and length > prefill_s),
                timing(f"{path} is never silent for more than {silence_s:g} s", seen, longest <= silence_s),
                promise(f"{path} sends something meanwhile", seen, num_pieces > 2),
            ]
    return promises


def sigterm(num: int = 50, max_tokens: int = 120) -> list[Promise]:
    """Ends a server that has so many streams."""
    requests = requests_of(min(num, 25), max_tokens)
    expected = expected_texts(requests)
    command = [
        sys.executable,
        "-m",
        "quire.cli",
        "serve",
        "--port",
        "0",
        "--threads",
        "1",
        "--kv-memory",
        "64MiB",
        "--log-level",
        "warning",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        url = next(line for line in process.stdout or () if line.startswith("base URL")).rpartition(" ")[2].strip()
        found, off_s = in_process(end_amid, url, requests, num, process.pid).result()
        code = process.wait(60)
    return [
        timing("/ready says no within 100 ms", f"{off_s * 1e3:.0f} ms", off_s <= 0.1),
        promise("the process ends by itself", f"exit code {code}", code == 0),
        no_errors(found),
        same_bits(found, expected),
    ]


def soak(minutes: float = 60.0, num_clients: int = 8) -> list[Promise]:
    """Keeps a server busy with answers and departures, and looks for trends."""
    raise_descriptor_limit()
    requests = requests_of(40, 48)
    expected = expected_texts(requests)
    seconds = minutes * 60
    with server(limits=Limits(noted_bytes=MIB)) as (running, inside):  # what is kept of answers is soon as much as it may be
        steps = _Steps(running.service.engine.core)
        asked = in_process(closed_loop, running.url, requests, num_clients, seconds)
        left = in_process(storm, running.url, requests_of(40, 100), int(seconds * 2), seconds)
        samples: list[tuple[float, float, float, float]] = []
        began_s = time.monotonic()
        while True:
            time.sleep(min(_SAMPLE_S, seconds / 20))
            if asked.done():
                break
            at_s = time.monotonic() - began_s
            samples.append((at_s, _resident_bytes() / MIB, inside.num_descriptors, steps.take_median() * 1e3))
            print("soak: {:5.0f} s  {:7.1f} MiB  {:4.0f} descriptors  {:6.2f} ms of CPU a step".format(*samples[-1]), flush=True)
        found = asked.result()
        left.result()
    return [no_errors(found), same_bits(found, expected), *_trends(samples)]


class _Steps:
    """The CPU times of the steps of a core, which depend less than others on what else the machine does."""

    def __init__(self, core: EngineCore) -> None:
        self._step = core.step
        self._seconds: list[float] = []
        core.step = self._timed  # type: ignore[method-assign]

    def _timed(self) -> Any:
        began_s = time.thread_time()
        try:
            return self._step()
        finally:
            self._seconds.append(time.thread_time() - began_s)

    def take_median(self) -> float:
        """Returns the median since the last call."""
        seconds, self._seconds = self._seconds, []
        return percentile(seconds, 0.5) if seconds else 0.0


def _trends(samples: Sequence[tuple[float, float, float, float]]) -> list[Promise]:
    """Promises that nothing grows, by a line through the second half of the samples, extended over all of it."""
    half = np.array(samples[len(samples) // 2 :])
    times, span_s = half[:, 0], half[-1, 0] - half[0, 0]
    promises = []
    for column, (what, unit, most) in enumerate(_WATCHED, start=1):
        slope = float(np.polyfit(times, half[:, column], 1)[0])
        middle = float(np.median(half[:, column]))
        seen = f"{slope * 3600:+.2f} {unit} an hour at {middle:.2f}; {slope * span_s / middle:+.1%} over {span_s:.0f} s"
        promises.append(timing(f"{what} has no trend", seen, slope * span_s <= most * middle))
    return promises


def _resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
