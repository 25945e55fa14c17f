"""CPUs, memory and threads that this process may use, as limited by affinity and cgroups."""

import contextlib
import ctypes
import os
import sys
from pathlib import Path

CGROUP_DIR = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
# From glibc's malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
LARGE_BUFFER_BYTES = 8 * 1024**2


def read_words(path: Path) -> list[str]:
    """Return a small kernel file's words; an empty list if it is missing."""
    try:
        return path.read_text(encoding="ascii").split()
    except OSError:
        return []


def own_cgroups(cgroup_dir: Path, membership: Path, controller: str = "") -> list[Path]:
    """Return the folders of this process's cgroup and its ancestors.

    A container sees its own cgroup at the top; a systemd service has its limits further down.

    Parameters
    ----------
    controller : for version 1, which has a tree for each; empty for version 2
    """
    top = cgroup_dir / controller
    for word in read_words(membership):
        # hierarchy-ID:controller-list:cgroup-path (cgroups(7)); version 2 has no controllers.
        _, _, rest = word.partition(":")
        controllers, _, path = rest.partition(":")
        if controller in controllers.split(",") and path.startswith("/"):
            own = top / path.removeprefix("/")
            # A container may be given its path on the host, which it cannot see.
            if own.is_dir():
                return [own, *(above for above in own.parents if above.is_relative_to(top))]
    return [top]


def count_cpus(cgroup_dir: Path = CGROUP_DIR, membership: Path = MEMBERSHIP) -> int:
    """Return how many CPUs this process can keep busy, at least 1.

    The CPU affinity and the CPU bandwidth limits of the cgroups both count: a container limited to
    two CPUs on a 64-core host gets 2.
    """
    cpus = len(os.sched_getaffinity(0))
    limits = [read_words(folder / "cpu.max") for folder in own_cgroups(cgroup_dir, membership)]
    limits += [
        read_words(folder / "cpu.cfs_quota_us") + read_words(folder / "cpu.cfs_period_us")
        for folder in own_cgroups(cgroup_dir, membership, "cpu")
    ]
    for limit in limits:
        if len(limit) == 2 and limit[0] not in {"max", "-1"}:
            quota, period = (int(word) for word in limit)
            cpus = min(cpus, round(quota / period))
    return max(cpus, 1)


def most_tasks(cgroup_dir: Path = CGROUP_DIR, membership: Path = MEMBERSHIP) -> int:
    """Return how many threads and processes the cgroups allow this process and its children."""
    limits = [
        read_words(folder / "pids.max")
        for controller in ("", "pids")
        for folder in own_cgroups(cgroup_dir, membership, controller)
    ]
    return min(
        (int(limit[0]) for limit in limits if limit and limit[0] != "max"), default=sys.maxsize
    )


def available_memory_bytes(cgroup_dir: Path = CGROUP_DIR, membership: Path = MEMBERSHIP) -> int:
    """Return how much memory this process may still take, in bytes."""
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
    groups = [
        (folder, "memory.max", "memory.current") for folder in own_cgroups(cgroup_dir, membership)
    ]
    groups += [
        (folder, "memory.limit_in_bytes", "memory.usage_in_bytes")
        for folder in own_cgroups(cgroup_dir, membership, "memory")
    ]
    for folder, limit_file, usage_file in groups:
        limit, usage = read_words(folder / limit_file), read_words(folder / usage_file)
        if limit and usage and limit[0] != "max":
            used = int(usage[0]) - reclaimable_bytes(folder / "memory.stat")
            available = min(available, int(limit[0]) - used)
    return max(available, 0)


def reclaimable_bytes(stat_file: Path) -> int:
    """Return how much of a cgroup's memory is page cache that no process has mapped.

    The kernel counts it as used, but reclaims it when memory is needed.
    """
    words = read_words(stat_file)
    stat = {name: int(value) for name, value in zip(words[::2], words[1::2], strict=False)}
    # Version 1 has separate names for the totals that include a group's descendants.
    files = (
        stat.get(f"total_{name}", stat.get(name, 0)) for name in ("inactive_file", "active_file")
    )
    mapped = stat.get("total_mapped_file", stat.get("file_mapped", 0))
    return max(sum(files) - mapped, 0)


def return_free_memory() -> None:
    """Make the C library return the free memory in its heaps, which each thread may have.

    It keeps up to twice `LARGE_BUFFER_BYTES` in each: after an hour of many concurrent images,
    some 80 MB in all (`tests/hostile_load.py`).
    """
    with contextlib.suppress(AttributeError, OSError):  # other C libraries do not have it
        ctypes.CDLL(None).malloc_trim(0)


def return_large_buffers() -> None:
    """Make the C library return images' memory to the system as soon as it is freed.

    With each large buffer that is freed, glibc raises the size up to which it keeps them, in a heap
    for each of several threads. Half an hour of mixed load then took 480 MB, and more each minute
    (`bench/soak.py`). A tile's buffers are smaller than this threshold, and are kept: returning and
    reallocating them for each tile would cost a third of the time (measured).
    """
    with contextlib.suppress(AttributeError, OSError):  # other C libraries do not have it
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, LARGE_BUFFER_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, 2 * LARGE_BUFFER_BYTES)
