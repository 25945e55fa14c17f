"""What files take on a disk: whole blocks, of which some have to stay free."""

import os
import shutil
from pathlib import Path

# What ext4, XFS and tmpfs allocate at a time; a file of one byte takes as much.
BLOCK_BYTES = 4096
MEGABYTE = 1024**2


def bytes_on_disk(status: os.stat_result) -> int:
    """Return what a file takes on the disk; its length may be far less, or more if it has holes."""
    return status.st_blocks * 512  # POSIX's unit, whatever the file system's own


def round_to_blocks(length: int) -> int:
    """Return what a file of this length will take on the disk."""
    return -(-length // BLOCK_BYTES) * BLOCK_BYTES


def free_bytes(folder: Path) -> float:
    """Return the bytes that an ordinary user may still write below a folder."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return float("inf")


class DiskSpace:
    """The room for files that are written below a folder; this one knows no bound.

    Whoever writes takes the room first, and gives it back when the file is written or removed:
    from then on the disk itself tells.
    """

    def take(self, size_bytes: int, is_result: bool = True) -> None:
        """Hold room for what is about to be written.

        Raises
        ------
        OSError
            There is none.
        """

    def give_back(self, size_bytes: int, is_result: bool = True) -> None:
        """Hold it no longer."""

    def note_stored(self, size_bytes: int) -> None:
        """Count a result that was stored."""
