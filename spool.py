"""Uploads of accepted jobs, kept on disk until the job is over, so that they survive a crash."""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

TEMPORARY_PREFIX = ".writing-"


class Spool:
    """A folder of uploads, one a job, named like the job's result."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def store(self, name: str, upload: BinaryIO) -> None:
        """Keep an upload; it is on the disk when this returns.

        Raises
        ------
        OSError
            The folder cannot be written; nothing is left behind.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, dir=self.folder)
        try:
            upload.seek(0)
            with os.fdopen(descriptor, "wb") as file:
                shutil.copyfileobj(upload, file)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(self.folder / name)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    def open(self, name: str) -> BinaryIO | None:
        """Open a job's upload; None where it is gone."""
        with contextlib.suppress(OSError):
            return (self.folder / name).open("rb")
        return None

    def remove(self, name: str) -> None:
        """Remove a job's upload, if it is there."""
        with contextlib.suppress(OSError):
            (self.folder / name).unlink(missing_ok=True)

    def old_names(self, age_seconds: float) -> Iterator[str]:
        """Yield the names of files that were written longer ago, unfinished ones too."""
        with contextlib.suppress(OSError), os.scandir(self.folder) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    if time.time() - entry.stat().st_mtime > age_seconds:
                        yield entry.name
