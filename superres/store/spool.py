"""The spool: uploads of accepted jobs, kept until the job ends so that they survive a crash."""

import contextlib
import errno
import os
import secrets
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, Protocol

from superres.disk import DiskSpace, bytes_on_disk, round_to_blocks
from superres.store.spool_budget import SpoolBudget, full

# No job waits this long: uploads of this age, of any table, are orphaned.
ABANDONED_SECONDS = 30 * 86400.0


def spool_prefix(table_id: str) -> str:
    """Return the prefix of the names of all uploads of a jobs table."""
    return f"{table_id}-"


def make_spool_name(table_id: str) -> str:
    """Return a unique name for an upload, so that removing one affects no other."""
    return spool_prefix(table_id) + secrets.token_hex(16)


def read_identity(path: Path) -> str:
    """Return the ID in a file, creating the file with a random one if needed.

    Raises
    ------
    OSError
        The file cannot be read, or cannot be created.
    """
    try:
        return path.read_text()
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    try:
        temporary.write_text(secrets.token_hex(16))
        # Another process may have been faster: then its ID, written completely, is used.
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path.read_text()


def measure_length(file: BinaryIO) -> int:
    """Return a file's length, and rewind it."""
    length = file.seek(0, os.SEEK_END)
    file.seek(0)
    return length


class Spool(Protocol):
    """Where uploads are kept, each under a unique name.

    Attributes
    ----------
    place : tells the operator where that is
    """

    @property
    def place(self) -> str:
        """Return the location."""

    @property
    def used_bytes(self) -> int:
        """Bytes that the uploads take, as far as this process knows."""

    def identity(self, is_known: bool) -> str:
        """Return the spool's identity: the same for all processes that can read its uploads.

        Parameters
        ----------
        is_known : whether the jobs table has had its uploads here: if the spool then has no
            identity, it may be an empty mount point

        Raises
        ------
        OSError, StoreDown
            The identity cannot be determined now.
        """

    def store(self, upload: BinaryIO, table_id: str, client: str = "") -> str:
        """Store an upload, and return its name; from then on it survives a crash.

        Parameters
        ----------
        table_id : of the jobs table; other tables may have uploads in the same spool
        client : whose share of the space it takes; nobody's if empty

        Raises
        ------
        OSError, StoreDown, Busy, UploadTooLarge
            It cannot be stored now, or ever; nothing is left behind.
        """

    def open(self, name: str) -> BinaryIO | None:
        """Open an upload; None if it is gone.

        Raises
        ------
        OSError, StoreDown
            It cannot be read now.
        """

    def remove(self, name: str | None) -> None:
        """Remove an upload, if it exists."""

    def old_names(self, age_seconds: float) -> Iterable[str]:
        """Return the names of uploads older than this, including unfinished ones."""


class FolderSpool:
    """A folder of uploads: see `Spool`.

    Parameters
    ----------
    max_bytes : of the uploads together, on disk
    space : accounts for disk space, which results share
    """

    def __init__(self, folder: Path, max_bytes: int, space: DiskSpace) -> None:
        self.folder = folder
        self._budget = SpoolBudget(max_bytes)
        self._space = space
        self._recount()

    @property
    def used_bytes(self) -> int:
        """Disk space that the uploads take."""
        return self._budget.used_bytes

    @property
    def place(self) -> str:
        """Return the folder."""
        return str(self.folder)

    def identity(self, is_known: bool) -> str:
        """Return the ID in a file next to the folder; if deleted, it may be recreated."""
        return read_identity(self.folder.with_name(f"{self.folder.name}.id"))

    def store(self, upload: BinaryIO, table_id: str, client: str = "") -> str:
        """Store an upload; it is on the disk when this returns."""
        self.folder.mkdir(parents=True, exist_ok=True)
        name = make_spool_name(table_id)
        size_bytes = round_to_blocks(measure_length(upload))
        self._budget.take(name, size_bytes, client)
        try:
            self._write(self.folder / name, upload, size_bytes)
        except BaseException:
            with contextlib.suppress(OSError):
                (self.folder / name).unlink(missing_ok=True)
            self._budget.give_back(name)
            raise
        self._budget.settle(name)
        return name

    def _write(self, path: Path, upload: BinaryIO, size_bytes: int) -> None:
        try:
            self._space.take(size_bytes, is_result=False)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise full() from None
            raise
        try:
            with path.open("xb") as file:
                shutil.copyfileobj(upload, file)
                file.flush()
                os.fsync(file.fileno())
        finally:
            self._space.give_back(size_bytes, is_result=False)

    def open(self, name: str) -> BinaryIO | None:
        """Open an upload."""
        try:
            return (self.folder / name).open("rb")
        except FileNotFoundError:
            return None

    def remove(self, name: str | None) -> None:
        """Remove an upload, if it exists."""
        if name is not None:
            with contextlib.suppress(OSError):
                (self.folder / name).unlink(missing_ok=True)
                self._budget.give_back(name)

    def old_names(self, age_seconds: float) -> Iterable[str]:
        """Return the names of files older than this, and recount all."""
        before = time.time() - age_seconds
        return [name for name, status in self._recount().items() if status.st_mtime < before]

    def _recount(self) -> dict[str, os.stat_result]:
        known = self._budget.whole_names()
        found = {}
        try:
            with os.scandir(self.folder) as entries:
                for entry in entries:
                    with contextlib.suppress(OSError):
                        found[entry.name] = entry.stat()
        except FileNotFoundError:
            pass
        except OSError:
            return {}
        self._budget.recount(known, {name: bytes_on_disk(status) for name, status in found.items()})
        return found
