"""How much memory this process may still take: what the machine has left, and its control group.

A container is told of its limit by a control group only; /proc/meminfo shows it the whole
machine. Page cache that nobody has used lately counts as free: the kernel drops it first.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import NamedTuple

ROOT = Path("/")


class _ControlGroupFiles(NamedTuple):
    """Where one version of control groups keeps its figures."""

    mount: str
    limit: str
    usage: str
    reclaimable: str  # a key of memory.stat


_VERSIONS = {
    "": _ControlGroupFiles("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    "memory": _ControlGroupFiles(
        "sys/fs/cgroup/memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
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
    return max(0, min([_machine_free(root), *_groups_free(root)]))


def _machine_free(root: Path) -> int:
    lines = (root / "proc/meminfo").read_text().splitlines()
    (kib,) = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(kib) * 1024


def _groups_free(root: Path) -> Iterator[int]:
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        files = _VERSIONS.get(controllers)
        if files is not None:
            for group in _with_parents(path):
                yield from _group_free(root / files.mount / group, files)


def _with_parents(path: str) -> list[PurePath]:
    """A group and all above it; in a container the top of the tree is often its own group."""
    group = PurePath(path.strip("/"))
    return [group, *group.parents]


def _group_free(group: Path, files: _ControlGroupFiles) -> Iterator[int]:
    try:
        limit = (group / files.limit).read_text().strip()
        usage = int((group / files.usage).read_text())
    except OSError:
        return
    if limit != "max":
        yield int(limit) - usage + _reclaimable(group, files.reclaimable)


def _reclaimable(group: Path, key: str) -> int:
    for line in _lines(group / "memory.stat"):
        name, _, value = line.partition(" ")
        if name == key:
            return int(value)
    return 0


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
