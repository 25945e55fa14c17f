"""Disk usage of files: whole blocks, some of which must stay free."""

import os
import shutil
from pathlib import Path

# Allocation unit of ext4, XFS and tmpfs; even a one-byte file takes as much.
BLOCK_BYTES = 4096
MEGABYTE = 1024**2


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
