"""Uploads of accepted jobs, kept on disk until the job is over, so that they survive a crash."""

import contextlib
import errno
import os
import secrets
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from disk import MEGABYTE, DiskSpace, bytes_on_disk, round_to_blocks
from errors import Busy, UploadTooLarge

# Nobody takes more of the room than this, so that one client cannot keep all others out.
CLIENT_SHARE = 1 / 4
# Room comes back whenever a job ends, which takes from a second to minutes.
FULL_RETRY_SECONDS = 30
SYNCHRONOUS = "send it without 'Prefer: respond-async'"


def make_spool_name() -> str:
    """Return a name of its own for an upload, so that removing one harms no other."""
    return secrets.token_hex(16)


def measure_length(file: BinaryIO) -> int:
    """Return a file's length, and go to its start."""
    length = file.seek(0, os.SEEK_END)
    file.seek(0)
    return length


@dataclass
class KeptUpload:
    """What is known of an upload in the spool; the client of one found there is not."""

    size_bytes: int
    client: str
    is_whole: bool


class SpoolBudget:
    """Counts what uploads take, up to a bound for all and a share of it for each client.

    Parameters
    ----------
    max_bytes : of all uploads together
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.used_bytes = 0
        self._uploads: dict[str, KeptUpload] = {}
        self._of_client: Counter[str] = Counter()
        self._lock = threading.Lock()

    def take(self, name: str, size_bytes: int, client: str) -> None:
        """Hold room for an upload that is about to be written.

        Raises
        ------
        Busy
            There is none before a job ends.
        UploadTooLarge
            There never is.
        """
        share = int(self.max_bytes * CLIENT_SHARE)
        if size_bytes > share:
            raise UploadTooLarge(
                f"An upload that waits for its job may have {share / MEGABYTE:.0f} MB; "
                f"{SYNCHRONOUS}."
            )
        with self._lock:
            if client and self._of_client[client] + size_bytes > share:
                raise Busy(
                    "Your uploads that wait for their jobs take as much room as one client may "
                    f"have; send it again later, or {SYNCHRONOUS}.",
                    FULL_RETRY_SECONDS,
                )
            if self.used_bytes + size_bytes > self.max_bytes:
                raise full()
            self._add(name, KeptUpload(size_bytes, client, is_whole=False))

    def settle(self, name: str) -> None:
        """Note that an upload is written, and can be found where it is kept."""
        with self._lock:
            if name in self._uploads:
                self._uploads[name].is_whole = True

    def give_back(self, name: str) -> None:
        """Give back the room of an upload that is gone."""
        with self._lock:
            self._drop(name)

    def whole_names(self) -> set[str]:
        """Return the uploads that whoever looks from now on finds, unless they are removed."""
        with self._lock:
            return {name for name, upload in self._uploads.items() if upload.is_whole}

    def recount(self, before: set[str], found: Mapping[str, int]) -> None:
        """Take over what was found, since other processes keep and remove uploads too.

        Parameters
        ----------
        before : `whole_names` from before the search
        found : name of each upload that is there -> its bytes
        """
        with self._lock:
            for name in before - found.keys():
                self._drop(name)
            for name in found.keys() - self._uploads.keys() - before:
                self._add(name, KeptUpload(found[name], client="", is_whole=True))

    def _add(self, name: str, upload: KeptUpload) -> None:
        self._uploads[name] = upload
        self.used_bytes += upload.size_bytes
        self._of_client[upload.client] += upload.size_bytes

    def _drop(self, name: str) -> None:
        upload = self._uploads.pop(name, None)
        if upload is not None:
            self.used_bytes -= upload.size_bytes
            self._of_client[upload.client] -= upload.size_bytes
            if self._of_client[upload.client] <= 0:
                del self._of_client[upload.client]


def full() -> Busy:
    """Make the error of a spool that has no room now."""
    return Busy(
        "There is no room on the disk for more uploads that wait for their jobs; send it again "
        f"later, or {SYNCHRONOUS}.",
        FULL_RETRY_SECONDS,
    )


class Spool(Protocol):
    """Where uploads are kept, each under a name of its own."""

    @property
    def used_bytes(self) -> int:
        """What the uploads take, as far as this process knows."""

    def store(self, upload: BinaryIO, client: str = "") -> str:
        """Keep an upload, and return its name; from then on it survives a crash.

        Parameters
        ----------
        client : whose share of the room it takes; nobody's where it is empty

        Raises
        ------
        OSError, StoreDown, Busy, UploadTooLarge
            It cannot be kept now, or never; nothing is left behind.
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
    """A folder of uploads: see `Spool`.

    Parameters
    ----------
    max_bytes : of the uploads together, on disk
    space : the room on the file system, of which results take some too
    """

    def __init__(self, folder: Path, max_bytes: int, space: DiskSpace) -> None:
        self.folder = folder
        self._budget = SpoolBudget(max_bytes)
        self._space = space
        self._recount()

    @property
    def used_bytes(self) -> int:
        """What the uploads take on the disk."""
        return self._budget.used_bytes

    def store(self, upload: BinaryIO, client: str = "") -> str:
        """Keep an upload; it is on the disk when this returns."""
        self.folder.mkdir(parents=True, exist_ok=True)
        name = make_spool_name()
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
        """Remove an upload, if it is there."""
        if name is not None:
            with contextlib.suppress(OSError):
                (self.folder / name).unlink(missing_ok=True)
                self._budget.give_back(name)

    def old_names(self, age_seconds: float) -> Iterable[str]:
        """Return the names of files that were written longer ago, and count all anew."""
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
