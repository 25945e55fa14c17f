"""Disk usage of files: whole blocks, some of which must stay free."""

import mmap
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

# Allocation unit of ext4, XFS and tmpfs; even a one-byte file takes as much.
BLOCK_BYTES = 4096
MEGABYTE = 1024**2
MOUNTS = Path("/proc/mounts")
MEMORY_FILE_SYSTEMS = {"tmpfs", "ramfs"}


def bytes_on_disk(status: os.stat_result) -> int:
    """Return a file's size on disk; its length may be far less, or more if it is sparse."""
    return status.st_blocks * 512  # POSIX's unit, whatever the file system's own


def round_to_blocks(length: int) -> int:
    """Return the size on disk of a file of this length."""
    return -(-length // BLOCK_BYTES) * BLOCK_BYTES


def free_bytes(folder: Path) -> float:
    """Return the bytes that an ordinary user can still write below a folder."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return float("inf")


def is_in_memory(folder: Path, mounts: Path = MOUNTS) -> bool:
    """Tell whether a folder's files are kept in memory."""
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return False
    # Of several file systems mounted in one place, the last is the one seen.
    kinds = {Path(line.split()[1]): line.split()[2] for line in lines}
    resolved = folder.resolve()
    nearest = next((each for each in (resolved, *resolved.parents) if each in kinds), None)
    return nearest is not None and kinds[nearest] in MEMORY_FILE_SYSTEMS


def keep_temporary_files_on_disk(folder: Path) -> None:
    """Keep this process's temporary files in a folder, if the system keeps its own in memory.

    Debian 13 and containers mount a tmpfs on /tmp; the uploads of those who wait would fill the
    memory that the service may use.
    """
    with suppress(OSError):  # then they stay where they are
        if is_in_memory(Path(tempfile.gettempdir())) and not is_in_memory(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):  # it can be written
                tempfile.tempdir = str(folder)


def move_to_disk(content: memoryview) -> memoryview:
    """Return the same bytes in a temporary file that is mapped into memory.

    The kernel can take such memory back at any time, and the file vanishes with the last view of
    it. If it cannot be written, the bytes stay where they are.
    """
    try:
        with tempfile.TemporaryFile() as file:
            file.write(content)
            file.flush()
            return memoryview(mmap.mmap(file.fileno(), len(content), prot=mmap.PROT_READ))
    except OSError:
        return content


class DiskSpace:
    """Disk space for files written below a folder; this one is unlimited.

    A writer takes space first, and gives it back once the file is written or removed: from then on
    the disk itself accounts for it.
    """

    def take(self, size_bytes: int, is_result: bool = True) -> None:
        """Reserve space for what is about to be written.

        Raises
        ------
        OSError
            There is no space.
        """

    def give_back(self, size_bytes: int, is_result: bool = True) -> None:
        """Release a reservation."""

    def note_stored(self, size_bytes: int) -> None:
        """Count a stored result."""
