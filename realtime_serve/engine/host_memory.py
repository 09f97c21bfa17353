"""How much memory there is for this process: that of the machine, and of its control group.

A container is told of its limit by a control group only; /proc/meminfo shows it the whole
machine. A group may have two limits, and the lower one counts: above memory.high the kernel
kills nobody, but slows the group down until hardly anything in it moves. Page cache counts as
free, whether it was used lately or not: the kernel drops it before it kills anybody.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import NamedTuple

ROOT = Path("/")


class DeviceMemory(NamedTuple):
    """Memory of the host or of a GPU, as one process sees it.

    Args:
        free_bytes: What can be taken now.
        capacity_bytes: What all processes together can ever have.
        own_bytes: What this process has for itself and shares with no other.
    """

    free_bytes: int
    capacity_bytes: int
    own_bytes: int


class _ControlGroupFiles(NamedTuple):
    """Where one version of control groups keeps its figures."""

    mount: str
    limits: tuple[str, ...]
    usage: str
    reclaimable: frozenset[str]  # keys of memory.stat


_VERSIONS = {
    "": _ControlGroupFiles(
        "sys/fs/cgroup",
        ("memory.high", "memory.max"),
        "memory.current",
        frozenset({"active_file", "inactive_file"}),
    ),
    "memory": _ControlGroupFiles(
        "sys/fs/cgroup/memory",
        ("memory.limit_in_bytes",),
        "memory.usage_in_bytes",
        frozenset({"total_active_file", "total_inactive_file"}),
    ),
}
"""By the controllers that a line of /proc/self/cgroup names: none in version 2."""


def free_memory_bytes(root: Path = ROOT) -> int:
    """Memory that can be taken without swapping or being killed.

    Args:
        root: Where /proc and /sys are.

    Returns:
        The least of what the machine and each limited control group have left.
    """
    groups_free = [_group_free(group, files) for group, files in _groups(root)]
    machine_free = _kib(root / "proc/meminfo", "MemAvailable")
    return max(0, min([machine_free, *(each for each in groups_free if each is not None)]))


def host_memory(root: Path = ROOT) -> DeviceMemory:
    """Measure the memory of this machine, as far as this process may use it.

    Args:
        root: Where /proc and /sys are.

    Returns:
        The least of what the machine and each limited control group have.
    """
    limits = [_limit(group, files) for group, files in _groups(root)]
    capacity = min(
        [_kib(root / "proc/meminfo", "MemTotal"), *(each for each in limits if each is not None)]
    )
    own = _kib(root / "proc/self/status", "RssAnon")
    return DeviceMemory(free_memory_bytes(root), capacity, own)


def _kib(path: Path, key: str) -> int:
    """A figure of /proc, in bytes."""
    (kib,) = [
        line.split()[1] for line in path.read_text().splitlines() if line.startswith(f"{key}:")
    ]
    return int(kib) * 1024


def _groups(root: Path) -> Iterator[tuple[Path, _ControlGroupFiles]]:
    """The control groups that this process is in, with their files' names."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        files = _VERSIONS.get(controllers)
        if files is not None:
            for group in _with_parents(path):
                yield root / files.mount / group, files


def _with_parents(path: str) -> list[PurePath]:
    """A group and all above it; in a container the top of the tree is often its own group."""
    group = PurePath(path.strip("/"))
    return [group, *group.parents]


def _limit(group: Path, files: _ControlGroupFiles) -> int | None:
    """What a group may take; None if it has no limit, or is not to be seen."""
    texts = [line for name in files.limits for line in _lines(group / name)]
    return min((int(text) for text in texts if text != "max"), default=None)


def _group_free(group: Path, files: _ControlGroupFiles) -> int | None:
    """What a group may still take; None as for `_limit`."""
    limit, usage = _limit(group, files), _lines(group / files.usage)
    if limit is None or not usage:
        return None
    return limit - int(usage[0]) + _reclaimable(group, files.reclaimable)


def _reclaimable(group: Path, keys: frozenset[str]) -> int:
    figures = [line.split() for line in _lines(group / "memory.stat")]
    return sum(int(value) for name, value in figures if name in keys)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
