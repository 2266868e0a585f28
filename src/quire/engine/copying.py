"""The copies of a step: tokens that a request reuses in a block of its own. They come before anything that the step writes."""

from __future__ import annotations

from quire.errors import failure_message, is_failure
from quire.executors.protocol import Executor
from quire.sched.plan import StepPlan


def run_copies(plan: StepPlan, executor: Executor) -> dict[str, str]:
    """Makes the copies of a plan in their order. Returns the request whose copy failed, with the reason; the rest is not made."""
    for copy in plan.copies:
        try:
            if copy.is_own_tile:
                executor.copy_own_tile(copy.source, copy.target)
            else:
                executor.copy_block(copy.source, copy.target)
        except BaseException as error:
            if not is_failure(error):
                raise
            return {copy.request_id: failure_message(error)}
    return {}
