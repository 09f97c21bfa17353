"""What follows from the figures of a run: ratios to the floor and to the best peer, and a table."""

from __future__ import annotations

from dataclasses import dataclass, field

from figures import Figures, Metric, figure_cell, markdown_table, quotient, ratio_cell
from streaming.candidates import Role
from streaming.scenarios import METRICS
from streaming.session import Session

EXPECTED_EVENT_BYTES = 222
"""Of an event; a server whose events differ does another work."""


@dataclass(slots=True)
class StreamingResults(Figures):
    """The figures of a whole run.

    Args:
        roles: What each candidate is compared as, as a Role's value.
        event_bytes: Mean size of a candidate's events that carry tokens, in its last session.
        busy_clients: "CANDIDATE, SCENARIO" where the client may have been the bottleneck, with the
            highest share of its processor that it used there, in per cent.
    """

    roles: dict[str, str] = field(default_factory=dict)
    event_bytes: dict[str, float] = field(default_factory=dict)
    busy_clients: dict[str, float] = field(default_factory=dict)

    def add_session(self, candidate: str, role: Role, scenario: str, session: Session) -> None:
        """Take in one session."""
        self.add(candidate, session.measured)
        self.roles[candidate] = role.value
        if session.event_bytes is not None:
            self.event_bytes[candidate] = session.event_bytes
        if session.is_client_busy and session.client_percent is not None:
            key = f"{candidate}, {scenario}"
            self.busy_clients[key] = max(self.busy_clients.get(key, 0.0), session.client_percent)

    def forget(self, candidate: str, scenario: str) -> None:
        """Drop what is known of a candidate in a scenario, before it is measured anew."""
        values = self.values.get(candidate, {})
        for key in [key for key in values if key.startswith(f"{scenario}_")]:
            del values[key]
        self.failures.get(candidate, {}).pop(scenario, None)
        self.busy_clients.pop(f"{candidate}, {scenario}", None)

    def metrics(self) -> list[Metric]:
        """Those for which anything was measured, in the table's order."""
        return self.measured(METRICS)

    def ratio(self, metric: Metric, role: Role) -> float | None:
        """This server's median over the best of a role.

        Args:
            metric: The figure.
            role: FLOOR or PEER.

        Returns:
            None if one side has no figure.
        """
        return quotient(
            self.best(metric, self._with_role(Role.OURS)), self.best(metric, self._with_role(role))
        )

    def _with_role(self, role: Role) -> list[str]:
        return [name for name in self.values if self.roles[name] == role.value]

    def table(self) -> str:
        """All medians and the ratios, as Markdown."""
        names = list(self.values)
        rows = []
        for metric in self.metrics():
            medians = [self.median(name, metric.key) for name in names]
            ratios = [self.ratio(metric, role) for role in (Role.FLOOR, Role.PEER)]
            rows.append([metric.title, *map(figure_cell, medians), *map(ratio_cell, ratios)])
        return markdown_table(["", *names, "to the floor", "to best peer"], rows)

    def remarks(self) -> list[str]:
        """What a reader of the table must know."""
        # Not super(): a dataclass with slots is another class than the one that is written here.
        return [
            *Figures.remarks(self),
            *(
                f"Events of {name} have {size:.0f} bytes instead of {EXPECTED_EVENT_BYTES}."
                for name, size in self.event_bytes.items()
                if round(size) != EXPECTED_EVENT_BYTES
            ),
            *(
                f"The client used {percent:.0f} % of its processor: {key}: the server may do more."
                for key, percent in self.busy_clients.items()
            ),
        ]
