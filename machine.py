"""What this process may use of the machine: CPUs and memory, as affinity and cgroups leave them."""

import os
from pathlib import Path

CGROUP_DIR = Path("/sys/fs/cgroup")


def read_words(path: Path) -> list[str]:
    """Return a small kernel file's words; none where it is missing."""
    try:
        return path.read_text(encoding="ascii").split()
    except OSError:
        return []


def count_cpus(cgroup_dir: Path = CGROUP_DIR) -> int:
    """Return how many CPUs this process can keep busy, at least 1.

    The CPU affinity and the CPU bandwidth limit of the cgroup (version 2, then version 1) both
    count: a container limited to two CPUs on a 64-core host gets 2.
    """
    cpus = len(os.sched_getaffinity(0))
    limit = read_words(cgroup_dir / "cpu.max")
    if not limit:
        limit = read_words(cgroup_dir / "cpu" / "cpu.cfs_quota_us")
        limit += read_words(cgroup_dir / "cpu" / "cpu.cfs_period_us")
    if len(limit) == 2 and limit[0] not in {"max", "-1"}:
        quota, period = (int(word) for word in limit)
        cpus = min(cpus, round(quota / period))
    return max(cpus, 1)


def available_memory_bytes(cgroup_dir: Path = CGROUP_DIR) -> int:
    """Return how much memory this process may still take, in bytes."""
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
    for limit_file, usage_file in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        limit = read_words(cgroup_dir / limit_file)
        usage = read_words(cgroup_dir / usage_file)
        if limit and usage and limit[0] != "max":
            available = min(available, int(limit[0]) - int(usage[0]))
    return max(available, 0)
