"""An executor whose steps wait for a test, so that what happens in the middle of them can be looked at."""

from __future__ import annotations

import threading
from typing import Any

from quire.executors.protocol import Executor, StepBatch, StepHandle


class GatedExecutor:
    """Passes everything on to another executor. While `gate` is clear, the next step waits; it waits for 30 s at most."""

    def __init__(self, executor: Executor) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None
        self._executor = executor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)

    def submit(self, batch: StepBatch) -> StepHandle:
        self.gate.wait(30)
        if self.error is not None:
            raise self.error
        return self._executor.submit(batch)
