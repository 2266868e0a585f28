"""What threads ask of a core waits here for the next step."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from quire.engine.completion import RequestGroup
from quire.engine.core import EngineCore


@dataclass(frozen=True, slots=True)
class Admission:
    """Asks to admit checked groups, all with the same step."""

    groups: tuple[RequestGroup, ...]


@dataclass(frozen=True, slots=True)
class Abort:
    """Asks to end a request, if it still runs then."""

    request_id: str


@dataclass(frozen=True, slots=True)
class Look:
    """Asks to be shown the core before the next step; `fail` gets the error if `show` raises one or the core has ended."""

    show: Callable[[EngineCore], None]
    fail: Callable[[BaseException], None]


@dataclass(frozen=True, slots=True)
class _WakeUp:
    """Asks for nothing: the thread that waits for a command looks around."""


Command = Admission | Abort | Look | _WakeUp


class Inbox:
    """Commands to a core in the order in which threads gave them. Adding one never waits, not even in a finalizer."""

    def __init__(self) -> None:
        self._commands: SimpleQueue[Command] = SimpleQueue()  # put() may interrupt put() and get(), as a finalizer does
        self._taken: deque[Command] = deque()

    @property
    def is_empty(self) -> bool:
        return not self._taken and self._commands.empty()

    def submit(self, groups: Sequence[RequestGroup]) -> None:
        """Asks to admit checked groups, all with the same step."""
        self._commands.put(Admission(tuple(groups)))

    def abort(self, request_id: str) -> None:
        """Asks to end a request, if it still runs then."""
        self._commands.put(Abort(request_id))

    def look(self, look: Look) -> None:
        """Asks to be shown the core before the next step."""
        self._commands.put(look)

    def wake(self) -> None:
        """Ends a `wait`."""
        self._commands.put(_WakeUp())

    def wait(self) -> None:
        """Waits for a command, which stays in the inbox. Only the thread that drains it may call this."""
        if not self._taken:
            self._taken.append(self._commands.get())

    def clear(self) -> None:
        """Forgets what was asked."""
        for _ in self.take():
            pass

    def take(self) -> Iterator[Command]:
        """Yields and forgets what was asked, oldest first."""
        while self._taken:
            yield self._taken.popleft()
        try:
            while True:
                yield self._commands.get_nowait()
        except Empty:
            return
