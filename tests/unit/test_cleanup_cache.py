import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cleanup_cache import cleanup_old_cache
from superres.paths import PROJECT_DIR
from superres.store.result_cache import ResultCache
from superres.store.stored_result import ResultInfo

DAY = 86400
KEYS = "0123456789"
PAYLOAD = b"x" * 100_000


def name_of(number: int, variant: str = "a") -> str:
    return f"{KEYS[number] * 64}.{variant * 12}.png"


@pytest.fixture
def cache(tmp_path: Path) -> ResultCache:
    """Ten results of 0.1 MB; number N was last used N days ago and stored 20 days ago."""
    cache = ResultCache(tmp_path / "cache")
    now = time.time()
    for number in range(10):
        cache.store(name_of(number), PAYLOAD, ResultInfo.describe(PAYLOAD, 10, 10))
        os.utime(cache.folder / name_of(number), (now - number * DAY, now - 20 * DAY))
    return cache


def numbers_left(cache: ResultCache) -> list[int]:
    return sorted(KEYS.index(file.name[0]) for file in cache.scan())


def test_results_unused_for_longer_than_the_age_are_removed(cache: ResultCache) -> None:
    summary = cleanup_old_cache(max_age_days=4.5, cache_dir=cache.folder)
    assert numbers_left(cache) == [0, 1, 2, 3, 4]
    assert (summary.removed, summary.kept, summary.failed) == (5, 5, 0)
    assert summary.removed_bytes == summary.kept_bytes > 5 * len(PAYLOAD)


def test_least_recently_used_results_go_until_the_size_fits(cache: ResultCache) -> None:
    cleanup_old_cache(max_size_mb=0.35, cache_dir=cache.folder)
    assert numbers_left(cache) == [0, 1, 2]


def test_hit_saves_a_result(cache: ResultCache) -> None:
    stored = cache.open(name_of(9))
    assert stored is not None
    stored.file.close()
    cleanup_old_cache(max_size_mb=0.35, cache_dir=cache.folder)
    assert numbers_left(cache) == [0, 1, 9]


def test_defaults_are_thirty_days_and_a_gigabyte(cache: ResultCache) -> None:
    assert cleanup_old_cache(cache_dir=cache.folder).removed == 0
    os.utime(cache.folder / name_of(3), (time.time() - 31 * DAY,) * 2)
    cleanup_old_cache(cache_dir=cache.folder)
    assert numbers_left(cache) == [0, 1, 2, 4, 5, 6, 7, 8, 9]


def test_folder_is_the_services_where_none_is_given(
    cache: ResultCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SR_CACHE_DIR", str(cache.folder))
    assert cleanup_old_cache(max_age_days=0.5).removed == 9


def test_sizes_are_those_of_blocks(cache: ResultCache) -> None:
    for file in list(cache.scan()):
        cache.remove(file.name)
    for number in range(10):
        cache.store(name_of(number), b"tiny", ResultInfo.describe(b"tiny", 1, 1))
        os.utime(cache.folder / name_of(number), (time.time() - number * DAY,) * 2)
    summary = cleanup_old_cache(max_size_mb=4 * 4096 / 1024**2, cache_dir=cache.folder)
    assert numbers_left(cache) == [0, 1, 2, 3]
    assert (summary.removed_bytes, summary.kept_bytes) == (6 * 4096, 4 * 4096)


def test_what_another_process_writes_counts(cache: ResultCache) -> None:
    (cache.folder / ".writing-elsewhere").write_bytes(PAYLOAD * 3)
    cleanup_old_cache(max_size_mb=0.65, cache_dir=cache.folder)
    assert numbers_left(cache) == [0, 1, 2]


def test_dry_run_removes_nothing_and_tells_the_same(cache: ResultCache) -> None:
    leftover = cache.folder / ".writing-x"
    leftover.touch()
    os.utime(leftover, (0, 0))
    told = cleanup_old_cache(max_age_days=4.5, cache_dir=cache.folder, dry_run=True)
    assert len(numbers_left(cache)) == 10
    assert leftover.exists()
    assert told == cleanup_old_cache(max_age_days=4.5, cache_dir=cache.folder)
    assert not leftover.exists()


def test_cleanups_at_once_remove_each_result_once_and_fail_nowhere(cache: ResultCache) -> None:
    with ThreadPoolExecutor(8) as pool:
        summaries = list(
            pool.map(lambda _: cleanup_old_cache(4.5, cache_dir=cache.folder), range(8))
        )
    assert numbers_left(cache) == [0, 1, 2, 3, 4]
    assert sum(summary.failed for summary in summaries) == 0


def test_result_being_read_stays_readable(cache: ResultCache) -> None:
    stored = cache.open(name_of(9))
    assert stored is not None
    cleanup_old_cache(max_size_mb=0, cache_dir=cache.folder)
    with stored.file:
        assert stored.file.read() == PAYLOAD
    assert numbers_left(cache) == []


def test_foreign_files_stay(cache: ResultCache) -> None:
    (cache.folder / "notes.txt").write_text("mine")
    cleanup_old_cache(max_size_mb=0, cache_dir=cache.folder)
    assert [path.name for path in cache.folder.iterdir()] == ["notes.txt"]


def test_absent_folder_is_an_empty_cache(tmp_path: Path) -> None:
    assert cleanup_old_cache(cache_dir=tmp_path / "absent").removed == 0


# --- the command line


def run_command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(PROJECT_DIR / "cleanup_cache.py"), *arguments],
        env={**os.environ, "SR_CACHE_DIR": str(folder), "SR_PUBLIC_URL": "https://sr.example"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_command_cleans_and_tells(cache: ResultCache) -> None:
    told = run_command(cache.folder, "--max-age-days", "4.5", "--max-size-mb", "0.25", "--dry-run")
    assert (told.returncode, told.stdout[:26]) == (0, "dry run: removed 8 results")
    assert len(numbers_left(cache)) == 10
    done = run_command(cache.folder, "--max-age-days", "4.5", "--max-size-mb", "0.25")
    assert (done.returncode, done.stdout[:17]) == (0, "removed 8 results")
    assert numbers_left(cache) == [0, 1]


def test_command_deletes_an_uploads_results_and_names_the_addresses(cache: ResultCache) -> None:
    note = ResultInfo.describe(PAYLOAD, 10, 10)
    cache.store(name_of(4, "b"), PAYLOAD, note)
    done = run_command(cache.folder, "--delete", "4" * 64)
    assert done.returncode == 0
    assert numbers_left(cache) == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    addresses = done.stdout.splitlines()[:-1]
    assert sorted(addresses) == [
        f"https://sr.example/cache/{name_of(4, variant)}" for variant in "ab"
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--max-age-days", "-1"],
        ["--max-size-mb", "nan"],
        ["--delete", "abc"],
        ["--unknown"],
        ["--cache-dir", "missing"],
        ["--cache-dir", ""],
    ],
)
def test_wrong_arguments_exit_with_two_and_remove_nothing(
    cache: ResultCache, arguments: list[str]
) -> None:
    done = run_command(cache.folder, *arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert len(numbers_left(cache)) == 10


def test_wrong_settings_exit_with_one(cache: ResultCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SR_LANES", "many")
    done = run_command(cache.folder)
    assert (done.returncode, "SR_LANES" in done.stderr) == (1, True)


def test_file_that_cannot_be_removed_exits_with_one(cache: ResultCache) -> None:
    shutil.rmtree(cache.folder / name_of(9), ignore_errors=True)
    (cache.folder / name_of(9)).unlink()
    (cache.folder / name_of(9)).mkdir()
    os.utime(cache.folder / name_of(9), (0, 0))
    done = run_command(cache.folder)
    assert done.returncode == 1
    assert "failed 1" in done.stdout


def test_command_does_not_load_opencv() -> None:
    code = "import sys, cleanup_cache; sys.exit('cv2' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=PROJECT_DIR, check=True, timeout=30)
