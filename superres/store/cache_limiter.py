"""Keeps disk usage within limits: size and age of results, and free space."""

import errno
import logging
import threading
import time
from pathlib import Path

from superres.disk import MEGABYTE, DiskSpace, free_bytes
from superres.errors import ResultTooLarge
from superres.excess import compare
from superres.store.eviction import SECONDS_A_DAY, choose_doomed, remove_files
from superres.store.result_cache import ResultCache

# A cleanup frees some extra space, so that not every further result needs one.
ROOM_AFTER_CLEANUP = 0.9
# Results stored or served this recently are spared: a client is about to fetch them. But clients
# choose what they ask for, so they are spared only up to this multiple of the limit.
SPARE_SECONDS = 60
MOST_WITH_SPARED = 1.1
# If spared results exceed the limit, the folder is scanned again after this much growth.
GROWTH_BETWEEN_CLEANUPS = 0.02
# Only for age, which is counted in days; the other limits are enforced on each write.
SWEEP_SECONDS = 3600.0

logger = logging.getLogger(__name__)


class CacheLimiter(DiskSpace):
    """Keeps results within their limits while a service writes, and some of the disk free.

    The least recently used results are evicted. If none is left to evict, nothing is written.

    Parameters
    ----------
    folder : of the stored results
    max_size_mb : of the results together, on disk
    min_free_mb : space kept free on the file system, whatever fills it
    max_age_days : results unused for longer are evicted
    """

    def __init__(
        self,
        folder: Path,
        max_size_mb: float,
        min_free_mb: float,
        max_age_days: float = float("inf"),
    ) -> None:
        self.folder = folder
        self.evictions = 0
        self._cache = ResultCache(folder)
        self._max_bytes = max_size_mb * MEGABYTE
        self._min_free_bytes = min_free_mb * MEGABYTE
        self._max_age_seconds = max_age_days * SECONDS_A_DAY
        self._lock = threading.Lock()
        # Of stored results; changes by other processes are noticed at the next cleanup.
        self._size_bytes: int | None = None
        self._clean_above = self._max_bytes
        self._promised_bytes = 0  # to all current writers, whether written yet or not
        self._writing_bytes = 0  # the part of these for results
        self._stopped = threading.Event()

    def start(self) -> None:
        """Start evicting by age; in a thread, since scanning a large folder takes seconds."""
        threading.Thread(target=self._repeat, name="cache-limiter", daemon=True).start()

    def stop(self) -> None:
        """Stop the thread."""
        self._stopped.set()

    def _repeat(self) -> None:
        while True:
            try:
                self.sweep()
            except Exception:
                # This thread must live as long as the process.
                logger.exception("cleaning the cache failed")
            if self._stopped.wait(SWEEP_SECONDS):
                return

    def sweep(self) -> None:
        """Evict what is too old, and recount."""
        with self._lock:
            self._clean(0, is_result=False)

    def take(self, size_bytes: int, is_result: bool = True) -> None:
        """Reserve space for what is about to be written, evicting results for it.

        Raises
        ------
        OSError
            There is not enough space, even with all evictable results gone.
        ResultTooLarge
            There can never be enough space.
        """
        most = int(MOST_WITH_SPARED * self._max_bytes)
        if is_result and size_bytes > most:
            found, allowed = compare(size_bytes, most, "bytes")
            raise ResultTooLarge(
                f"The result has {found}; at most {allowed} can be stored here. Send the image "
                "without 'Prefer: respond-async', or choose another format or a smaller size."
            )
        with self._lock:
            if self._size_bytes is None:
                self._size_bytes = sum(file.size_bytes for file in self._cache.scan())
            is_large = (
                is_result
                and self._size_bytes + self._writing_bytes + size_bytes > self._clean_above
            )
            if (is_large or self._missing_bytes(size_bytes) > 0) and not self._clean(
                size_bytes, is_result
            ):
                raise OSError(errno.ENOSPC, "No space within the cache's limits")
            self._promised_bytes += size_bytes
            self._writing_bytes += size_bytes if is_result else 0

    def give_back(self, size_bytes: int, is_result: bool = True) -> None:
        """Release a reservation: what was written is on the disk now, or was abandoned."""
        with self._lock:
            self._promised_bytes -= size_bytes
            self._writing_bytes -= size_bytes if is_result else 0

    def note_stored(self, size_bytes: int) -> None:
        """Count a stored result."""
        with self._lock:
            if self._size_bytes is not None:
                self._size_bytes += size_bytes

    def _missing_bytes(self, size_bytes: int) -> float:
        """Return how far another write would bring the free space below its reserve."""
        free = free_bytes(self.folder) - self._promised_bytes - size_bytes
        return self._min_free_bytes - free

    def _clean(self, size_bytes: int, is_result: bool) -> bool:
        """Recount and evict what has to go; tell whether there is then room for a write."""
        self._cache.remove_leftovers()
        now = time.time()
        files = list(self._cache.scan())
        stored_bytes = sum(file.size_bytes for file in files)
        total_bytes = stored_bytes + self._cache.count_foreign_bytes() + self._writing_bytes
        total_bytes += size_bytes if is_result else 0
        excess = must_go = missing_bytes = self._missing_bytes(size_bytes)
        if missing_bytes > 0:
            excess += (1 - ROOM_AFTER_CLEANUP) * stored_bytes
        if total_bytes > self._max_bytes:
            excess = max(excess, total_bytes - ROOM_AFTER_CLEANUP * self._max_bytes)
        if total_bytes > MOST_WITH_SPARED * self._max_bytes:
            must_go = max(must_go, total_bytes - self._max_bytes)
        doomed = choose_doomed(
            files,
            excess,
            too_old=now - self._max_age_seconds,
            spared=now - SPARE_SECONDS,
            excess_of_spared=must_go,
        )
        summary = remove_files(self._cache, doomed, dry_run=False)
        if doomed:
            logger.info("the cache crossed a limit: %s", summary)
        self.evictions += summary.removed
        self._size_bytes = stored_bytes - summary.removed_bytes
        total_bytes -= summary.removed_bytes
        most_bytes = MOST_WITH_SPARED * self._max_bytes
        growth_bytes = GROWTH_BETWEEN_CLEANUPS * self._max_bytes
        self._clean_above = min(max(self._max_bytes, total_bytes + growth_bytes), most_bytes)
        # The disk's own count may lag, and does while an evicted result is still being sent.
        has_space = missing_bytes <= summary.removed_bytes
        return has_space and (total_bytes <= most_bytes or not is_result)
