"""Chooses which stored results to evict, and removes them."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from superres.disk import MEGABYTE
from superres.store.result_cache import ResultCache, StoredFile

SECONDS_A_DAY = 86400

logger = logging.getLogger(__name__)


@dataclass
class CleanupSummary:
    """What a cleanup did: numbers of files, and their bytes on disk."""

    removed: int = 0
    removed_bytes: int = 0
    kept: int = 0
    kept_bytes: int = 0
    failed: int = 0

    def __str__(self) -> str:
        """Return the summary as one line."""
        return (
            f"removed {self.removed} results ({self.removed_bytes / MEGABYTE:.1f} MB), "
            f"kept {self.kept} ({self.kept_bytes / MEGABYTE:.1f} MB), failed {self.failed}"
        )


def choose_doomed(
    files: Iterable[StoredFile],
    excess: float,
    *,
    too_old: float,
    spared: float = float("inf"),
    excess_of_spared: float = 0,
) -> list[StoredFile]:
    """Choose the results to evict, least recently used first.

    Parameters
    ----------
    excess : bytes to free
    too_old : results last used before this time are evicted in any case
    spared : results last used after this time are evicted only for `excess_of_spared`
    excess_of_spared : bytes to free at any cost
    """
    doomed = []
    for file in sorted(files, key=lambda file: file.last_used):
        wanted = excess_of_spared if file.last_used > spared else excess
        if wanted > 0 or file.last_used < too_old:
            doomed.append(file)
            excess -= file.size_bytes
            excess_of_spared -= file.size_bytes
    return doomed


def remove_files(cache: ResultCache, files: Iterable[StoredFile], dry_run: bool) -> CleanupSummary:
    """Remove results, or only count them; one that is already gone counts as removed."""
    summary = CleanupSummary()
    for file in files:
        if not dry_run and not cache.remove(file.name):
            summary.failed += 1
            continue
        logger.debug("removed %s", file.name)
        summary.removed += 1
        summary.removed_bytes += file.size_bytes
    return summary
