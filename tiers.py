"""Results and uploads where machines share a store: what was used here is in a local folder."""

import contextlib
import logging
import math
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

from errors import StoreDown
from remote_store import RemoteStore
from result_cache import (
    MAX_REMEMBERED,
    PayloadFile,
    ResultCache,
    StoredResult,
    hash_file,
    read_note,
)
from spool import FolderSpool, Spool, make_spool_name, read_identity

# The store is asked for forgotten uploads this often. They are old by its clock, which may differ
# from ours, and keeping one for a while costs little.
SPOOL_SWEEP_SECONDS = 300.0
SPOOL_GRACE_SECONDS = 3600.0
# What was removed from the store is not served from a folder for longer than this.
CONFIRM_SECONDS = 86400.0

logger = logging.getLogger(__name__)


def results_folder(key: str) -> str:
    """Return the folder, in the store, of the results of the upload with this SHA-256."""
    return f"results/{key}"


def result_key(name: str) -> str:
    """Return a result's key in the store."""
    return f"{results_folder(name.partition('.')[0])}/{name}"


def is_whole(path: Path) -> bool:
    """Compare a result's file with the digest in its note."""
    with PayloadFile(path) as file:
        note = read_note(file)
        if note is None:
            return False
        file.payload_end = note.length
        return hash_file(file) == note.sha256


class TieredCache(ResultCache):
    """Results in a shared store; those that were made or asked for here in a folder, too.

    A result is stored when the store has it: no machine promises what the others do not have.
    Methods that must ask the store raise StoreDown where it does not answer.

    Parameters
    ----------
    note_fetched : told the size of each file that was fetched into the folder, in bytes
    """

    def __init__(
        self, folder: Path, remote: RemoteStore, note_fetched: Callable[[int], None]
    ) -> None:
        super().__init__(folder)
        self._remote = remote
        self._note_fetched = note_fetched
        self._confirmed: dict[str, float] = {}

    def open(self, name: str) -> StoredResult | None:
        """Open a result, fetching it where the folder does not have it."""
        stored = super().open(name)
        if stored is not None and not self._is_current(name, stored.modified):
            stored.file.close()
            self.remove(name)
            return None
        if stored is None and self._fetch(name):
            stored = super().open(name)
        return stored

    def _is_current(self, name: str, modified: float) -> bool:
        """Tell whether the store, too, has a result of the folder; asked once a day for each."""
        known = self._confirmed.get(name, modified)
        if time.time() - known < CONFIRM_SECONDS:
            return True
        try:
            is_there = self._remote.contains(result_key(name))
        except StoreDown:
            return True
        if len(self._confirmed) >= MAX_REMEMBERED:
            self._confirmed.clear()
        self._confirmed[name] = time.time()
        return is_there

    def contains(self, name: str) -> bool:
        """Tell whether the folder or the store has a result."""
        return super().contains(name) or self._remote.contains(result_key(name))

    def _publish(self, temporary: Path, name: str) -> None:
        if self._remote.put_new(result_key(name), temporary):
            super()._publish(temporary, name)
        else:
            # Another machine was first, and its bytes may be in somebody's cache.
            self._fetch(name)

    def _fetch(self, name: str) -> bool:
        """Copy a result from the store to the folder; tell whether it is there now."""
        pieces = self._remote.get(result_key(name))
        if pieces is None:
            return False
        try:
            with self._write(pieces) as temporary:
                if not is_whole(temporary):
                    logger.error("removing a result that is damaged in the store: %s", name)
                    self.damaged += 1
                    self._remote.remove([result_key(name)])
                    return False
                super()._publish(temporary, name)
                size_bytes = temporary.stat().st_size
        except OSError as error:
            logger.error("cannot keep a result in %s: %s", self.folder, error.strerror)
            return False
        self._note_fetched(size_bytes)
        return True


def open_tiers(
    folder: Path,
    remote: RemoteStore | None,
    shares_jobs: bool,
    note_fetched: Callable[[int], None],
) -> tuple[ResultCache, Spool]:
    """Return where results and uploads are kept: below a folder, or in a shared store.

    Uploads are in the store only where the machines share their jobs: others would take them for
    forgotten ones.
    """
    spool = FolderSpool(folder / "spool")
    if remote is None:
        return ResultCache(folder), spool
    cache = TieredCache(folder, remote, note_fetched)
    return cache, RemoteSpool(remote) if shares_jobs else spool


class RemoteSpool:
    """Uploads in the shared store, so that any machine can compute them: see `spool.Spool`."""

    def __init__(self, remote: RemoteStore) -> None:
        self._remote = remote
        self._swept = -math.inf

    @staticmethod
    def _key(name: str) -> str:
        return f"spool/{name}"

    @property
    def place(self) -> str:
        """Return the store's URL."""
        return self._remote.url

    def identity(self) -> str:
        """Return the bucket's name, or what a file says in a folder that has many paths."""
        folder = self._remote.folder
        return read_identity(folder / "spool.id") if folder else self._remote.url

    def store(self, upload: BinaryIO, table_id: str) -> str:
        """Keep an upload."""
        name = make_spool_name(table_id)
        self._remote.put(self._key(name), upload)
        return name

    def open(self, name: str) -> BinaryIO | None:
        """Fetch an upload."""
        pieces = self._remote.get(self._key(name))
        if pieces is None:
            return None
        with contextlib.ExitStack() as stack:
            try:
                file = stack.enter_context(tempfile.TemporaryFile())
                file.writelines(pieces)
                file.seek(0)
            except OSError as error:
                raise StoreDown("There is no room for the upload now.") from error
            stack.pop_all()
        return file

    def remove(self, name: str | None) -> None:
        """Remove an upload; where the store does not answer, `old_names` brings it up again."""
        if name is not None:
            with contextlib.suppress(StoreDown):
                self._remote.remove([self._key(name)])

    def old_names(self, age_seconds: float) -> Iterable[str]:
        """Return old uploads, now and then: a listing costs money."""
        if time.monotonic() - self._swept < SPOOL_SWEEP_SECONDS:
            return []
        self._swept = time.monotonic()
        keys = self._remote.list_keys("spool", max(age_seconds, SPOOL_GRACE_SECONDS))
        return [key.rpartition("/")[2] for key in keys]
