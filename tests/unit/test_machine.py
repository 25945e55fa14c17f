import os
import subprocess
import sys
from pathlib import Path

import pytest

from superres import machine
from superres.paths import PROJECT_DIR


def write_files(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({}, 64),
        ({"cpu.max": "max 100000\n"}, 64),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "12800000 100000\n"}, 64),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
    ],
)
def test_cpus_are_those_that_affinity_and_cgroup_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cpus: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(64)))
    write_files(tmp_path, files)
    assert machine.count_cpus(tmp_path) == cpus


@pytest.mark.parametrize(
    "files",
    [
        {"memory.max": "1000000\n", "memory.current": "400000\n"},
        {
            "memory/memory.limit_in_bytes": "1000000\n",
            "memory/memory.usage_in_bytes": "400000\n",
        },
    ],
)
def test_memory_is_what_the_cgroup_leaves(tmp_path: Path, files: dict[str, str]) -> None:
    write_files(tmp_path, files)
    assert machine.available_memory_bytes(tmp_path) == 600_000


@pytest.mark.parametrize(
    ("files", "tasks"),
    [
        ({}, sys.maxsize),
        ({"pids.max": "max\n"}, sys.maxsize),
        ({"pids.max": "512\n"}, 512),
        ({"pids/pids.max": "100\n"}, 100),
    ],
)
def test_threads_are_those_that_the_cgroup_allows(
    tmp_path: Path, files: dict[str, str], tasks: int
) -> None:
    write_files(tmp_path, files)
    assert machine.most_tasks(tmp_path) == tasks


def test_memory_without_a_limit_is_the_machines(tmp_path: Path) -> None:
    write_files(tmp_path, {"memory.max": "max\n", "memory.current": "400000\n"})
    available = machine.available_memory_bytes(tmp_path)
    assert 0 < available <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_limits_of_the_service_and_of_the_slice_around_it_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(64)))
    membership = tmp_path / "membership"
    membership.write_text("1:cpu:/\n0::/web.slice/super-resolution.service\n")
    write_files(
        tmp_path / "cgroup",
        {
            "web.slice/cpu.max": "400000 100000\n",
            "web.slice/super-resolution.service/cpu.max": "max 100000\n",
            "web.slice/super-resolution.service/memory.max": "1000000\n",
            "web.slice/super-resolution.service/memory.current": "400000\n",
        },
    )
    assert machine.count_cpus(tmp_path / "cgroup", membership) == 4
    assert machine.available_memory_bytes(tmp_path / "cgroup", membership) == 600_000


def test_limits_of_version_1_count_in_each_controllers_own_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(64)))
    membership = tmp_path / "membership"
    membership.write_text("4:memory:/web/sr\n2:cpuacct,cpu:/web\n0::/\n")
    write_files(
        tmp_path / "cgroup",
        {
            "cpu/cpu.cfs_quota_us": "-1\n",
            "cpu/cpu.cfs_period_us": "100000\n",
            "cpu/web/cpu.cfs_quota_us": "300000\n",
            "cpu/web/cpu.cfs_period_us": "100000\n",
            "memory/web/memory.limit_in_bytes": "1000000\n",
            "memory/web/memory.usage_in_bytes": "300000\n",
            "memory/web/sr/memory.limit_in_bytes": "9000000\n",
            "memory/web/sr/memory.usage_in_bytes": "200000\n",
        },
    )
    assert machine.count_cpus(tmp_path / "cgroup", membership) == 3
    assert machine.available_memory_bytes(tmp_path / "cgroup", membership) == 700_000


def test_path_that_only_the_host_sees_is_not_looked_for(tmp_path: Path) -> None:
    membership = tmp_path / "membership"
    membership.write_text("4:memory:/docker/0123\n0::/docker/0123\n")
    write_files(
        tmp_path / "cgroup",
        {
            "memory/memory.limit_in_bytes": "1000000\n",
            "memory/memory.usage_in_bytes": "400000\n",
        },
    )
    assert machine.available_memory_bytes(tmp_path / "cgroup", membership) == 600_000


MIXED_BUFFERS = """
import sys
import numpy as np
from superres.machine import return_large_buffers
if sys.argv[1] == "call":
    return_large_buffers()
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
np.ones(30_000_000, np.uint8)  # when it is freed, glibc keeps buffers up to its size
before = resident()
small = []
for _ in range(10):
    large = [np.ones(10_000_000, np.uint8) for _ in range(10)]
    small.append(np.ones(10_000, np.uint8))
    del large
print(resident() - before)
"""


def test_memory_of_large_buffers_goes_back_to_the_system() -> None:
    kept = [
        int(
            subprocess.run(
                [sys.executable, "-c", MIXED_BUFFERS, choice],
                cwd=PROJECT_DIR,
                capture_output=True,
                check=True,
                timeout=60,
            ).stdout
        )
        for choice in ("call", "leave")
    ]
    assert kept[0] < 5_000_000 < kept[1], kept
