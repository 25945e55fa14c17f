import errno
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from superres.disk import MEGABYTE
from superres.errors import ResultTooLarge
from superres.store import cache_limiter
from superres.store.cache_limiter import CacheLimiter
from superres.store.result_cache import ResultCache
from superres.store.stored_result import ResultInfo
from testkit.waiting import wait_until

DAY = 86400
BLOCK = 4096
PAYLOAD = b"x" * (24 * BLOCK)
STORED = 25 * BLOCK  # with the note after it
Maker = Callable[..., tuple[CacheLimiter, ResultCache]]


def name_of(number: int) -> str:
    return f"{number:064x}.{'a' * 12}.png"


def store(cache: ResultCache, number: int, payload: bytes = PAYLOAD) -> None:
    cache.store(name_of(number), payload, ResultInfo.describe(payload, 10, 10))


def numbers_left(cache: ResultCache) -> list[int]:
    return sorted(int(file.name[:64], 16) for file in cache.scan())


def use_ago(cache: ResultCache, number: int, seconds: float) -> None:
    path = cache.folder / name_of(number)
    os.utime(path, (time.time() - seconds, time.time() - seconds))


def size_on_disk(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.iterdir())


@pytest.fixture
def make(tmp_path: Path) -> Maker:
    """Make a limiter for a number of results of one size, and the cache that it limits."""

    def make(
        results: float = 10, min_free_mb: float = 0, max_age_days: float = float("inf")
    ) -> tuple[CacheLimiter, ResultCache]:
        folder = tmp_path / "cache"
        limiter = CacheLimiter(folder, results * STORED / MEGABYTE, min_free_mb, max_age_days)
        return limiter, ResultCache(folder, limiter)

    return make


def test_least_recently_used_go_before_a_result_is_written(make: Maker) -> None:
    limiter, cache = make(results=10)
    for number in range(10):
        store(cache, number)
        use_ago(cache, number, 1000 - number)
    assert limiter.evictions == 0
    store(cache, 10)
    # And a tenth more, so that the next result needs no cleanup.
    assert numbers_left(cache) == [2, 3, 4, 5, 6, 7, 8, 9, 10]
    assert limiter.evictions == 2


def test_recently_used_results_are_spared_up_to_a_tenth_beyond_the_limit(make: Maker) -> None:
    limiter, cache = make(results=10)
    for number in range(11):
        store(cache, number)
    assert numbers_left(cache) == list(range(11))
    store(cache, 11)
    assert numbers_left(cache) == list(range(2, 12))
    assert limiter.evictions == 2


def test_use_pins_nothing_beyond_the_bound(make: Maker) -> None:
    _, cache = make(results=10)
    for number in range(40):
        store(cache, number)
        for other in numbers_left(cache):
            stored = cache.open(name_of(other))
            assert stored is not None
            stored.file.close()
        assert size_on_disk(cache.folder) <= 11 * STORED
    assert 39 in numbers_left(cache)


def test_tiny_results_count_as_blocks(make: Maker) -> None:
    _, cache = make(results=1)  # of 25 blocks
    for number in range(60):
        store(cache, number, b"tiny")
        assert size_on_disk(cache.folder) <= 1.1 * STORED
    assert len(numbers_left(cache)) >= 20


def test_results_that_are_written_at_once_count(make: Maker) -> None:
    limiter, cache = make(results=10)
    for _ in range(11):
        limiter.take(STORED)
    with pytest.raises(OSError) as caught:
        store(cache, 1)
    assert caught.value.errno == errno.ENOSPC
    assert list(cache.folder.iterdir()) == []
    limiter.give_back(STORED)
    store(cache, 1)
    assert numbers_left(cache) == [1]


def test_bound_holds_while_many_write(make: Maker) -> None:
    _, cache = make(results=10)
    most = 0

    def write(number: int) -> None:
        nonlocal most
        store(cache, number)
        most = max(most, sum(file.size_bytes for file in cache.scan()))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(100)))
    assert most <= 11 * STORED
    # No space was leaked: as many are kept as with a single writer.
    for number in range(100, 120):
        store(cache, number)
    assert len(numbers_left(cache)) >= 9


def test_result_that_is_too_large_moves_nothing_out(make: Maker) -> None:
    _, cache = make(results=10)
    store(cache, 1)
    with pytest.raises(ResultTooLarge):
        store(cache, 2, PAYLOAD * 12)
    assert numbers_left(cache) == [1]
    assert cache.can_write()


def test_reserve_is_kept_free(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    free = 100 * MEGABYTE
    _, cache = make(results=1000, min_free_mb=100)
    monkeypatch.setattr(cache_limiter, "free_bytes", lambda _folder: free)
    with pytest.raises(OSError, match="No space"):
        store(cache, 1)
    free += 3 * STORED
    for number in range(3):
        store(cache, number)
    # The disk is at its limit: the least recently used are evicted, however recent.
    free -= 3 * STORED
    store(cache, 3)
    assert 0 not in numbers_left(cache)
    assert 3 in numbers_left(cache)


def test_room_for_an_upload_is_made_by_the_reserve_alone(
    make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    limiter, cache = make(results=2, min_free_mb=100)
    store(cache, 1)
    limiter.take(5 * STORED, is_result=False)  # more than all results may take
    assert numbers_left(cache) == [1]
    monkeypatch.setattr(cache_limiter, "free_bytes", lambda _folder: 100 * MEGABYTE + 5 * STORED)
    limiter.take(STORED, is_result=False)  # reserved, but not written yet
    assert numbers_left(cache) == []
    with pytest.raises(OSError, match="No space"):
        limiter.take(BLOCK, is_result=False)


def test_sweep_removes_what_is_too_old(make: Maker) -> None:
    limiter, cache = make(max_age_days=30)
    for number in range(3):
        store(cache, number)
    use_ago(cache, 0, 31 * DAY)
    use_ago(cache, 1, 29 * DAY)
    leftover = cache.folder / ".writing-x"
    leftover.touch()
    os.utime(leftover, (0, 0))
    limiter.sweep()
    assert numbers_left(cache) == [1, 2]
    assert not leftover.exists()


def test_sweep_sees_what_other_processes_stored(make: Maker) -> None:
    limiter, cache = make(results=10)
    store(cache, 100)
    other = ResultCache(cache.folder)
    for number in range(20):
        store(other, number)
    limiter.sweep()
    assert size_on_disk(cache.folder) <= 10 * STORED


def test_sweep_goes_on_by_itself(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_limiter, "SWEEP_SECONDS", 0.01)
    limiter, cache = make(max_age_days=30)
    store(cache, 1)
    faults = []

    def fail(_self: ResultCache) -> int:
        faults.append(1)
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr(ResultCache, "remove_leftovers", fail)
        limiter.start()
        wait_until(lambda: len(faults) > 2)
    use_ago(cache, 1, 31 * DAY)
    wait_until(lambda: numbers_left(cache) == [])
    limiter.stop()
    limiter.sweep()  # waits for one that has not logged yet what it removed


def test_crossing_a_limit_is_logged_once(make: Maker, caplog: pytest.LogCaptureFixture) -> None:
    _, cache = make(results=10)
    with caplog.at_level(logging.INFO):
        for number in range(11):
            store(cache, number)
            use_ago(cache, number, 1000 - number)
    assert [record.getMessage()[:28] for record in caplog.records] == [
        "the cache crossed a limit: r"
    ]
