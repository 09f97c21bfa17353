"""What a comparison of servers brought: values by candidate and figure, one a repeat.

bench/peers and bench/streaming say which figures there are and what is compared with what; how
medians are taken, files written and cells formatted is the same for both, and stands here.
"""

from __future__ import annotations

import enum
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self


class Better(enum.Enum):
    """Which of two values of a figure is the better one."""

    HIGHER = "higher"
    LOWER = "lower"


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure.

    Args:
        key: In JSON, as scenarios name it.
        label: In tables and plots.
        unit: Of its values.
        better: Which value is the better one.
    """

    key: str
    label: str
    unit: str
    better: Better

    @property
    def title(self) -> str:
        """What stands before its values in a table."""
        return f"{self.label}, {self.unit} ({self.better.value} is better)"


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
class Figures:
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
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """Read back what as_json gave."""
        return cls(**fields)

    def median(self, candidate: str, key: str) -> float | None:
        """The median of one figure; None if there is none."""
        values = self.values.get(candidate, {}).get(key)
        return statistics.median(values) if values else None

    def best(self, metric: Metric, candidates: Iterable[str]) -> float | None:
        """The best median of some candidates; None if none of them has the figure."""
        medians = [self.median(name, metric.key) for name in candidates]
        present = [value for value in medians if value is not None]
        best = max if metric.better is Better.HIGHER else min
        return best(present) if present else None

    def measured(self, metrics: Mapping[str, Metric]) -> list[Metric]:
        """Those of the metrics for which anything was measured, in their order."""
        return [
            metric
            for key, metric in metrics.items()
            if any(key in values for values in self.values.values())
        ]

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


def quotient(ours: float | None, theirs: float | None) -> float | None:
    """One figure over another; None if one of them is missing, or the divisor is 0."""
    return ours / theirs if ours is not None and theirs else None


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are figures."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def figure_cell(value: float | None) -> str:
    """A figure in a table."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def ratio_cell(value: float | None) -> str:
    """A quotient in a table."""
    return "-" if value is None else f"{value:.2f}"
