"""Clean the cache of stored results: by age, by size, or one upload's results.

    python cleanup_cache.py --max-age-days 30 --max-size-mb 1024 [--dry-run]
    python cleanup_cache.py --delete SHA256

Results that nobody used for longest go first. Safe beside a running service and beside a second
cleanup: a result that is being sent stays readable to its end, and one that is gone is computed
again when it is wanted. A running service keeps its limits itself; this is for keeping others, and
for times without one. Never imports OpenCV, so that it starts at once.
"""

import argparse
import logging
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from disk import MEGABYTE
from errors import ConfigError, StoreDown
from remote_store import RemoteStore
from result_cache import KEY_PATTERN, ResultCache, StoredFile
from settings import Settings
from tiers import results_folder

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
        """Return the summary as a line."""
        return (
            f"removed {self.removed} results ({self.removed_bytes / MEGABYTE:.1f} MB), "
            f"kept {self.kept} ({self.kept_bytes / MEGABYTE:.1f} MB), failed {self.failed}"
        )


def cleanup_old_cache(
    max_age_days: float = 30,
    max_size_mb: float = 1024,
    *,
    cache_dir: Path | None = None,
    dry_run: bool = False,
) -> CleanupSummary:
    """Remove results that are too old or too many, those unused for longest first.

    Parameters
    ----------
    max_age_days : results last used longer ago are removed
    max_size_mb : the rest may take this much of the disk together, in MB of 1024**2 bytes
    cache_dir : folder of the results; defaults to ``SR_CACHE_DIR``
    dry_run : remove nothing, only tell what would be removed

    Raises
    ------
    ConfigError
        `cache_dir` is not given and the environment has wrong settings.
    """
    folder = cache_dir or Settings.from_env(os.environ).cache_dir
    cache = ResultCache(folder)
    if not dry_run:
        cache.remove_leftovers()
    files = list(cache.scan())
    total_bytes = sum(file.size_bytes for file in files)
    excess = total_bytes + cache.count_foreign_bytes() - max_size_mb * MEGABYTE
    too_old = time.time() - max_age_days * SECONDS_A_DAY
    doomed = choose_doomed(files, excess, too_old=too_old)
    summary = remove_files(cache, doomed, dry_run)
    summary.kept = len(files) - summary.removed
    summary.kept_bytes = total_bytes - summary.removed_bytes
    return summary


def choose_doomed(
    files: Iterable[StoredFile],
    excess: float,
    *,
    too_old: float,
    spared: float = float("inf"),
    excess_of_spared: float = 0,
) -> list[StoredFile]:
    """Choose the results that have to go, those unused for longest first.

    Parameters
    ----------
    excess : bytes to be freed
    too_old : results last used before this time go in any case
    spared : those last used after this time go only for `excess_of_spared`
    excess_of_spared : bytes that have to be freed whatever goes
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
    """Remove results, or only count them; one that somebody else has removed counts as removed."""
    summary = CleanupSummary()
    for file in files:
        if not dry_run and not cache.remove(file.name):
            summary.failed += 1
            continue
        logger.debug("removed %s", file.name)
        summary.removed += 1
        summary.removed_bytes += file.size_bytes
    return summary


def delete_upload(key: str, settings: Settings, dry_run: bool) -> CleanupSummary:
    """Remove all results of one upload and print the addresses to purge from proxies and CDNs.

    Where machines share a store, what is in the other machines' folders stays.

    Raises
    ------
    ConfigError, StoreDown
        The shared store cannot be used, or does not answer.
    """
    cache = ResultCache(settings.cache_dir)
    files = [file for file in cache.scan() if file.name.startswith(f"{key}.")]
    names = {file.name for file in files}
    if settings.store_url:
        remote = RemoteStore(settings.store_url)
        stored = remote.list_keys(results_folder(key))
        names |= {each.rpartition("/")[2] for each in stored}
        if not dry_run:
            remote.remove(stored)
    for name in sorted(names):
        print(f"{settings.public_url}/cache/{name}")
    summary = remove_files(cache, files, dry_run)
    summary.removed += len(names) - len(files)
    return summary


def parse_sha256(text: str) -> str:
    """Read a SHA-256 in hex."""
    if not KEY_PATTERN.fullmatch(text.lower()):
        raise argparse.ArgumentTypeError("must be 64 hexadecimal digits")
    return text.lower()


def parse_limit(text: str) -> float:
    """Read a number that is not negative."""
    number = float(text)
    if not number >= 0:
        raise argparse.ArgumentTypeError("must be at least 0")
    return number


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns 0, or 1 when the settings are wrong or a file could not be removed."""
    parser = argparse.ArgumentParser(description="Clean the cache of stored results.")
    parser.add_argument("--max-age-days", type=parse_limit, default=30.0)
    parser.add_argument("--max-size-mb", type=parse_limit, default=1024.0)
    parser.add_argument("--cache-dir", type=Path, help="instead of SR_CACHE_DIR")
    parser.add_argument("--dry-run", action="store_true", help="remove nothing, only tell")
    parser.add_argument(
        "--delete",
        type=parse_sha256,
        metavar="SHA256",
        help="remove the results of the upload with this SHA-256, and nothing else",
    )
    chosen = parser.parse_args(arguments)
    try:
        settings = Settings.from_env(os.environ)
    except ConfigError as fault:
        print(fault, file=sys.stderr)
        return 1
    folder = chosen.cache_dir or settings.cache_dir
    if chosen.delete:
        try:
            summary = delete_upload(
                chosen.delete, replace(settings, cache_dir=folder), chosen.dry_run
            )
        except (ConfigError, StoreDown) as fault:
            print(fault, file=sys.stderr)
            return 1
    else:
        summary = cleanup_old_cache(
            chosen.max_age_days, chosen.max_size_mb, cache_dir=folder, dry_run=chosen.dry_run
        )
    print(f"dry run: {summary}" if chosen.dry_run else summary)
    return 1 if summary.failed else 0


if __name__ == "__main__":
    sys.exit(main())
