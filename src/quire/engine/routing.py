"""Into a core and out of it: what any thread asks waits in the inbox for the next step, and events go to their readers.

any thread        check (RequestError here) -> submit, abort --> inbox
the thread that steps                                            inbox --> core.step() --> router --> readers
any thread        Reader.is_ready, take                                                               readers
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

from quire.engine.completion import RequestGroup
from quire.engine.core import EngineCore
from quire.engine.explaining import find_explanation
from quire.engine.inbox import Abort, Admission, Inbox, Look
from quire.engine.prompts import Submission
from quire.engine.readers import EventRouter, Reader
from quire.errors import QuireError, RequestError, is_failure
from quire.kv.explain import CacheExplanation, Unexplained


class RoutedCore:
    """A core with its inbox and readers: what `LLM` and `AsyncEngine` share. `step` and `end` belong to one thread at a time."""

    def __init__(self, core: EngineCore, owner: str) -> None:
        self.inbox = Inbox()
        self._core: EngineCore | None = core
        self._router = EventRouter()
        self._refusal: QuireError = RequestError(f"this {owner} is closed", next_step="Create another one.")

    @property
    def core(self) -> EngineCore:
        """The core itself; raises the error with which it was ended."""
        core = self._core
        if core is None:
            raise self._end_error()
        return core

    def check(self, submissions: Sequence[Submission]) -> list[RequestGroup]:
        """Returns the groups of submissions, to `submit`; raises RequestError if any of them is refused. For any thread."""
        core = self.core
        return [core.check(submission) for submission in submissions]

    def submit(self, groups: Sequence[RequestGroup], reader: Reader) -> None:
        """Queues checked groups for the next step, and their events for a reader. For any thread."""
        for group in groups:
            self._router.add(group.request_id, reader)
        self.inbox.submit(groups)
        if self._core is None:
            raise self._end_error()

    def leave(self, request_ids: Sequence[str]) -> None:
        """Ends with the next step those of these requests that still run; their reader gets nothing more. For any thread."""
        for request_id in request_ids:
            if self._router.drop(request_id):
                self.inbox.abort(request_id)

    def look(self, look: Look) -> None:
        """Shows the core between two steps, or tells that it has ended. For any thread."""
        self.inbox.look(look)
        if self._core is None:
            raise self._end_error()

    def drain(self) -> None:
        """Does what the inbox asks for, without a step; forgets it once the core was ended."""
        if self._core is None:
            self.inbox.clear()
        else:
            self._obey(self._core)

    def step(self) -> bool:
        """Drains the inbox, computes one step and delivers its events; returns False where there was nothing to compute."""
        core = self.core
        self._obey(core)
        if not core.has_work:
            return False
        for event in core.step():
            if not self._router.deliver(event):
                self.inbox.abort(event.request_id)
        return True

    def explain(self, request_id: str) -> CacheExplanation | Unexplained:
        """Returns what the cache did for a request, or the first completion of one, or why that is not known. For any thread."""
        found = find_explanation(self.core, request_id)
        is_on_its_way = found is Unexplained.UNKNOWN and self._router.has(request_id)
        return Unexplained.WAITING if is_on_its_way else found

    def refuse(self) -> None:
        """Lets go of the core, also in the middle of a step, which is then the last one; later calls raise RequestError."""
        self._core = None

    def end(self, error: QuireError | None = None) -> None:
        """Ends every request and lets go of the core; readers that wait and later calls get `error`, or that it is closed."""
        core, self._refusal = self._core, self._refusal if error is None else error
        self._core = None
        try:
            if core is not None:
                core.close()
        finally:
            self._router.fail_all(self._end_error)
            for command in self.inbox.take():
                if isinstance(command, Look):
                    command.fail(self._end_error())

    def _obey(self, core: EngineCore) -> None:
        """Does what was asked. What the core refuses goes to the reader of that request and disturbs no other."""
        for command in self.inbox.take():
            if isinstance(command, Admission):
                for group in command.groups:
                    self._admit(core, group)
            elif isinstance(command, Abort):
                output = core.abort(command.request_id)
                if output is not None:
                    self._router.deliver(output)
            elif isinstance(command, Look):
                _show(core, command)

    def _admit(self, core: EngineCore, group: RequestGroup) -> None:
        if not self._router.has(group.request_id):
            return  # its reader has left meanwhile
        try:
            core.admit(group)
        except BaseException as error:
            if not is_failure(error):
                raise
            self._router.fail(group.request_id, error)

    def _end_error(self) -> QuireError:
        """Returns a copy for each caller: an exception keeps the traceback of the thread that raises it."""
        return copy.copy(self._refusal)


def _show(core: EngineCore, look: Look) -> None:
    try:
        look.show(core)
    except BaseException as error:
        if not is_failure(error):
            raise
        look.fail(error)
