"""Progress of a training run: step, loss, learning rate, tokens/s, MFU and time left; plain lines without a terminal."""

from __future__ import annotations

import math
import time
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from quire.cli.display import err_console
from quire.train.loop import StepReport
from quire.units import format_rate

_SMOOTHING = 0.05
_SECONDS_BETWEEN_LINES = 60.0


class TrainProgress:
    """Shows reports on standard error: a bar on a terminal, otherwise one line per minute and one per validation."""

    def __init__(self, first_step: int, num_steps: int, peak_flops: float) -> None:
        self._console = err_console()
        self._peak_flops = peak_flops
        self._loss: float | None = None
        self._shown_at = -math.inf
        columns = (BarColumn(bar_width=30), TextColumn("{task.description}"), TimeRemainingColumn())
        self._bar = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._task = self._bar.add_task("starting", total=num_steps, completed=first_step)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    def note(self, message: str) -> None:
        """Prints a line without breaking the bar."""
        self._bar.console.print(message, style="dim")

    def show(self, report: StepReport) -> None:
        """Takes one finished step."""
        self._loss = report.loss if self._loss is None else self._loss + _SMOOTHING * (report.loss - self._loss)
        words = self._words(report)
        self._bar.update(self._task, completed=report.step, description=words)
        if report.validation_loss is not None:
            self.note(f"step {report.step}: validation loss {report.validation_loss:.4f}")
        is_due = time.monotonic() - self._shown_at > _SECONDS_BETWEEN_LINES or report.step == report.num_steps
        if is_due and not self._console.is_terminal:
            self._shown_at = time.monotonic()
            self.note(words)

    def _words(self, report: StepReport) -> str:
        mfu = report.flops / (report.seconds_of_step * self._peak_flops)
        return (
            f"{report.step}/{report.num_steps}  loss {self._loss:.4f}  rate {report.learning_rate:.1e}  "
            f"{format_rate(report.tokens_per_second, 'tokens')}  MFU {mfu:.0%}"
        )
