"""The server of a scenario, what it should answer, and what can be seen of it from inside."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from quire.engine.llm import LLM
from quire.sampling import SamplingParams
from scripts.load.clients import Numbered, Request
from scripts.load.promises import Promise, promise
from support.served import Served, served

_TOPICS = ("the sea", "a cat", "Paris", "numbers", "snow", "a river", "music", "bread", "the moon", "a garden")
_PATIENCE_S = 60.0


def requests_of(num: int, max_tokens: int, *, ignore_eos: bool = False) -> list[Request]:
    """Returns different chats, every other one of them drawn. Answers end early unless they ignore the model's end."""
    return [
        {
            "model": "any",
            "messages": [{"role": "user", "content": f"Tell me about {_TOPICS[idx % len(_TOPICS)]}, in {idx} words or more."}],
            "temperature": 0.7 * (idx % 2),
            "seed": idx,
            "max_tokens": max_tokens,
            "ignore_eos": ignore_eos,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        for idx in range(num)
    ]


def expected_texts(requests: Sequence[Request]) -> list[str]:
    """Returns what `LLM` answers to each request alone."""
    with LLM(threads=1, kv_memory="64MiB") as llm:
        return [llm.chat(request["messages"], _params_of(request))[0].outputs[0].text for request in requests]


def _params_of(request: Request) -> SamplingParams:
    return SamplingParams(**{name: request[name] for name in ("temperature", "seed", "max_tokens", "ignore_eos")})


def same_bits(found: Sequence[Numbered], expected: Sequence[str]) -> Promise:
    """Promises that every answer equals what `LLM` says alone."""
    answered = [(number, outcome) for number, outcome in found if outcome.error is None]
    wrong = sum(outcome.text != expected[number] for number, outcome in answered)
    return promise("every answer equals LLM's alone", f"{wrong} of {len(answered)} differ", not wrong and bool(answered))


def no_errors(found: Sequence[Numbered], allowed: str = "none") -> Promise:
    """Promises that no request failed, except for errors of one kind."""
    errors = [outcome.error for _, outcome in found if outcome.error not in (None, allowed)]
    kinds = {kind: errors.count(kind) for kind in dict.fromkeys(errors)}
    return promise("no request fails", f"{len(errors)} of {len(found)} failed {kinds or ''}".strip(), not errors)


class Inside:
    """A server's insides: blocks, descriptors, and tasks of its event loop."""

    def __init__(self, running: Served) -> None:
        self._service = running.service
        self._loops: set[asyncio.AbstractEventLoop] = set()
        self._follow = self._service.engine.follow
        self._service.engine.follow = self._noted  # type: ignore[method-assign]

    def _noted(self, *arguments: Any) -> Any:
        self._loops.add(asyncio.get_running_loop())
        return self._follow(*arguments)

    @property
    def num_tasks(self) -> int:
        return sum(len(asyncio.all_tasks(loop)) for loop in self._loops)

    @property
    def num_descriptors(self) -> int:
        return len(os.listdir("/proc/self/fd"))

    @property
    def num_busy_blocks(self) -> int:
        pool = self._service.engine.core.scheduler.manager.pool
        return pool.num_blocks - pool.num_free

    def state(self) -> tuple[int, int, int, int]:
        """Returns busy blocks, descriptors, tasks, and open runs."""
        return self.num_busy_blocks, self.num_descriptors, self.num_tasks, self._service.runs.num_open


@contextmanager
def server(**options: Any) -> Iterator[tuple[Served, Inside]]:
    """Serves the bundled model with one thread in this process."""
    with served(**options) as running:
        yield running, Inside(running)


def seconds_until(is_so: Callable[[], bool], patience_s: float = _PATIENCE_S) -> float | None:
    """Waits until something is so; returns the seconds that took, None where patience ended."""
    began_s = time.monotonic()
    while not is_so():
        if time.monotonic() - began_s > patience_s:
            return None
        time.sleep(0.01)
    return time.monotonic() - began_s
