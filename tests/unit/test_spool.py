import errno
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import pytest

from superres.disk import MEGABYTE, DiskSpace
from superres.errors import Busy, UploadTooLarge
from superres.excess import Excess
from superres.settings import Settings
from superres.store.spool import FolderSpool

BLOCK = 4096
ROOM = 40 * BLOCK


class FullDisk(DiskSpace):
    """A disk without free space."""

    def take(self, size_bytes: int, is_result: bool = True) -> None:
        raise OSError(errno.ENOSPC, "full")


def upload(blocks: float = 1) -> BytesIO:
    return BytesIO(b"u" * int(blocks * BLOCK))


@pytest.fixture
def spool(tmp_path: Path) -> FolderSpool:
    """A spool for 40 blocks, ten for each client."""
    return FolderSpool(tmp_path / "spool", ROOM, DiskSpace())


def size_on_disk(spool: FolderSpool) -> int:
    return sum(path.stat().st_blocks * 512 for path in spool.folder.iterdir())


def fill(spool: FolderSpool, client: str) -> list[str]:
    """Store as much as one client may."""
    return [spool.store(upload(5), "table", client) for _ in range(2)]


def test_client_has_a_quarter_at_most(spool: FolderSpool) -> None:
    first, _ = fill(spool, "a")
    with pytest.raises(
        Busy, match="your queued uploads would have 45,056 bytes; at most 40,960 "
    ) as caught:
        spool.store(upload(), "table", "a")
    assert caught.value.retry_after_seconds
    spool.store(upload(), "table", "b")
    spool.remove(first)
    spool.store(upload(5), "table", "a")


def test_all_together_have_the_bound_at_most(spool: FolderSpool) -> None:
    for client in "abcd":
        fill(spool, client)
    with pytest.raises(Busy, match="would have 167,936 bytes; at most 163,840 ") as caught:
        spool.store(upload(), "table", "e")
    assert caught.value.retry_after_seconds
    assert spool.used_bytes == size_on_disk(spool) == ROOM


def test_small_uploads_take_blocks(spool: FolderSpool) -> None:
    for _ in range(10):
        spool.store(BytesIO(b"1"), "table", "a")
    with pytest.raises(Busy):
        spool.store(BytesIO(b"1"), "table", "a")


def test_upload_that_never_fits_is_told_so(spool: FolderSpool) -> None:
    with pytest.raises(UploadTooLarge) as caught:
        spool.store(upload(11), "table", "a")
    assert caught.value.excess == Excess("job_upload_bytes", 10 * BLOCK, 11 * BLOCK)
    assert spool.used_bytes == 0


def test_bound_holds_while_many_write(spool: FolderSpool) -> None:
    def store(number: int) -> bool:
        try:
            spool.store(upload(1.5), "table", f"client {number % 9}")
        except Busy:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(store, range(200))) == 20
    assert spool.used_bytes == size_on_disk(spool) == ROOM


def test_removed_uploads_give_their_room_back_once(spool: FolderSpool) -> None:
    first, second = fill(spool, "a")
    for name in (first, first, None, second, "unknown"):
        spool.remove(name)
    assert spool.used_bytes == 0
    fill(spool, "a")


def test_uploads_outlive_a_restart_and_count(spool: FolderSpool) -> None:
    names = [name for client in "abcd" for name in fill(spool, client)]
    again = FolderSpool(spool.folder, ROOM, DiskSpace())
    with pytest.raises(Busy, match="all queued uploads"):
        again.store(upload(), "e")
    again.remove(names[0])
    again.store(upload(5), "a")


def test_what_other_processes_keep_and_remove_is_seen(spool: FolderSpool) -> None:
    other = FolderSpool(spool.folder, ROOM, DiskSpace())
    names = fill(spool, "a")
    assert list(other.old_names(3600)) == []
    assert other.used_bytes == 10 * BLOCK
    other.remove(names[0])
    assert set(spool.old_names(-1)) == {names[1]}
    assert spool.used_bytes == 5 * BLOCK
    spool.store(upload(5), "table", "a")


def test_full_disk_is_busy_and_leaves_nothing(tmp_path: Path) -> None:
    spool = FolderSpool(tmp_path / "spool", ROOM, FullDisk())
    for _ in range(12):
        with pytest.raises(Busy, match="no room on the disk"):
            spool.store(upload(), "table", "a")
    assert (spool.used_bytes, list(spool.folder.iterdir())) == (0, [])


class Broken(BytesIO):
    """An upload that cannot be read completely."""

    def read(self, size: int | None = -1, /) -> bytes:
        raise OSError(errno.EIO, "broken")


def test_failed_write_gives_its_room_back(spool: FolderSpool) -> None:
    for _ in range(12):
        with pytest.raises(OSError, match="broken"):
            spool.store(Broken(b"u" * BLOCK), "table", "a")
    assert (spool.used_bytes, list(spool.folder.iterdir())) == (0, [])


def test_folder_that_vanishes_is_empty(spool: FolderSpool) -> None:
    for name in fill(spool, "a"):
        (spool.folder / name).unlink()
    spool.folder.rmdir()
    assert list(spool.old_names(0)) == []
    assert spool.used_bytes == 0


def test_default_has_room_for_a_queue_of_any_depth() -> None:
    settings = Settings()
    assert settings.spool_max_bytes >= settings.max_queue_pixels * 8
    assert settings.spool_max_bytes / 4 >= 8 * settings.max_upload_bytes
    assert settings.spool_max_mb * MEGABYTE == settings.spool_max_bytes
