"""Results and uploads in a shared store, with a local folder as a cache of what was used here."""

import contextlib
import logging
import math
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from superres.disk import DiskSpace
from superres.errors import Busy, ResultTooLarge, StoreDown
from superres.settings import Settings
from superres.store.doubts import Doubts
from superres.store.remote_store import RemoteStore, unavailable
from superres.store.result_cache import MAX_REMEMBERED, ResultCache
from superres.store.result_name import hash_file, upload_key
from superres.store.spool import FolderSpool, Spool, make_spool_name, measure_length
from superres.store.spool_budget import CLIENT_SHARE, SpoolBudget
from superres.store.stored_result import PayloadFile, StoredResult, read_info

# The store is searched for orphaned uploads this often. Their age is by its clock, which may differ
# from ours, and keeping one for a while costs little.
SPOOL_SWEEP_SECONDS = 300.0
SPOOL_GRACE_SECONDS = 3600.0
# Other machines free space, too; a spool that seems full is recounted at most this often.
SPOOL_RECOUNT_SECONDS = 5.0
# A result removed from the store is served from a local folder no longer than this.
CONFIRM_SECONDS = 86400.0
# A result that arrives damaged may have been damaged only in transit.
FETCHES = 3

logger = logging.getLogger(__name__)


def results_folder(key: str) -> str:
    """Return the store's folder for results of the upload with this SHA-256."""
    return f"results/{key}"


def result_key(name: str) -> str:
    """Return a result's key in the store."""
    return f"{results_folder(upload_key(name))}/{name}"


def is_whole(path: Path) -> bool:
    """Compare a result's file with the digest in its info."""
    with PayloadFile(path) as file:
        info = read_info(file)
        if info is None:
            return False
        file.payload_end = info.length
        return hash_file(file) == info.sha256


class TieredCache(ResultCache):
    """Results in a shared store; those made or requested here are also in a local folder.

    A result counts as stored once the store has it: no machine promises what others do not have.
    Methods that need the store raise StoreDown if it does not respond.
    """

    def __init__(self, folder: Path, remote: RemoteStore, space: DiskSpace | None = None) -> None:
        super().__init__(folder, space)
        self._remote = remote
        self._confirmed: dict[str, float] = {}
        self._doubts = Doubts()

    def open(self, name: str) -> StoredResult | None:
        """Open a result, fetching it if it is not in the folder."""
        stored = super().open(name)
        if stored is not None and not self._is_current(name, stored.modified):
            stored.file.close()
            self.remove(name)
            return None
        if stored is None and self._fetch(name):
            stored = super().open(name)
        return stored

    def _is_current(self, name: str, modified: float) -> bool:
        """Tell whether the store still has a result in the folder; checked once a day for each."""
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
            # Another machine was first, and its bytes may already be in some HTTP cache.
            self._fetch(name)

    def _fetch(self, name: str) -> bool:
        """Copy a result from the store to the folder; tell whether that succeeded."""
        try:
            for _ in range(FETCHES):
                pieces = self._remote.get(result_key(name))
                if pieces is None:
                    return False
                with self._write(pieces) as temporary:
                    if is_whole(temporary):
                        super()._publish(temporary, name)
                        self._doubts.end(name)
                        return True
        except (OSError, ResultTooLarge) as error:
            logger.error("cannot keep a result in %s: %s", self.folder, error)
            return False
        # Damage in transit looks like damage in the store: remove only what stays damaged.
        if not self._doubts.is_settled(name):
            raise unavailable()
        logger.error("removing a result that is damaged in the store: %s", name)
        self.damaged += 1
        self._remote.remove([result_key(name)])
        return False


def open_tiers(
    settings: Settings, remote: RemoteStore | None, space: DiskSpace
) -> tuple[ResultCache, Spool]:
    """Return the storage for results and uploads: a folder, or a shared store.

    Uploads are in the store only if the machines share their jobs: otherwise other machines would
    consider them orphaned.
    """
    folder = settings.cache_dir
    if settings.max_upload_bytes > settings.spool_max_bytes * CLIENT_SHARE:
        logger.warning("SR_SPOOL_MAX_MB: a quarter of it is less than SR_MAX_UPLOAD_BYTES")
    if remote is not None and settings.database_url:
        return TieredCache(folder, remote, space), RemoteSpool(remote, settings.spool_max_bytes)
    spool = FolderSpool(folder / "spool", settings.spool_max_bytes, space)
    if remote is None:
        return ResultCache(folder, space), spool
    return TieredCache(folder, remote, space), spool


class RemoteSpool:
    """Uploads in the shared store, so that any machine can compute them: see `spool.Spool`.

    The limit is shared by all machines, but each knows the others' uploads only from its last
    listing, some minutes ago: together they may exceed it by what they accepted since. A client's
    share is counted per machine.

    Parameters
    ----------
    max_bytes : of the uploads together
    """

    def __init__(self, remote: RemoteStore, max_bytes: int) -> None:
        self._remote = remote
        self._budget = SpoolBudget(max_bytes)
        self._swept = self._counted = -math.inf

    @property
    def used_bytes(self) -> int:
        """Space that the uploads take in the store, as far as this process knows."""
        return self._budget.used_bytes

    @staticmethod
    def _key(name: str) -> str:
        return f"spool/{name}"

    @property
    def place(self) -> str:
        """Return the store's URL."""
        return self._remote.url

    def identity(self, is_known: bool) -> str:
        """Return the bucket's URL, or the ID in a folder, which may be mounted at many paths."""
        return self._remote.identify(is_known)

    def store(self, upload: BinaryIO, table_id: str, client: str = "") -> str:
        """Store an upload."""
        name = make_spool_name(table_id)
        size_bytes = measure_length(upload)
        try:
            self._budget.take(name, size_bytes, client)
        except Busy:
            if time.monotonic() - self._counted < SPOOL_RECOUNT_SECONDS:
                raise
            self._recount()
            self._budget.take(name, size_bytes, client)
        try:
            self._remote.put(self._key(name), upload)
        except BaseException:
            self._budget.give_back(name)
            raise
        self._budget.settle(name)
        return name

    def _recount(self) -> None:
        """Count the uploads of all machines in the store."""
        self._counted = time.monotonic()
        known = self._budget.whole_names()
        found = self._remote.list_sizes("spool")
        self._budget.recount(known, {key.rpartition("/")[2]: size for key, size in found.items()})

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
        """Remove an upload; if the store does not respond, `old_names` will list it again."""
        if name is not None:
            with contextlib.suppress(StoreDown):
                self._remote.remove([self._key(name)])
                self._budget.give_back(name)

    def old_names(self, age_seconds: float) -> Iterable[str]:
        """Return old uploads, but only now and then: listings cost money."""
        if time.monotonic() - self._swept < SPOOL_SWEEP_SECONDS:
            return []
        self._swept = time.monotonic()
        self._recount()
        keys = self._remote.list_keys("spool", max(age_seconds, SPOOL_GRACE_SECONDS))
        return [key.rpartition("/")[2] for key in keys]
