"""CPU time of the HTTP path: a real server over a model that computes nothing, and clients in another process.

    python benchmarks/http_cost.py --streams 1 8 32 --windows 8

HTTP is what the server's process takes without the steps of its engine: reading, routing, waking, rendering and writing. A step
of the null model takes `--pause-ms`, asleep, so that each one reaches the clients on its own. Every figure is measured in several
windows of time; the median and the least are shown. CPU time grows on a busy machine too, by 10 to 30 % and more, because other
programs empty the caches: the least is nearest to what a quiet machine shows. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import itertools
import json
import resource
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import median
from typing import IO, Any, cast

from quire.bench.null_executor import NullExecutor
from quire.bench.serve_apis import APIS, Ask
from quire.bench.serve_http import Target, target_of
from quire.bench.serve_request import measured
from quire.engine.async_engine import AsyncEngine
from quire.engine.core import EngineCore
from quire.engine.step_events import Progress, StepEvent
from quire.executors.host import FinishedStep
from quire.executors.protocol import StepBatch
from quire.server.service import ServedModel, Service
from quire.server.serving import Access, Server, listen

_BARS_US = {"token at 32 streams": 25.0, "step at 1 stream": 300.0, "short request": 400.0}
_MESSAGES = ({"role": "user", "content": "What is the capital of France?"},)
_SHORT = {
    "chat": ("/v1/chat/completions", {"messages": _MESSAGES, "max_tokens": 1, "temperature": 0, "ignore_eos": True}),
    "completion": ("/v1/completions", {"prompt": "One, two,", "max_tokens": 1, "temperature": 0, "ignore_eos": True}),
}
_SETTLE_S = _WINDOW_S = 0.5


# -- the server's process --------------------------------------------------------------


class PacedExecutor(NullExecutor):
    """A null model whose steps take a while, asleep."""

    pause_s = 0.0

    def submit(self, batch: StepBatch) -> FinishedStep:
        time.sleep(self.pause_s)
        return super().submit(batch)


class CountingSelector(selectors.DefaultSelector):
    """Counts how often the event loop went to sleep and woke."""

    num_wakeups = 0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(timeout)
        self.num_wakeups += timeout is None or timeout > 0
        return ready


class Meter:
    """What a server has used so far, besides the steps of its engine."""

    def __init__(self, core: EngineCore, selector: CountingSelector) -> None:
        self._selector = selector
        self._step_s = 0.0
        self._num_steps = self._num_tokens = 0
        self._step = core.step
        core.step = self._measured_step  # type: ignore[method-assign]

    def _measured_step(self) -> list[StepEvent]:
        start = time.thread_time()
        events = self._step()
        self._num_steps += 1
        self._num_tokens += sum(isinstance(event, Progress) for event in events)
        self._step_s += time.thread_time() - start
        return events

    def read(self, loop_thread: int) -> dict[str, float]:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "http_s": used.ru_utime + used.ru_stime - self._step_s,
            "loop_s": time.clock_gettime(time.pthread_getcpuclockid(loop_thread)),
            "steps": self._num_steps,
            "tokens": self._num_tokens,
            "wakeups": self._selector.num_wakeups,
        }


async def _serve(selector: CountingSelector, pause_ms: float) -> None:
    """Serves on a free port, whose number it prints; prints its meter for every line that it reads, and ends with the input."""
    engine = AsyncEngine(threads=1, kv_memory="64MiB", max_num_seqs=64)
    core = engine.core
    core.executor = executor = PacedExecutor(engine.spec, core.executor.layout.block_size, core.executor.num_blocks)
    executor.pause_s = pause_ms / 1000
    service = Service(engine, ServedModel(names=("null",)))
    service.warm_up()
    access = Access(port=0)
    meter = Meter(core, selector)
    loop, loop_thread = asyncio.get_running_loop(), threading.get_ident()
    with listen(access) as listener:
        listener.listen()
        server = Server(service, access, shutdown_timeout_s=0.0)

        def answer() -> None:
            print(listener.getsockname()[1], flush=True)
            for _ in sys.stdin:
                print(json.dumps(meter.read(loop_thread)), flush=True)
            loop.call_soon_threadsafe(server.begin_drain)

        threading.Thread(target=answer, daemon=True).start()
        async with service:
            await server.serve([listener])


# -- the clients' process --------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Microseconds of CPU of a step, a streamed token or a request, over the windows; how often the loop woke for each."""

    name: str
    http_us: float
    least_http_us: float
    loop_us: float
    num: int
    wakeups: float


Readings = list[dict[str, float]]
"""What the meter said, at the beginning of each window and at the end of the last."""


class ServerProcess:
    """The server, and its meter."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._input, self._output = cast(IO[str], process.stdin), cast(IO[str], process.stdout)
        self.port = int(self._output.readline())

    def meter(self) -> dict[str, float]:
        self._input.write("\n")
        self._input.flush()
        values: dict[str, float] = json.loads(self._output.readline())
        return values


@contextmanager
def server_process(pause_ms: float) -> Iterator[ServerProcess]:
    command = [sys.executable, __file__, "--serve", "--pause-ms", str(pause_ms)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield ServerProcess(process)
        finally:
            process.communicate()


def stream_costs(server: ServerProcess, num_streams: int, num_windows: int, pause_ms: float) -> list[Cost]:
    """Returns the costs of a token and of a step while so many streams run."""
    target = target_of(f"http://127.0.0.1:{server.port}")
    num_tokens = int((num_windows * _WINDOW_S + 4 * _SETTLE_S) * 1000 / pause_ms)

    async def run() -> Readings:
        streams = [asyncio.create_task(_stream(target, num_tokens)) for _ in range(num_streams)]
        await asyncio.sleep(_SETTLE_S)
        readings = [await asyncio.to_thread(server.meter)]
        for _ in range(num_windows):
            await asyncio.sleep(_WINDOW_S)
            readings.append(await asyncio.to_thread(server.meter))
        for stream in streams:
            stream.cancel()
        await asyncio.wait(streams)
        await asyncio.sleep(_SETTLE_S)
        return readings

    readings = asyncio.run(run())
    of = "stream" if num_streams == 1 else "streams"
    return [_cost(f"{unit} at {num_streams} {of}", readings, f"{unit}s") for unit in ("token", "step")]


async def _stream(target: Target, num_tokens: int) -> None:
    ask = Ask(model="null", messages=_MESSAGES, max_tokens=num_tokens)
    outcome = await measured(target, APIS["chat"], ask)
    raise RuntimeError(f"a stream ended early: {outcome.error}")


def request_cost(server: ServerProcess, kind: str, num_clients: int, num_windows: int) -> Cost:
    """Returns the cost of a request that is answered whole, on connections that stay open."""
    readings: Readings = [{**server.meter(), "requests": 0}]
    with ThreadPoolExecutor(num_clients) as pool:
        for _ in range(num_windows):
            num = sum(pool.map(_ask_for_a_window, [(server.port, *_SHORT[kind])] * num_clients))
            readings.append({**server.meter(), "requests": readings[-1]["requests"] + num})
    return _cost(f"{kind}, {num_clients} at once", readings, "requests")


def _ask_for_a_window(request: tuple[int, str, dict[str, Any]]) -> int:
    port, path, fields = request
    connection = http.client.HTTPConnection("127.0.0.1", port)
    body, num, end_s = json.dumps(fields), 0, time.monotonic() + _WINDOW_S
    while time.monotonic() < end_s:
        connection.request("POST", path, body, {"content-type": "application/json"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise RuntimeError(f"HTTP {answer.status}")
        answer.read()
        num += 1
    connection.close()
    return num


def _cost(name: str, readings: Readings, unit: str) -> Cost:
    windows = [{key: after[key] - before[key] for key in after} for before, after in pairwise(readings)]
    costs = {key: [window[key] / window[unit] * 1e6 for window in windows] for key in ("http_s", "loop_s")}
    num = int(readings[-1][unit] - readings[0][unit])
    return Cost(
        name=name,
        http_us=median(costs["http_s"]),
        least_http_us=min(costs["http_s"]),
        loop_us=median(costs["loop_s"]),
        num=num,
        wakeups=(readings[-1]["wakeups"] - readings[0]["wakeups"]) / num,
    )


def _show(costs: list[Cost]) -> None:
    print(f"{'':<26}{'HTTP us':>10}{'least':>10}{'loop us':>10}{'wake-ups':>10}{'number':>10}")
    for cost in costs:
        figures = f"{cost.http_us:>10.1f}{cost.least_http_us:>10.1f}{cost.loop_us:>10.1f}{cost.wakeups:>10.2f}{cost.num:>10,}"
        print(f"{cost.name:<26}{figures}")
    print("bars: " + ", ".join(f"{name} {bar:g} us" for name, bar in _BARS_US.items()) + ", one wake-up a step")
    print(json.dumps({"bench": "http cost", "costs": [asdict(cost) for cost in costs]}))


def _measure(options: argparse.Namespace) -> list[Cost]:
    costs: list[Cost] = []
    with server_process(options.pause_ms) as server:
        stream_costs(server, 1, 1, options.pause_ms)  # warms up
        for num_streams in options.streams:
            print(f"{num_streams} streams ...", file=sys.stderr)
            costs += stream_costs(server, num_streams, options.windows, options.pause_ms)
    with server_process(0.0) as server:
        for kind, num_clients in itertools.product(_SHORT, (1, 8)):
            print(f"{kind}, {num_clients} at once ...", file=sys.stderr)
            request_cost(server, kind, num_clients, 1)  # warms up
            costs.append(request_cost(server, kind, num_clients, options.windows))
    return costs


def main() -> None:
    """Measures and prints; with --serve, is the server."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--windows", type=int, default=8, help="windows of half a second")
    parser.add_argument("--pause-ms", type=float, default=5.0, help="time of a step of the null model")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        selector = CountingSelector()
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
            runner.run(_serve(selector, options.pause_ms))
    else:
        _show(_measure(options))


if __name__ == "__main__":
    main()
