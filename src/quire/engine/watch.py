"""What a step did, as a value: `EngineCore.watcher` is called with one after every step."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from quire.engine.step_sampler import StepTokens
from quire.kv.events import LogEvent
from quire.sched.plan import StepPlan


class StepRecord(NamedTuple):
    """A step's plan, what it drew, and what happened since the record before: events of the pool, and requests that ended.

    `began_s` and `ended_s` are the core's clock around the step. With `drawn.failures` the plan was abandoned. A step that an
    interrupt ends has no record: its events, and that it was abandoned, are in the next one.
    """

    plan: StepPlan
    drawn: StepTokens
    events: tuple[LogEvent, ...]
    ended: tuple[str, ...]
    began_s: float
    ended_s: float


StepWatcher = Callable[[StepRecord], None]
"""Called between steps, so it may look at the engine. One that raises is not called again."""
