"""What follows from the figures of a run: ratios and a table.

A ratio is this server's median over the best peer's, so more is better for tokens a second and
less is better for times and memory. Two comparisons are made: among the candidates with 16-bit
weights, and between the best precisions that each product offers for that figure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from figures import Figures, Metric, figure_cell, markdown_table, quotient, ratio_cell
from peers.candidates import OURS, SIXTEEN_BIT
from peers.metrics import METRICS


@dataclass(slots=True)
class Results(Figures):
    """The figures of a whole run; see Figures for its fields."""

    def metrics(self) -> list[Metric]:
        """Those for which anything was measured, in the table's order."""
        return self.measured(METRICS)

    def ratio(self, metric: Metric, candidates: Iterable[str]) -> float | None:
        """The best of this server's candidates over the best of the peers'.

        Args:
            metric: The figure.
            candidates: Names; both sides are chosen from these.

        Returns:
            None if one side has no figure.
        """
        names = list(candidates)
        ours = self.best(metric, (name for name in names if product(name) == OURS))
        peers = self.best(metric, (name for name in names if product(name) != OURS))
        return quotient(ours, peers)

    def table(self) -> str:
        """All medians and the ratios, as Markdown."""
        names = list(self.values)
        sixteen_bit = [name for name in names if precision(name) in SIXTEEN_BIT]
        rows = []
        for metric in self.metrics():
            medians = [self.median(name, metric.key) for name in names]
            ratios = [self.ratio(metric, sixteen_bit), self.ratio(metric, names)]
            rows.append([metric.title, *map(figure_cell, medians), *map(ratio_cell, ratios)])
        return markdown_table(["", *names, "16-bit: to best peer", "best: to best peer"], rows)


def product(candidate: str) -> str:
    """The part of a candidate's name that says which server."""
    return candidate.partition(":")[0]


def precision(candidate: str) -> str:
    """The part of a candidate's name that says how it computes."""
    return candidate.partition(":")[2]
