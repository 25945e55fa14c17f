"""Cleans up the cache of stored results: by age, by size, or one upload's results.

    python cleanup_cache.py --max-age-days 30 --max-size-mb 1024 [--dry-run]
    python cleanup_cache.py --delete SHA256

`superres clean` does the same.

The least recently used results are removed first. Safe to run alongside the service and other
cleanups: a result that is being sent stays readable to its end, and a removed one is computed again
on demand. A running service enforces its own limits; this is for other limits, and for when no
service is running. Never imports OpenCV, so that it starts instantly.
"""

import math
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import click

from superres.disk import MEGABYTE
from superres.errors import ConfigError, StoreDown
from superres.settings import Settings
from superres.store.eviction import SECONDS_A_DAY, CleanupSummary, choose_doomed, remove_files
from superres.store.remote_store import RemoteStore
from superres.store.result_cache import ResultCache
from superres.store.result_name import KEY_PATTERN
from superres.store.tiers import results_folder

EPILOG = """
\b
environment:
  SR_CACHE_DIR   folder of the results, or SR_DATA_DIR with cache/ in it
  SR_STORE_URL   store that machines share, which --delete cleans too
  SR_PUBLIC_URL  prefix of the addresses that --delete prints

\b
exit codes:
  0  done
  1  a setting is invalid, or something could not be removed
  2  wrong arguments
"""


def cleanup_old_cache(
    max_age_days: float = 30,
    max_size_mb: float = 1024,
    *,
    cache_dir: Path | None = None,
    dry_run: bool = False,
) -> CleanupSummary:
    """Remove results that are too old or take too much space, least recently used first.

    Parameters
    ----------
    max_age_days : results unused for longer are removed
    max_size_mb : disk space that the rest may take, in MB of 1024**2 bytes
    cache_dir : folder of the results; defaults to ``SR_CACHE_DIR``
    dry_run : remove nothing, only report what would be removed

    Raises
    ------
    ConfigError
        `cache_dir` is not given and the environment has invalid settings.
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

    If machines share a store, results in the other machines' folders stay.

    Raises
    ------
    ConfigError, StoreDown
        The shared store cannot be used, or does not respond.
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


class Sha256(click.ParamType[str]):
    """A SHA-256 in hex."""

    name = "sha256"

    def convert(
        self, value: str, parameter: click.Parameter | None, context: click.Context | None
    ) -> str:
        """Return it in lower case."""
        if not KEY_PATTERN.fullmatch(value.lower()):
            self.fail("must be 64 hexadecimal digits", parameter, context)
        return value.lower()


class Limit(click.ParamType[float]):
    """A non-negative number; `click.FloatRange` accepts NaN."""

    name = "number"

    def convert(
        self, value: str | float, parameter: click.Parameter | None, context: click.Context | None
    ) -> float:
        """Return the number."""
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not number >= 0:
            self.fail("must be a number of at least 0", parameter, context)
        return number


@click.command(epilog=EPILOG)
@click.option(
    "--max-age-days",
    type=Limit(),
    default=30,
    show_default=True,
    help="Remove results unused for longer.",
)
@click.option(
    "--max-size-mb",
    type=Limit(),
    default=1024,
    show_default=True,
    help="Then remove more, until the rest takes at most this much disk space.",
)
@click.option(
    "--cache-dir",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of the results, instead of SR_CACHE_DIR.",
)
@click.option("--dry-run", is_flag=True, help="Remove nothing, only report.")
@click.option(
    "--delete",
    type=Sha256(),
    metavar="SHA256",
    help="Remove the results of the upload with this SHA-256, and nothing else.",
)
def clean(
    max_age_days: float,
    max_size_mb: float,
    cache_dir: Path | None,
    dry_run: bool,
    delete: str | None,
) -> None:
    """Clean up the cache of stored results, least recently used first."""
    try:
        settings = Settings.from_env(os.environ)
        folder = cache_dir or settings.cache_dir
        if delete:
            summary = delete_upload(delete, replace(settings, cache_dir=folder), dry_run)
        else:
            summary = cleanup_old_cache(
                max_age_days, max_size_mb, cache_dir=folder, dry_run=dry_run
            )
    except (ConfigError, StoreDown) as fault:
        click.echo(fault, err=True)
        sys.exit(1)
    click.echo(f"dry run: {summary}" if dry_run else summary)
    sys.exit(1 if summary.failed else 0)


if __name__ == "__main__":
    clean()
