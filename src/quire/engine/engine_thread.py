"""The thread that runs an `AsyncEngine`'s steps, and how what a step brings reaches coroutines: one wake-up per event loop.

engine thread   drain - step - deliver --+                 +-- drain - step - deliver --+
                                         | one callback    |                            |
event loop      ...submit, await --------+-> wake readers -+-> take, await -------------+-> ...
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar

from quire.engine.completion import RequestGroup
from quire.engine.core import EngineCore
from quire.engine.inbox import Look
from quire.engine.readers import Reader
from quire.engine.routing import RoutedCore
from quire.engine.step_events import StepEvent
from quire.errors import ExecutorError, failure_message

_log = logging.getLogger("quire")
ReaderT = TypeVar("ReaderT", bound=Reader)
FoundT = TypeVar("FoundT")


class LoopReader(Generic[ReaderT]):
    """A reader whose caller is a coroutine: takes events in the engine thread, wakes the coroutine in its event loop."""

    def __init__(self, reader: ReaderT, request_ids: Sequence[str], wakeups: WakeUps) -> None:
        self.loop = asyncio.get_running_loop()
        self.reader = reader
        self.request_ids = request_ids
        self._wakeups = wakeups
        self._waiting: asyncio.Future[None] | None = None  # only its event loop's thread touches it

    @property
    def is_ready(self) -> bool:
        return self.reader.is_ready

    def read(self, event: StepEvent) -> None:
        self.reader.read(event)
        if self.reader.is_ready:
            self._wakeups.note(self)

    def fail(self, error: BaseException) -> None:
        self.reader.fail(error)
        self._wakeups.note(self)

    async def until_ready(self) -> ReaderT:
        """Waits until the reader has something to take, and returns it."""
        while not self.reader.is_ready:
            self._waiting = self.loop.create_future()
            try:
                await self._waiting
            finally:
                self._waiting = None
        return self.reader

    def wake(self) -> None:
        """Lets the coroutine go on, if it waits."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


class WakeUps:
    """The readers that a step made ready, by event loop. Only the engine thread uses it."""

    def __init__(self) -> None:
        self._readers: dict[asyncio.AbstractEventLoop, dict[int, LoopReader[Any]]] = {}

    def note(self, reader: LoopReader[Any]) -> None:
        """Remembers a reader, once however much it got."""
        self._readers.setdefault(reader.loop, {})[id(reader)] = reader

    def send(self) -> list[str]:
        """Wakes the readers, with one callback per event loop; returns the requests of those whose loop is closed."""
        lost: list[str] = []
        readers_of_loops, self._readers = self._readers, {}
        for loop, readers in readers_of_loops.items():
            try:
                loop.call_soon_threadsafe(_wake_all, tuple(readers.values()))
            except RuntimeError:  # asyncio's answer for a closed loop
                lost += [request_id for reader in readers.values() for request_id in reader.request_ids]
        return lost


def _wake_all(readers: Sequence[LoopReader[Any]]) -> None:
    for reader in readers:
        reader.wake()


class EngineThread:
    """Steps a core while it has work and waits for commands otherwise, until it is stopped or a step crashes."""

    def __init__(self, core: EngineCore) -> None:
        self.routed = RoutedCore(core, "AsyncEngine")
        self._wakeups = WakeUps()
        self._process = os.getpid()
        self._is_stopping = False
        self._step_began_s: float | None = None  # None while there is nothing to compute
        self._thread = threading.Thread(target=self._serve, name="quire-engine", daemon=True)
        atexit.register(self.stop)  # a daemon that computes while the interpreter ends would be cut off there
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs, which it does until it is stopped or a step crashes."""
        return self._thread.is_alive()

    @property
    def step_s(self) -> float:
        """Seconds since the step that runs began; 0 while there is nothing to compute."""
        began_s = self._step_began_s
        return 0.0 if began_s is None else time.monotonic() - began_s

    def check_process(self) -> None:
        """Raises ExecutorError in a forked process, in which the engine thread does not exist."""
        if self._process != os.getpid():
            raise ExecutorError(
                "this process was forked from the one that runs the engine thread",
                next_step="Start processes with the spawn method, or create the AsyncEngine in each of them.",
            )

    def submit(self, groups: Sequence[RequestGroup], reader: ReaderT) -> LoopReader[ReaderT]:
        """Queues groups for the next step; returns what the calling coroutine waits with."""
        self.check_process()
        waiting = LoopReader(reader, [group.request_id for group in groups], self._wakeups)
        self.routed.submit(groups, waiting)
        return waiting

    async def look(self, look: Callable[[EngineCore], FoundT]) -> FoundT:
        """Returns what a function finds in the core before the next step, in the engine thread."""
        self.check_process()
        loop = asyncio.get_running_loop()
        found: asyncio.Future[FoundT] = loop.create_future()

        def settle(how: Callable[[Any], None], value: object) -> None:
            with suppress(RuntimeError):  # asyncio's answer for a closed loop
                loop.call_soon_threadsafe(lambda: None if found.done() else how(value))

        show = Look(lambda core: settle(found.set_result, look(core)), lambda error: settle(found.set_exception, error))
        self.routed.look(show)
        return await found

    def ask_to_stop(self) -> None:
        """Makes the step that runs the last one. Never waits."""
        self._is_stopping = True
        self.routed.inbox.wake()

    def stop(self) -> None:
        """Stops and waits until the thread has ended."""
        self.ask_to_stop()
        if self._process == os.getpid():
            self._thread.join()

    # -- inside ----------------------------------------------------------------------

    def _serve(self) -> None:
        error: ExecutorError | None = None
        try:
            while not self._is_stopping:
                self._step_began_s = time.monotonic()
                has_computed = self.routed.step()
                self.routed.leave(self._wakeups.send())
                if not has_computed:
                    self._step_began_s = None
                    if not self._is_stopping:  # the step may have taken the wake-up of a stop from the inbox
                        self.routed.inbox.wait()
        except BaseException as crash:
            error = _crash_error(crash)
            _log.exception("The engine thread ended by an error, and every request with it")
        finally:
            self._end(error)

    def _end(self, error: ExecutorError | None) -> None:
        self._step_began_s = None
        try:
            self.routed.end(error)
        finally:
            self._wakeups.send()
            self.routed.inbox.clear()
            atexit.unregister(self.stop)


def _crash_error(crash: BaseException) -> ExecutorError:
    return ExecutorError(
        "the engine thread ended by an error", given=failure_message(crash), next_step="Create another AsyncEngine."
    )
