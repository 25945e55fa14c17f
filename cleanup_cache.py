"""Clean the cache of stored results: by age, by size, or one upload's results.

    python cleanup_cache.py --max-age-days 30 --max-size-mb 1024 [--dry-run]
    python cleanup_cache.py --delete SHA256

Results that nobody used for longest go first. Safe beside a running service and beside a second
cleanup: a result that is being sent stays readable to its end, and one that is gone is computed
again when it is wanted. A running service keeps its limits itself; this is for keeping others, and
for times without one. Never imports OpenCV, so that it starts at once.
"""

import argparse
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

from superres.disk import MEGABYTE
from superres.errors import ConfigError, StoreDown
from superres.settings import Settings
from superres.store.eviction import SECONDS_A_DAY, CleanupSummary, choose_doomed, remove_files
from superres.store.remote_store import RemoteStore
from superres.store.result_cache import ResultCache
from superres.store.result_name import KEY_PATTERN
from superres.store.tiers import results_folder


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
