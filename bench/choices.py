"""How a comparison's command takes names, and refuses those that it cannot serve."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar


class Installable(Protocol):
    """A candidate."""

    @property
    def name(self) -> str:
        """As --candidates spells it."""
        ...

    def missing(self) -> Sequence[Path]:
        """The files that are not there."""
        ...


Candidate = TypeVar("Candidate", bound=Installable)


def names(text: str) -> list[str]:
    """Read a comma-separated argument."""
    return text.split(",")


def show(candidates: Iterable[Installable]) -> None:
    """Print the candidates and what they lack."""
    for each in candidates:
        missing = each.missing()
        state = f"lacks {', '.join(map(str, missing))}" if missing else "ready"
        print(f"{each.name:<28} {state}")


def choose(
    wanted: Sequence[str] | None,
    candidates: Mapping[str, Candidate],
    usual: Iterable[Candidate] | None = None,
) -> list[Candidate]:
    """The candidates that were named, or all of the usual ones that are installed.

    Args:
        wanted: Names; None if none were given.
        candidates: All by their names.
        usual: Those to take if none were named; all if None.

    Raises:
        ValueError: A name is unknown, or what it names is not installed.
    """
    if wanted is None:
        return [each for each in usual or candidates.values() if not each.missing()]
    for name in wanted:
        if name not in candidates:
            raise ValueError(f"No candidate {name}: there are {', '.join(candidates)}.")
        if missing := candidates[name].missing():
            raise ValueError(f"{name} lacks {missing[0]}: run bench/peers/setup_peers.py.")
    return [candidates[name] for name in wanted]


def require_scenarios(wanted: Sequence[str], known: Sequence[str]) -> None:
    """Refuse scenarios that there are not.

    Raises:
        ValueError: A name is unknown.
    """
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ValueError(f"No scenario {unknown[0]}: there are {', '.join(known)}.")
