import errno
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import pytest

from superres.store import result_cache
from superres.store.result_cache import ResultCache
from superres.store.result_name import ResultName, generate_file_hash, hash_file
from superres.store.stored_result import FOOTER, PayloadFile, ResultInfo, read_info

NAME = f"{'a' * 64}.{'b' * 12}.png"
PAYLOAD = b"picture bytes" * 1000


@pytest.fixture
def cache(tmp_path: Path) -> ResultCache:
    return ResultCache(tmp_path / "cache")


def store(cache: ResultCache, payload: bytes = PAYLOAD) -> ResultInfo:
    note = ResultInfo.describe(payload, width=30, height=20)
    cache.store(NAME, payload, note)
    return note


def read(cache: ResultCache) -> bytes | None:
    stored = cache.open(NAME)
    if stored is None:
        return None
    with stored.file:
        return stored.file.read()


def file_names(cache: ResultCache) -> list[str]:
    return [path.name for path in cache.folder.iterdir()]


def test_content_hash_is_sha256_in_hex() -> None:
    assert generate_file_hash(b"abc").startswith("ba7816bf8f01cfea")


def test_stored_result_comes_back_with_its_note(cache: ResultCache) -> None:
    note = store(cache)
    stored = cache.open(NAME)
    assert stored is not None
    with stored.file:
        assert stored.info == note
        assert stored.info.etag == note.sha256[:32]
        assert stored.file.read(7) == PAYLOAD[:7]
        assert stored.file.read() == PAYLOAD[7:]
        assert stored.file.read(100) == b""


def test_stored_file_opens_as_the_picture_that_it_is(cache: ResultCache) -> None:
    store(cache)
    assert (cache.folder / NAME).read_bytes().startswith(PAYLOAD)


def test_absent_result_is_none(cache: ResultCache) -> None:
    assert cache.open(NAME) is None


def test_folder_is_made_when_first_needed_and_again_after_its_removal(cache: ResultCache) -> None:
    store(cache)
    (cache.folder / NAME).unlink()
    cache.folder.rmdir()
    store(cache)
    assert read(cache) == PAYLOAD


@pytest.mark.parametrize("cut", [1, FOOTER.size, 200, len(PAYLOAD)])
def test_file_cut_short_is_never_served_and_is_removed(cache: ResultCache, cut: int) -> None:
    store(cache)
    path = cache.folder / NAME
    path.write_bytes(path.read_bytes()[:-cut])
    assert read(cache) is None
    assert not path.exists()


@pytest.mark.parametrize("content", [b"", b"x" * 7, b"x" * 500, b"x" * 500 + b"\xff" * 4 + b"SRc1"])
def test_foreign_file_under_a_results_name_is_never_served(
    cache: ResultCache, content: bytes
) -> None:
    cache.folder.mkdir()
    (cache.folder / NAME).write_bytes(content)
    assert read(cache) is None


def test_payload_grown_or_shrunk_inside_the_file_is_noticed(cache: ResultCache) -> None:
    store(cache)
    path = cache.folder / NAME
    path.write_bytes(b"more" + path.read_bytes())
    with PayloadFile(path) as file:
        assert read_info(file) is None
    assert read(cache) is None


def test_first_complete_write_of_a_name_wins(cache: ResultCache) -> None:
    store(cache, b"first")
    store(cache, b"second")
    assert read(cache) == b"first"


def test_writers_at_once_leave_one_whole_result_and_nothing_else(cache: ResultCache) -> None:
    payloads = [bytes([number]) * 100_000 for number in range(16)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda payload: store(cache, payload), payloads))
    assert read(cache) in payloads
    assert file_names(cache) == [NAME]


def test_file_system_without_hard_links_stores_too(
    cache: ResultCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    store(cache)
    assert read(cache) == PAYLOAD
    assert file_names(cache) == [NAME]


def test_failed_write_leaves_nothing_and_raises(
    cache: ResultCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        store(cache)
    assert file_names(cache) == []


def test_hit_moves_the_access_time_and_not_the_modification_time(cache: ResultCache) -> None:
    store(cache)
    path = cache.folder / NAME
    # A file system mounted with relatime records a read by itself only if the last one is older
    # than the last change, which utime makes now: so the last use is set to later than that.
    now = time.time()
    os.utime(path, (now + 3600, now - 7200))
    assert read(cache) == PAYLOAD
    status = path.stat()
    assert abs(status.st_mtime - (now - 7200)) < 1
    assert abs(status.st_atime - now) < 60


def test_scan_sees_results_and_nothing_else(cache: ResultCache) -> None:
    assert list(cache.scan()) == []
    store(cache)
    (cache.folder / ".writing-abc").write_bytes(b"x")
    (cache.folder / "notes.txt").write_bytes(b"x")
    (file,) = cache.scan()
    assert file.name == NAME
    assert file.size_bytes > len(PAYLOAD)
    assert abs(file.last_used - time.time()) < 5


@pytest.mark.parametrize(
    "name", ["", "..", NAME.upper(), NAME + "/", NAME + "\n", f"../{NAME}", NAME[1:], NAME + ".tmp"]
)
def test_names_of_no_result_do_not_match(name: str) -> None:
    assert ResultName.parse(name) is None


def test_changed_byte_is_noticed_and_never_served(cache: ResultCache) -> None:
    store(cache)
    path = cache.folder / NAME
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    assert read(cache) is None
    assert cache.damaged == 1
    assert not path.exists()


def test_result_that_the_disk_cannot_read_is_removed(
    cache: ResultCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(cache)
    unreadable = ResultCache(cache.folder)
    monkeypatch.setattr(result_cache, "hash_file", Mock(side_effect=OSError(errno.EIO, "I/O")))
    assert unreadable.open(NAME) is None
    assert not unreadable.contains(NAME)
    assert unreadable.damaged == 1


def test_digest_is_checked_once_and_not_on_every_hit(
    cache: ResultCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(cache)
    fresh = ResultCache(cache.folder)
    hash_spy = Mock(wraps=hash_file)
    monkeypatch.setattr(result_cache, "hash_file", hash_spy)
    assert [read(fresh), read(fresh), read(fresh)] == [PAYLOAD] * 3
    assert read(cache) == PAYLOAD  # the cache that stored it
    assert hash_spy.call_count == 1


def test_leftovers_of_killed_writers_are_removed_and_running_writes_are_not(
    cache: ResultCache,
) -> None:
    store(cache)
    old, young = cache.folder / ".writing-old", cache.folder / ".writing-young"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 4000, time.time() - 4000))
    assert cache.remove_leftovers() == 1
    assert sorted(file_names(cache)) == [".writing-young", NAME]


def test_folder_that_refused_a_result_is_tried_again_before_the_next(
    cache: ResultCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cache.can_write()
    occupied = cache.folder
    occupied.parent.mkdir(parents=True, exist_ok=True)
    occupied.touch()
    payload = b"result"
    with pytest.raises(OSError):  # which one depends on the system
        cache.store(NAME, payload, ResultInfo.describe(payload, 1, 1))
    assert not cache.can_write()
    occupied.unlink()
    assert cache.can_write()
    assert list(cache.folder.iterdir()) == []
