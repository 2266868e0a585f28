"""Draws what the KV cache saves: multiply-adds and seconds of T tokens, with it and without, on logarithmic axes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from quire.bench.kv_cache import Exponents, KVCacheReport, Measured
from quire.errors import ConfigError
from quire.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

IMAGE_FORMATS = ("png", "svg")
_SIZE_INCHES, _DOTS_PER_INCH = (10.0, 4.5), 150
_LEGEND_SHARE = 0.35
_CACHED, _RECOMPUTED = "#0072b2", "#d55e00"  # of Okabe and Ito's palette, distinguishable with color blindness


def require_image_format(path: Path) -> None:
    """Raises ConfigError for a suffix that is neither .png nor .svg."""
    if path.suffix.removeprefix(".").lower() not in IMAGE_FORMATS:
        raise ConfigError(
            "the chart cannot be drawn in this format",
            given=path.name,
            limit=", ".join(IMAGE_FORMATS),
            next_step="Give the chart one of these suffixes.",
        )


def draw_chart(report: KVCacheReport, path: Path) -> None:
    """Writes the chart as PNG or SVG, by the path's suffix.

    Raises ConfigError for another suffix, without matplotlib, and where the file cannot be written.
    """
    require_image_format(path)
    figure = _figure_of(report)
    try:
        with replacing(path) as part:
            figure.savefig(part, format=path.suffix.removeprefix(".").lower(), dpi=_DOTS_PER_INCH)
    except OSError as error:
        raise ConfigError(
            "the chart cannot be written",
            given=f"{path}: {error.strerror or error}",
            next_step="Choose a directory with free space that you may write to.",
        ) from error


def _figure_of(report: KVCacheReport) -> Figure:
    """Returns a figure that is not part of matplotlib's global state."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("the chart cannot be drawn without matplotlib", next_step="Run pip install 'quire[torch]'.") from error
    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    work, seconds = figure.subplots(1, 2)
    _draw_work(work, report)
    _draw_seconds(seconds, report)
    for axes in (work, seconds):
        axes.set_xlabel("tokens generated (T)")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks([pair.tokens for pair in report.totals], [str(pair.tokens) for pair in report.totals])
        axes.grid(visible=True, alpha=0.3)
        bottom, top = axes.get_ylim()
        axes.set_ylim(bottom, top * (top / bottom) ** _LEGEND_SHARE)  # so that no line runs through the legend
        axes.legend(frameon=False, loc="upper left")
    return figure


def _draw_work(axes: Axes, report: KVCacheReport) -> None:
    axes.set_title("multiply-adds in all")
    for name, color, found, exponents in _runs(report):
        _draw_line(axes, report, [each.counts.projections for each in found], (f"{name}: products", exponents.projections, color))
        attention = [each.counts.attention for each in found]
        _draw_line(axes, report, attention, (f"{name}: attention", exponents.attention, color), style="--")


def _draw_seconds(axes: Axes, report: KVCacheReport) -> None:
    axes.set_title("seconds in all")
    for name, color, found, exponents in _runs(report):
        _draw_line(axes, report, [each.seconds for each in found], (name, exponents.seconds, color))


def _runs(report: KVCacheReport) -> tuple[tuple[str, str, list[Measured], Exponents], ...]:
    cached, recomputed = ([getattr(pair, name) for pair in report.totals] for name in ("cached", "recomputed"))
    return (
        ("with the cache", _CACHED, cached, report.exponents_cached),
        ("without", _RECOMPUTED, recomputed, report.exponents_recomputed),
    )


def _draw_line(
    axes: Axes, report: KVCacheReport, values: Sequence[float], line: tuple[str, float, str], style: str = "-"
) -> None:
    """Draws values over the reported lengths; `line` is its name, fitted exponent and color."""
    name, exponent, color = line
    tokens = [pair.tokens for pair in report.totals]
    axes.plot(tokens, values, style, color=color, marker="o", markersize=3, label=f"{name}, T^{exponent:.2f}")
