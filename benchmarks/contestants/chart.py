"""The same figures as bars: one small panel per workload and precision, Quire in color."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .results import Results
from .roster import Name, Precision
from .workloads import Workload

_OURS, _THEIRS = "#1f6f8b", "#b8b8b8"
_PANEL_WIDTH, _PANEL_HEIGHT = 3.6, 2.0


def save_chart(results: Results, workloads: Sequence[Workload], path: Path) -> None:
    """Writes the chart; raises ImportError without matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    precisions = [precision for precision in Precision if results.of(precision)] or list(Precision)
    figure = Figure(figsize=(_PANEL_WIDTH * len(precisions), _PANEL_HEIGHT * len(workloads)), layout="constrained")
    panels = figure.subplots(len(workloads), len(precisions), squeeze=False)
    for row, workload in zip(panels, workloads, strict=True):
        for panel, precision in zip(row, precisions, strict=True):
            _draw(panel, results, workload, results.of(precision))
    figure.suptitle("tokens a second, all requests together")
    FigureCanvasAgg(figure).print_png(path)


def _draw(panel: Any, results: Results, workload: Workload, names: Sequence[Name]) -> None:
    measured = [(name, rate) for name in reversed(names) if (rate := results.rate(name, workload)) is not None]
    colors = [_OURS if name.is_ours else _THEIRS for name, _ in measured]
    bars = panel.barh([str(name) for name, _ in measured], [rate for _, rate in measured], color=colors)
    panel.bar_label(bars, fmt="%.0f", padding=2, fontsize=7)
    panel.set_title(workload.name, fontsize=8)
    panel.tick_params(labelsize=7)
    panel.margins(x=0.15)
