"""Prints results: plain tables, one line per error, a bar while a model loads. Color only on a terminal.

rich is imported when something is shown: an answer that is piped elsewhere starts without it.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

PIPED_WIDTH = 200
"""Columns without a terminal: wide enough that no path is broken in the middle."""

BAR_DELAY_S = 0.3
"""A model that loads faster needs no bar."""

LoadReport = Callable[[int, int], None]


def out_console() -> Console:
    """Returns a console on standard output."""
    return _console(is_error=False)


def err_console() -> Console:
    """Returns a console on standard error."""
    return _console(is_error=True)


def _console(*, is_error: bool) -> Console:
    from rich.console import Console

    stream = sys.stderr if is_error else sys.stdout
    width = None if stream.isatty() else PIPED_WIDTH
    return Console(file=stream, width=width, highlight=False, emoji=False, markup=False)


def show_error(message: str) -> None:
    """Prints `error: ...` in red on standard error, as one line of any length."""
    from rich.text import Text

    err_console().print(Text(f"error: {one_line(message)}", style="red"), soft_wrap=True)


def show_note(message: str) -> None:
    """Prints a dim line on standard error."""
    from rich.text import Text

    err_console().print(Text(one_line(message), style="dim"), soft_wrap=True)


def one_line(text: str) -> str:
    """Returns the text with line breaks as spaces and other control characters as escapes, safe for a terminal."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in " ".join(text.splitlines()))


def print_json(value: object) -> None:
    """Prints one JSON value on one line of standard output; infinities and NaN, which JSON lacks, are null."""
    sys.stdout.write(json.dumps(_without_infinities(value), ensure_ascii=False, allow_nan=False) + "\n")
    sys.stdout.flush()


def _without_infinities(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _without_infinities(each) for key, each in value.items()}
    return [_without_infinities(each) for each in value] if isinstance(value, (list, tuple)) else value


def facts(title: str, rows: Mapping[str, str]) -> Table:
    """Returns a table of names and values under a title."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", title_style="bold", box=None, show_header=False, padding=(0, 2, 0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, Text(value))
    return table


def listing(title: str, headers: Iterable[str], rows: Iterable[Iterable[str]]) -> Table:
    """Returns a table with a header line under a title; headers that end with `>` head right-aligned numbers."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False)
    for header in headers:
        name, is_number = header.removesuffix(">"), header.endswith(">")
        table.add_column(name, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


@contextmanager
def loading_bar(label: str) -> Iterator[LoadReport | None]:
    """Shows a bar on standard error while the body loads a model, unless that is quick; yields None if that is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    report: LoadReport | None = None
    started = time.perf_counter()
    with ExitStack() as shown:

        def note(done: int, total: int) -> None:
            nonlocal report
            if report is None and time.perf_counter() - started >= BAR_DELAY_S:
                report = shown.enter_context(_bar(label))
            if report is not None:
                report(done, total)

        yield note


@contextmanager
def _bar(label: str) -> Iterator[LoadReport]:
    """Shows a bar on standard error, and clears it in the end."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    columns = (TextColumn("{task.description}", style="dim"), BarColumn(bar_width=30), TaskProgressColumn())
    with Progress(*columns, console=err_console(), transient=True) as progress:
        task = progress.add_task(one_line(label), total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
