"""The learning curve: one CSV row per report of the trainer, and the picture drawn from it.

train until step 400       rows 100 200 300 400, checkpoint at 250
interrupted, resumed       rows 100 200 | 300 ...                  steps after the checkpoint are computed again
"""

from __future__ import annotations

import csv
import importlib.util
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, fields
from enum import Enum
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from quire.errors import ConfigError
from quire.values import utf8_fault_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

IMAGE_FORMATS = ("png", "svg", "pdf")
_SMOOTHING_SHARE = 1 / 50  # of all rows
_SIZE_INCHES, _DOTS_PER_INCH = (9.0, 5.0), 150
_BLUE, _ORANGE, _GRAY = "#0072b2", "#d55e00", "#999999"  # Okabe and Ito's palette, distinguishable with color blindness


class TokenAxis(Enum):
    """How the picture spaces the tokens seen; LOGARITHMIC shows the first minutes of a long run."""

    LINEAR = "linear"
    LOGARITHMIC = "log"


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveRow:
    """One report. Losses are in nats per token; `tokens` and `seconds` count from the very first step, across interruptions."""

    step: int
    tokens: int
    train_loss: float
    validation_loss: float | None
    learning_rate: float
    tokens_per_second: float
    seconds: float


COLUMNS = tuple(field.name for field in fields(CurveRow))


class LearningCurve:
    """A CSV file that grows by one row at a time; a row is in the file when `append` returns."""

    __slots__ = ("_path",)

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def begin(cls, path: Path) -> LearningCurve:
        """Returns an empty curve; replaces a file of that name. Raises ConfigError if it cannot be written."""
        return cls._holding(path, ())

    @classmethod
    def resume(cls, path: Path, step: int) -> LearningCurve:
        """Returns the curve as it was after `step`: later rows are dropped, and so is an incomplete last line.

        Without the file the curve begins here. Raises ConfigError if it is not a learning curve or cannot be written.
        """
        return cls._holding(path, (row for row in (read_curve(path) if path.exists() else ()) if row.step <= step))

    def append(self, row: CurveRow) -> None:
        """Adds a row; raises ConfigError if the file cannot be written."""
        try:
            with self._path.open("a", encoding="utf-8", newline="") as file:
                file.write(_line(astuple(row)))
        except OSError as error:
            raise _unwritable(self._path, error) from error

    @classmethod
    def _holding(cls, path: Path, rows: Iterable[CurveRow]) -> LearningCurve:
        text = _line(COLUMNS) + "".join(_line(astuple(row)) for row in rows)
        _replace(path, lambda fresh: fresh.write_text(text, encoding="utf-8", newline=""))
        return cls(path)


def read_curve(path: Path) -> tuple[CurveRow, ...]:
    """Returns the rows of a file, without an incomplete last line; raises ConfigError if it is not a learning curve."""
    try:
        whole_lines = path.read_text(encoding="utf-8").rpartition("\n")[0]
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, getattr(error, "strerror", None) or f"not UTF-8: {utf8_fault_of(path)}") from error
    header, *lines = csv.reader(StringIO(whole_lines)) if whole_lines else ([],)
    if tuple(header) != COLUMNS:
        raise _unreadable(path, f"the first line is {','.join(header)[:80]!r}")
    return tuple(_row(path, line_number, line) for line_number, line in enumerate(lines, start=2))


def can_draw() -> bool:
    """Returns whether matplotlib is installed, without which there is no picture."""
    if importlib.util.find_spec("matplotlib") is None:
        return False
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        return False
    return True


def draw(csv_path: Path, image_path: Path, axis: TokenAxis = TokenAxis.LINEAR) -> None:
    """Draws losses and learning rate over the tokens seen, as PNG, SVG or PDF by the image's suffix.

    Raises ConfigError for another suffix, for a curve without rows, without matplotlib, and if a file cannot be read or
    written.
    """
    image_format = image_path.suffix.removeprefix(".").lower()
    if image_format not in IMAGE_FORMATS:
        raise ConfigError(
            "a learning curve cannot be drawn in this format",
            given=image_path.name,
            limit=", ".join(IMAGE_FORMATS),
            next_step="Give the image one of these suffixes.",
        )
    rows = read_curve(csv_path)
    if not rows:
        raise ConfigError(
            "the learning curve has no rows yet", given=csv_path.name, next_step="Train until the first report, then draw."
        )
    figure = _figure_of(rows, axis)
    _replace(image_path, lambda fresh: figure.savefig(fresh, format=image_format, dpi=_DOTS_PER_INCH))


def _figure_of(rows: Sequence[CurveRow], axis: TokenAxis) -> Figure:
    """Returns a figure that is not part of matplotlib's global state."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import EngFormatter
    except ImportError as error:
        raise ConfigError(
            "the learning curve cannot be drawn without matplotlib", next_step="Run pip install 'quire[torch]'."
        ) from error
    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    losses = figure.subplots()
    rates = losses.twinx()
    _draw_rates(rates, rows)
    _draw_losses(losses, rows)
    losses.set_xscale(axis.value)
    losses.xaxis.set_major_formatter(EngFormatter())
    losses.set_zorder(rates.get_zorder() + 1)  # losses in front of the learning rate
    losses.patch.set_visible(False)
    figure.legend(loc="outside upper center", ncols=4, frameon=False)
    return figure


def smoothed(values: Sequence[float], num_rows: float) -> list[float]:
    """Returns the running mean of each value and its neighbors, whose weight falls by 1/e every `num_rows` rows.

    It looks both ways, so it does not lag behind a falling loss.
    """
    before, after = _running_means(values, num_rows), _running_means(values[::-1], num_rows)[::-1]
    return [(left + right) / 2 for left, right in zip(before, after, strict=True)]


def _running_means(values: Sequence[float], num_rows: float) -> list[float]:
    keep = 1 - 1 / max(num_rows, 1.0)
    means, total, weight = [], 0.0, 0.0
    for value in values:
        total, weight = keep * total + value, keep * weight + 1
        means.append(total / weight)
    return means


def _draw_losses(axes: Axes, rows: Sequence[CurveRow]) -> None:
    tokens, losses = [row.tokens for row in rows], [row.train_loss for row in rows]
    axes.plot(tokens, losses, color=_BLUE, alpha=0.3, linewidth=0.8, label="training loss")
    axes.plot(tokens, smoothed(losses, len(rows) * _SMOOTHING_SHARE), color=_BLUE, label="training loss, smoothed")
    checked = [(row.tokens, row.validation_loss) for row in rows if row.validation_loss is not None]
    if checked:
        axes.plot(*zip(*checked, strict=True), "o", color=_ORANGE, markersize=4, label="validation loss")
    axes.set_xlabel("tokens seen")
    axes.set_ylabel("loss (nats per token)")
    axes.grid(alpha=0.25)


def _draw_rates(axes: Axes, rows: Sequence[CurveRow]) -> None:
    axes.plot([row.tokens for row in rows], [row.learning_rate for row in rows], "--", color=_GRAY, label="learning rate")
    axes.set_ylabel("learning rate")
    axes.set_ylim(bottom=0)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))


def _line(values: Iterable[object]) -> str:
    return ",".join("" if value is None else str(value) for value in values) + "\n"


def _row(path: Path, line_number: int, line: Sequence[str]) -> CurveRow:
    try:
        step, tokens, train_loss, validation_loss, learning_rate, tokens_per_second, seconds = line
        return CurveRow(
            step=int(step),
            tokens=int(tokens),
            train_loss=float(train_loss),
            validation_loss=float(validation_loss) if validation_loss else None,
            learning_rate=float(learning_rate),
            tokens_per_second=float(tokens_per_second),
            seconds=float(seconds),
        )
    except ValueError as error:
        raise _unreadable(path, f"line {line_number} is {','.join(line)[:80]!r}") from error


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a temporary file and renames it to `path`, so that an interruption leaves the old or the new content."""
    fresh = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(fresh)
        os.replace(fresh, path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)


def _unreadable(path: Path, reason: str) -> ConfigError:
    return ConfigError(
        f"{path.name} is not a learning curve",
        given=reason,
        limit=",".join(COLUMNS),
        next_step="Move the file away, or restore it.",
    )


def _unwritable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(
        "the learning curve cannot be written",
        given=f"{path}: {error.strerror or error}",
        next_step="Choose a directory with free space that you may write to.",
    )
