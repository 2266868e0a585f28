"""The bar of `generate(..., use_tqdm=True)`: requests answered, time, and tokens per second, on standard error."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from quire.request import RequestOutput
from quire.units import format_rate

if TYPE_CHECKING:
    from rich.progress import Progress


class AnswerProgress:
    """Counts answered requests; draws nothing unless it is shown. Where there is no terminal the last state is printed once."""

    def __init__(self, num_requests: int, *, is_shown: bool) -> None:
        self._num_tokens = 0
        self._began_s = time.perf_counter()
        self._bar = _bar() if is_shown else None
        self._task = None if self._bar is None else self._bar.add_task("", total=num_requests)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def note(self, output: RequestOutput) -> None:
        """Counts a request that has ended, and the tokens of its answers."""
        if self._bar is None or self._task is None:
            return
        self._num_tokens += sum(len(completion.token_ids) for completion in output.outputs)
        per_second = self._num_tokens / max(time.perf_counter() - self._began_s, 1e-9)
        self._bar.update(self._task, advance=1, description=format_rate(per_second, "tokens"))


def _bar() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("Answering"), BarColumn(bar_width=30), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TextColumn("{task.description}"), console=Console(stderr=True))
