"""Temporary files: on disk, even where the system keeps its own in memory."""

import mmap
import tempfile
from contextlib import suppress
from pathlib import Path

MOUNTS = Path("/proc/mounts")
MEMORY_FILE_SYSTEMS = {"tmpfs", "ramfs"}


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
