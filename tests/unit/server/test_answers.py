"""When a stream sends what: first the opening, heartbeats while there is no text, and one end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from quire.engine.step_events import Progress, PromptProgress
from quire.request import RequestOutput
from quire.server.answers import Chunks
from quire.server.errors import ApiError
from quire.server.generation import Delta
from quire.server.limits import Limits
from quire.server.metrics import Metrics

GENERATION = SimpleNamespace(numbers={"r": 0}, drops_output=False)


class Run:
    """A run whose events a test makes up."""

    def __init__(self, *events: list[Any] | Exception, silent_s: float = 0.0) -> None:
        self.generation = GENERATION
        self.is_over = False
        self.last_sent_s = time.monotonic() - silent_s
        self.outputs: list[RequestOutput] = []
        self._events = list(events)

    async def events(self) -> list[Any]:
        events = self._events.pop(0)
        if isinstance(events, Exception):
            raise events
        self.is_over = not self._events
        return events


class Stream:
    def heartbeat(self) -> bytes:
        return b"h"

    def prompt(self, progress: PromptProgress) -> bytes:
        return f"{progress.num_computed_tokens}/{progress.num_tokens} ".encode()

    def opening(self) -> bytes:
        return b"("

    def delta(self, delta: Delta) -> bytes:
        return delta.text.encode()

    def closing(self, _outputs: Sequence[RequestOutput]) -> bytes:
        return b")"

    def failure(self, error: ApiError) -> bytes:
        return f"!{error.refusal.status}".encode()


def chunks_of(run: Run, number: int) -> tuple[list[bytes], bool]:
    service = SimpleNamespace(limits=Limits(heartbeat_s=5.0), metrics=Metrics())
    chunks = Chunks(run, Stream(), service)  # type: ignore[arg-type]

    async def read() -> list[bytes]:
        return [await chunks.next() for _ in range(number)]

    return asyncio.run(read()), chunks.are_over


def step(text: str) -> list[Progress]:
    return [Progress("r", 0, text, (1,))]


def test_opening_comes_before_the_first_text_and_closing_after_the_last() -> None:
    assert chunks_of(Run(step("a"), step("b") + step("c")), 2) == ([b"(a", b"bc)"], True)


def test_progress_of_the_prompt_comes_before_the_opening() -> None:
    run = Run([PromptProgress("r", 8, 2, 5)], [PromptProgress("r", 8, 2, 8), *step("a")])
    assert chunks_of(run, 2) == ([b"5/8 ", b"8/8 (a)"], True)


def test_heartbeat_fills_silence_and_only_silence() -> None:
    assert chunks_of(Run([], [], silent_s=0.0), 1) == ([b""], False)
    assert chunks_of(Run([], [], silent_s=6.0), 1) == ([b"h"], False)


def test_withheld_text_does_not_silence_a_stream() -> None:
    run = Run(step("a"), step(""), step(""), step("b"), silent_s=6.0)
    assert chunks_of(run, 4) == ([b"(a", b"h", b"h", b"b)"], True)


def test_any_error_ends_the_stream_with_its_event() -> None:
    assert chunks_of(Run(step("a"), ValueError("x"), []), 2) == ([b"(a", b"!500"], True)
