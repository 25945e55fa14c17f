"""A memory cgroup for the service under test, version 1 or 2, whichever the machine has."""

import os
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from superres.machine import CGROUP_DIR, read_words
from testkit.waiting import WAIT_SECONDS


@dataclass(frozen=True)
class Files:
    """A cgroup version's names of a group's files."""

    limit: str
    swap_limit: str
    events: str
    held: tuple[str, str]


VERSION_1 = Files(
    "memory.limit_in_bytes",
    "memory.memsw.limit_in_bytes",
    "memory.oom_control",
    ("total_rss", "total_shmem"),
)
VERSION_2 = Files("memory.max", "memory.swap.max", "memory.events", ("anon", "shmem"))


@dataclass(frozen=True)
class MemoryCgroup:
    """A group with a limit.

    Attributes
    ----------
    folder : the group's folder
    files : names of its files
    """

    folder: Path
    files: Files

    def wrap(self, command: Sequence[str]) -> tuple[str, ...]:
        """Return a command that runs another inside the group, with the same process ID."""
        enter = f"echo $$ > {shlex.quote(str(self.folder / 'cgroup.procs'))}"
        return ("sh", "-c", f'{enter} && exec "$@"', "sh", *command)

    @property
    def used_bytes(self) -> int:
        """Bytes that its processes hold, including shared memory but not the page cache."""
        words = read_words(self.folder / "memory.stat")
        stat = dict(zip(words[::2], map(int, words[1::2]), strict=True))
        return sum(stat.get(name, 0) for name in self.files.held)

    @property
    def kills(self) -> int:
        """How many of its processes the OOM killer has killed."""
        words = read_words(self.folder / self.files.events)
        return int(words[words.index("oom_kill") + 1])


@contextmanager
def make_memory_cgroup(limit_bytes: int) -> Iterator[MemoryCgroup | None]:
    """Create a group, and remove it when the block ends; None if that is not possible here."""
    is_version_1 = (CGROUP_DIR / "memory" / VERSION_1.limit).exists()
    files = VERSION_1 if is_version_1 else VERSION_2
    top = CGROUP_DIR / "memory" if is_version_1 else CGROUP_DIR
    group = MemoryCgroup(top / f"super-resolution-test-{os.getpid()}-{time.time_ns()}", files)
    try:
        group.folder.mkdir()
    except OSError:
        yield None
        return
    try:
        try:
            (group.folder / files.limit).write_text(str(limit_bytes))
            # In version 1, memory and swap together.
            with suppress(OSError):
                swap = limit_bytes if is_version_1 else 0
                (group.folder / files.swap_limit).write_text(str(swap))
            if is_version_1:
                (group.folder / "memory.use_hierarchy").write_text("1")
        except OSError:
            made = None
        else:
            made = group
        yield made
    finally:
        remove(group.folder)


def remove(folder: Path) -> None:
    """Remove a group whose processes are exiting: the kernel empties it shortly after."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            folder.rmdir()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return
