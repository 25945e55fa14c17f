"""Uploads of accepted jobs, kept on disk until the job is over, so that they survive a crash."""

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

# Nobody's job waits for so long: uploads of this age, of whichever table, are forgotten ones.
ABANDONED_SECONDS = 30 * 86400.0


def spool_prefix(table_id: str) -> str:
    """Return how the names of all uploads begin that a jobs table has."""
    return f"{table_id}-"


def make_spool_name(table_id: str) -> str:
    """Return a name of its own for an upload, so that removing one harms no other."""
    return spool_prefix(table_id) + secrets.token_hex(16)


def read_identity(path: Path) -> str:
    """Return what a file says that a folder is called, which is chosen once.

    Raises
    ------
    OSError
        It cannot be read, or not be written when it is needed first.
    """
    try:
        return path.read_text()
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    try:
        temporary.write_text(secrets.token_hex(16))
        # Another process may have been faster: its name holds, and is whole.
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path.read_text()


class Spool(Protocol):
    """Where uploads are kept, each under a name of its own.

    Attributes
    ----------
    place : tells an operator where that is
    """

    @property
    def place(self) -> str:
        """Return it."""

    def identity(self) -> str:
        """Return what all who can read these uploads call the spool, and nobody else.

        Raises
        ------
        OSError, StoreDown
            It cannot be told now.
        """

    def store(self, upload: BinaryIO, table_id: str) -> str:
        """Keep an upload, and return its name; from then on it survives a crash.

        Parameters
        ----------
        table_id : of the jobs table; others may have their uploads beside it

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

    @property
    def place(self) -> str:
        """Return the folder."""
        return str(self.folder)

    def identity(self) -> str:
        """Return what a file beside the folder says."""
        return read_identity(self.folder.with_name(f"{self.folder.name}.id"))

    def store(self, upload: BinaryIO, table_id: str) -> str:
        """Keep an upload; it is on the disk when this returns."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / make_spool_name(table_id)
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
