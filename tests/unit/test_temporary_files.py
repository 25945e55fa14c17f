"""Temporary files: on disk where the system keeps its own in memory, and mapped."""

import tempfile
from pathlib import Path

import pytest

from superres import temporary_files
from superres.temporary_files import is_in_memory, keep_temporary_files_on_disk, move_to_disk


def test_file_system_is_that_of_the_last_and_nearest_mount(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "/dev/vda / ext4 rw 0 0\n"
        "/dev/vdb /srv tmpfs rw 0 0\n"
        "/dev/vdb /srv ext4 rw 0 0\n"
        "tmpfs /srv/fast tmpfs rw 0 0\n"
    )
    places = {"/": False, "/srv": False, "/srv/fast": True, "/srv/fast/a/b": True, "/srv/fa": False}
    assert {name: is_in_memory(Path(name), mounts) for name in places} == places
    assert not is_in_memory(Path("/"), tmp_path / "missing")


@pytest.mark.parametrize(
    ("in_memory", "moved"),
    [({"system"}, True), (set(), False), ({"system", "state"}, False)],
)
def test_temporary_files_are_moved_out_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: set[str], moved: bool
) -> None:
    system, state = tmp_path / "system", tmp_path / "state"
    system.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(system))
    monkeypatch.setattr(temporary_files, "is_in_memory", lambda folder: folder.name in in_memory)
    keep_temporary_files_on_disk(state)
    assert tempfile.gettempdir() == str(state if moved else system)
    assert state.exists() == moved


def test_temporary_files_stay_where_no_folder_can_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(temporary_files, "is_in_memory", lambda folder: folder == tmp_path)
    keep_temporary_files_on_disk(tmp_path / "file" / "state")
    assert tempfile.gettempdir() == str(tmp_path)


def test_bytes_on_disk_are_the_same_and_leave_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    content = memoryview(bytes(range(256)) * 4096)
    moved = move_to_disk(content)
    assert moved == content
    assert moved is not content
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    assert move_to_disk(content) is content
