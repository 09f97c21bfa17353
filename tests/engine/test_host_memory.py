"""The memory that is left, read from made-up machines."""

from __future__ import annotations

from pathlib import Path

import pytest

from realtime_serve.engine.host_memory import DeviceMemory, free_memory_bytes, host_memory

MACHINE_FREE = 8 * 2**30


def machine(root: Path, files: dict[str, str]) -> Path:
    """Write a machine with 8 of 16 GiB left and some more files."""
    figures = {
        "proc/meminfo": f"MemTotal: {2**24} kB\nMemAvailable:   {MACHINE_FREE // 1024} kB\n",
        "proc/self/status": "Name:\tx\nRssAnon:\t       3 kB\n",
    }
    for name, text in {**figures, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="ascii")
    return root


def group(folder: str, limit: str, usage: int, high: str = "max") -> dict[str, str]:
    """A version 2 group with 100 reclaimable bytes, 40 of which were used lately."""
    return {
        f"{folder}/memory.max": f"{limit}\n",
        f"{folder}/memory.high": f"{high}\n",
        f"{folder}/memory.current": f"{usage}\n",
        f"{folder}/memory.stat": "anon 7\ninactive_file 60\nactive_file 40\n",
    }


def test_without_control_groups_the_machines_memory_counts(tmp_path: Path) -> None:
    assert free_memory_bytes(machine(tmp_path, {})) == MACHINE_FREE


@pytest.mark.parametrize("folder", ["sys/fs/cgroup/a/b", "sys/fs/cgroup/a", "sys/fs/cgroup"])
def test_a_limited_group_leaves_its_limit_less_what_is_used_and_not_reclaimable(
    folder: str, tmp_path: Path
) -> None:
    files = {"proc/self/cgroup": "0::/a/b\n", **group(folder, "5000", 3000)}
    assert free_memory_bytes(machine(tmp_path, files)) == 5000 - 3000 + 100


@pytest.mark.parametrize(("limit", "high"), [("5000", "9000"), ("9000", "5000"), ("max", "5000")])
def test_of_a_groups_two_limits_the_lower_one_counts(limit: str, high: str, tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/a\n", **group("sys/fs/cgroup/a", limit, 3000, high)}
    memory = host_memory(machine(tmp_path, files))
    assert memory.free_bytes == 5000 - 3000 + 100
    assert memory.capacity_bytes == 5000


def test_the_older_version_of_control_groups_is_read_too(tmp_path: Path) -> None:
    folder = "sys/fs/cgroup/memory/job"
    files = {
        "proc/self/cgroup": "9:cpu:/x\n4:memory:/job\n0::/\n",
        f"{folder}/memory.limit_in_bytes": "5000",
        f"{folder}/memory.usage_in_bytes": "3000",
        f"{folder}/memory.stat": "inactive_file 1\ntotal_inactive_file 150\ntotal_active_file 50\n",
    }
    assert free_memory_bytes(machine(tmp_path, files)) == 5000 - 3000 + 200


def test_a_group_without_a_limit_does_not_count(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/a\n", **group("sys/fs/cgroup/a", "max", 3000)}
    assert free_memory_bytes(machine(tmp_path, files)) == MACHINE_FREE


def test_a_group_above_its_limit_has_nothing_left(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/a\n", **group("sys/fs/cgroup/a", "5000", 6000)}
    assert free_memory_bytes(machine(tmp_path, files)) == 0


def test_the_capacity_is_the_machines_or_the_least_limit_whatever_is_used(tmp_path: Path) -> None:
    assert host_memory(machine(tmp_path, {})) == DeviceMemory(MACHINE_FREE, 2**34, 3 * 1024)
    files = {
        "proc/self/cgroup": "0::/a/b\n",
        **group("sys/fs/cgroup/a/b", "max", 10),
        **group("sys/fs/cgroup/a", "5000", 6000),
        **group("sys/fs/cgroup", "7000", 6000),
    }
    assert host_memory(machine(tmp_path, files)) == DeviceMemory(0, 5000, 3 * 1024)


def test_this_machine_has_memory_left() -> None:
    memory = host_memory()
    assert 0 < memory.free_bytes <= memory.capacity_bytes
    assert 0 < memory.own_bytes < memory.capacity_bytes
