"""Draw the medians of a run as bars, one panel a figure.

Runs in an environment of its own, the only one that has matplotlib; cwd is this folder.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot
from matplotlib.axes import Axes

from figures import Figures, Metric

COLUMNS = 4
PANEL_INCHES = (3.6, 2.6)
TITLE_CHARS = 42
"""As many as a panel is wide."""

Style = Callable[[str], tuple[str, float]]
"""Colour and opacity of a candidate's bars."""


def draw(figures: Figures, metrics: Sequence[Metric], style: Style, path: Path) -> None:
    """Write the plot.

    Args:
        figures: What was measured.
        metrics: One panel each.
        style: Tells the candidates apart.
        path: Of the PNG file.
    """
    mpl.use("Agg")
    num_rows = math.ceil(len(metrics) / COLUMNS)
    size = (COLUMNS * PANEL_INCHES[0], num_rows * PANEL_INCHES[1])
    figure, axes = pyplot.subplots(
        num_rows, COLUMNS, figsize=size, squeeze=False, layout="constrained"
    )
    panels = list(axes.flat)
    for panel, metric in zip(panels, metrics, strict=False):
        _draw_bars(panel, figures, metric, style)
    for panel in panels[len(metrics) :]:
        panel.set_visible(False)
    machine = figures.settings["machine"]
    figure.suptitle(f"{machine['cpu']}, {machine['num_cpus']} CPUs; medians, whiskers: all repeats")
    figure.savefig(path, dpi=110)


def _draw_bars(panel: Axes, figures: Figures, metric: Metric, style: Style) -> None:
    names = [name for name in figures.values if figures.median(name, metric.key) is not None]
    for row, name in enumerate(names):
        values = figures.values[name][metric.key]
        median = figures.median(name, metric.key)
        assert median is not None
        whiskers = [[median - min(values)], [max(values) - median]]
        colour, opacity = style(name)
        panel.barh(row, median, xerr=whiskers, color=colour, alpha=opacity, capsize=2)
    panel.set_yticks(range(len(names)), names, fontsize=6)
    panel.invert_yaxis()
    panel.tick_params(axis="x", labelsize=7)
    panel.locator_params(axis="x", nbins=5)
    panel.ticklabel_format(axis="x", scilimits=(-3, 4))
    panel.xaxis.get_offset_text().set_fontsize(7)
    label = textwrap.fill(metric.label, TITLE_CHARS)
    panel.set_title(f"{label}\n{metric.unit}, {metric.better.value} is better", fontsize=7)
