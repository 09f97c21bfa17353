"""Draw the medians of a run as bars, one panel a figure: python -m peers.plot IN.json OUT.png.

Runs in an environment of its own, the only one that has matplotlib; cwd is the folder above.
"""

from __future__ import annotations

import json
import math
import sys
import textwrap
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot
from matplotlib.axes import Axes

from peers.metrics import Metric
from peers.results import Results, product

COLUMNS = 4
PANEL_INCHES = (3.6, 2.6)
COLOURS = {"realtime-serve": "tab:green", "vllm": "tab:orange", "llama.cpp": "tab:blue"}
TITLE_CHARS = 42
"""As many as a panel is wide."""

FAINTEST = 0.45
"""Opacity of a product's last precision; its first one is opaque."""


def draw(results: Results, path: Path) -> None:
    """Write the plot of all figures."""
    mpl.use("Agg")
    metrics = results.metrics()
    num_rows = math.ceil(len(metrics) / COLUMNS)
    size = (COLUMNS * PANEL_INCHES[0], num_rows * PANEL_INCHES[1])
    figure, axes = pyplot.subplots(num_rows, COLUMNS, figsize=size, squeeze=False)
    panels = list(axes.flat)
    for panel, metric in zip(panels, metrics, strict=False):
        _draw_bars(panel, results, metric)
    for panel in panels[len(metrics) :]:
        panel.set_visible(False)
    machine = results.settings["machine"]
    figure.suptitle(f"{machine['cpu']}, {machine['num_cpus']} CPUs; medians, whiskers: all repeats")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def _draw_bars(panel: Axes, results: Results, metric: Metric) -> None:
    names = [name for name in results.values if results.median(name, metric.key) is not None]
    for row, name in enumerate(names):
        values = results.values[name][metric.key]
        median = results.median(name, metric.key)
        assert median is not None
        whiskers = [[median - min(values)], [max(values) - median]]
        panel.barh(
            row,
            median,
            xerr=whiskers,
            color=COLOURS[product(name)],
            alpha=_opacity(name, list(results.values)),
            capsize=2,
        )
    panel.set_yticks(range(len(names)), names, fontsize=6)
    panel.invert_yaxis()
    panel.tick_params(axis="x", labelsize=7)
    label = textwrap.fill(metric.label, TITLE_CHARS)
    panel.set_title(f"{label}\n{metric.unit}, {metric.better.value} is better", fontsize=7)


def _opacity(name: str, names: list[str]) -> float:
    """Tells the precisions of one product apart."""
    same = [each for each in names if product(each) == product(name)]
    step = (1 - FAINTEST) / max(1, len(same) - 1)
    return 1 - step * same.index(name)


def main() -> None:
    """Run the command."""
    source, target = map(Path, sys.argv[1:])
    draw(Results.from_json(json.loads(source.read_text())), target)


if __name__ == "__main__":
    main()
