"""The scheduler of a core and the bookkeeping below it, checked while nothing runs, and begun again where it is wrong."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import partial

from quire.errors import IntegrityError, defect, failure_message, is_failure
from quire.request import Request
from quire.sched.scheduler import Scheduler
from quire.units import cdiv

IDLE_CHECK_BLOCKS = 96
"""Blocks that one idle check looks at, in less than 0.2 ms."""

MAX_IDLE_CHECKS = 1000
"""After so many, every block was looked at: of more than 96,000 blocks a check looks at more at a time."""

_log = logging.getLogger("quire")


class Books:
    """Holds `scheduler`, which a failed check replaces by a new one; `errors` tells which checks failed, oldest first."""

    def __init__(self, make_scheduler: Callable[[], Scheduler]) -> None:
        self.scheduler = make_scheduler()
        self.errors: list[IntegrityError] = []
        self.has_failed_plan = False  # since a request ended
        self._make_scheduler = make_scheduler
        self._next_checked = 0  # the block where the next idle check begins

    def check_idle(self) -> None:
        """Without requests every block must be free. An answer waits for this, so it looks at some blocks at a time, in turn."""
        num_blocks = self.scheduler.manager.pool.num_blocks
        first = self._next_checked
        stop = min(first + max(IDLE_CHECK_BLOCKS, cdiv(num_blocks, MAX_IDLE_CHECKS)), num_blocks)
        self._next_checked = 0 if stop == num_blocks else stop
        self._repair_unless(partial(self._require_idle, range(first, stop)))

    def check(self) -> None:
        """Looks at everything, from end to end."""
        self._repair_unless(self.scheduler.manager.check)

    def begin_again(self, error: BaseException, requests: Iterable[Request]) -> None:
        """Starts new books, in which unfinished requests go on; raises an error that is not a failure, such as an interrupt."""
        if not is_failure(error):
            raise error
        self.replace(error)
        for request in requests:
            self.scheduler.resume(request)

    def culprits_of_plan(self, request_ids: Iterable[str]) -> tuple[str, ...]:
        """Returns the requests to end for a plan that failed, of ids oldest first.

        The first time there are none, as the books may be at fault; then it is the newest.
        """
        is_again, self.has_failed_plan = self.has_failed_plan, True
        return tuple(request_ids)[-1:] if is_again else ()

    def replace(self, error: BaseException) -> None:
        """Reports what was found wrong and starts new books. What runs has to be queued in them again."""
        _log.error("The KV cache's bookkeeping was inconsistent and was reset; cached prefixes are lost: %s", error)
        self.errors.append(error if isinstance(error, IntegrityError) else defect(failure_message(error)))
        broken, self.scheduler = self.scheduler, self._make_scheduler()
        self.scheduler.manager.take_place_of(broken.manager)

    def _require_idle(self, blocks: range) -> None:
        self.scheduler.manager.check_idle(blocks)
        if self.scheduler.has_work:
            raise defect("the scheduler has requests left over while nothing runs")

    def _repair_unless(self, check: Callable[[], None]) -> None:
        """Runs a check; if the books are wrong, starts new ones, which is safe while nothing runs."""
        try:
            check()
        except BaseException as error:
            if not is_failure(error):
                raise
            self.replace(error)
