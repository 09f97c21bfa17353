"""What all sessions brought, and what follows from it: medians, ratios, a table.

A ratio is this server's median over the best peer's, so more is better for tokens a second and
less is better for times and memory. Two comparisons are made: among the candidates with 16-bit
weights, and between the best precisions that each product offers for that figure.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from peers.candidates import OURS, SIXTEEN_BIT
from peers.metrics import METRICS, Better, Metric


@dataclass(slots=True)
class Measured:
    """What one session brought.

    Args:
        values: Figures by metric.
        failures: Why scenarios brought none, by scenario.
    """

    values: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Results:
    """The figures of a whole run.

    Args:
        settings: What was asked for, and of which machine and versions.
        values: Candidate, then metric, then one value a repeat.
        failures: Candidate, then scenario, then reason, of the last repeat that failed.
        load_averages: One-minute load of the machine before each session, in their order.
    """

    settings: dict[str, Any]
    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    failures: dict[str, dict[str, str]] = field(default_factory=dict)
    load_averages: list[float] = field(default_factory=list)

    def add(self, candidate: str, measured: Measured) -> None:
        """Take in one session."""
        values = self.values.setdefault(candidate, {})
        for key, value in measured.values.items():
            values.setdefault(key, []).append(value)
        if measured.failures:
            self.failures.setdefault(candidate, {}).update(measured.failures)

    def as_json(self) -> dict[str, Any]:
        """Everything, for a file."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Results:
        """Read back what as_json gave."""
        return cls(**fields)

    def median(self, candidate: str, key: str) -> float | None:
        """The median of one figure; None if there is none."""
        values = self.values.get(candidate, {}).get(key)
        return statistics.median(values) if values else None

    def metrics(self) -> list[Metric]:
        """Those for which anything was measured, in the table's order."""
        return [
            metric
            for key, metric in METRICS.items()
            if any(key in values for values in self.values.values())
        ]

    def ratio(self, metric: Metric, candidates: Iterable[str]) -> float | None:
        """The best of this server's candidates over the best of the peers'.

        Args:
            metric: The figure.
            candidates: Names; both sides are chosen from these.

        Returns:
            None if one side has no figure.
        """
        names = list(candidates)
        ours = self._best(metric, (name for name in names if product(name) == OURS))
        peers = self._best(metric, (name for name in names if product(name) != OURS))
        return ours / peers if ours is not None and peers else None

    def _best(self, metric: Metric, candidates: Iterable[str]) -> float | None:
        medians = [self.median(name, metric.key) for name in candidates]
        present = [value for value in medians if value is not None]
        best = max if metric.better is Better.HIGHER else min
        return best(present) if present else None

    def table(self) -> str:
        """All medians and the ratios, as Markdown."""
        names = list(self.values)
        sixteen_bit = [name for name in names if precision(name) in SIXTEEN_BIT]
        rows = [
            ["", *names, "16-bit: to best peer", "best: to best peer"],
            ["---", *["---:"] * (len(names) + 2)],
        ]
        for metric in self.metrics():
            figures = [_figure(self.median(name, metric.key)) for name in names]
            ratios = [self.ratio(metric, sixteen_bit), self.ratio(metric, names)]
            label = f"{metric.label}, {metric.unit} ({metric.better.value} is better)"
            rows.append([label, *figures, *map(_ratio, ratios)])
        return "\n".join(map(_row, rows))

    def remarks(self) -> list[str]:
        """What a reader of the table must know."""
        lines = [
            f"Failed: {name}, {scenario}: {reason.splitlines()[0]}"
            for name, failures in self.failures.items()
            for scenario, reason in failures.items()
        ]
        if self.load_averages:
            low, high = min(self.load_averages), max(self.load_averages)
            lines.append(
                f"Load average of the machine before each session: {low:.1f} to {high:.1f}."
            )
        return lines


def product(candidate: str) -> str:
    """The part of a candidate's name that says which server."""
    return candidate.partition(":")[0]


def precision(candidate: str) -> str:
    """The part of a candidate's name that says how it computes."""
    return candidate.partition(":")[2]


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
