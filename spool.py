"""Uploads of accepted jobs, kept on disk until the job is over, so that they survive a crash."""

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol


def make_spool_name() -> str:
    """Return a name of its own for an upload, so that removing one harms no other."""
    return secrets.token_hex(16)


class Spool(Protocol):
    """Where uploads are kept, each under a name of its own."""

    def store(self, upload: BinaryIO) -> str:
        """Keep an upload, and return its name; from then on it survives a crash.

        Raises
        ------
        OSError, StoreDown
            It cannot be kept now; nothing is left behind.
        """

    def open(self, name: str) -> BinaryIO | None:
        """Open an upload; None where it is gone.

        Raises
        ------
        OSError, StoreDown
            It is there, and cannot be read now.
        """

    def remove(self, name: str | None) -> None:
        """Remove an upload, if it is there."""

    def old_names(self, age_seconds: float) -> Iterable[str]:
        """Return the names of uploads that were kept longer ago, unfinished ones too."""


class FolderSpool:
    """A folder of uploads: see `Spool`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def store(self, upload: BinaryIO) -> str:
        """Keep an upload; it is on the disk when this returns."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / make_spool_name()
        try:
            upload.seek(0)
            with path.open("xb") as file:
                shutil.copyfileobj(upload, file)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return path.name

    def open(self, name: str) -> BinaryIO | None:
        """Open an upload."""
        try:
            return (self.folder / name).open("rb")
        except FileNotFoundError:
            return None

    def remove(self, name: str | None) -> None:
        """Remove an upload, if it is there."""
        if name is not None:
            with contextlib.suppress(OSError):
                (self.folder / name).unlink(missing_ok=True)

    def old_names(self, age_seconds: float) -> Iterator[str]:
        """Yield the names of files that were written longer ago."""
        with contextlib.suppress(OSError), os.scandir(self.folder) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    if time.time() - entry.stat().st_mtime > age_seconds:
                        yield entry.name
