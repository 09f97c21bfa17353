"""How many threads compute a step: as configured, but never more than there are CPUs."""

from __future__ import annotations


def choose_num_threads(wanted: int | None, num_cpus: int, notices: list[str]) -> int:
    """The number of threads; more than there are CPUs would only wait for each other.

    Args:
        wanted: As configured; None takes all CPUs.
        num_cpus: CPUs that this process may use.
        notices: A sentence is added if not all that are wanted can be had.

    Returns:
        1 to `num_cpus`.
    """
    if wanted is None:
        return num_cpus
    if wanted > num_cpus:
        notices.append(
            f"num_threads is {wanted}, but this process may use only {num_cpus} CPUs: a step has "
            f"{num_cpus} threads."
        )
    return min(wanted, num_cpus)
