"""Instances that share a cache folder or a jobs table, but not both: real services."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from PIL import Image

from superres.disk import DiskSpace
from superres.engines.model_loader import ModelLoader
from superres.engines.upscaler import Upscaler
from superres.errors import ConfigError, NotStored
from superres.images.options import Options
from superres.jobs.jobs import Jobs
from superres.jobs.jobs_schema import SCHEMA
from superres.jobs.sqlite_database import SqliteDatabase
from superres.paths import PROJECT_DIR
from superres.service import spool_hold
from superres.service.runner import Runner
from superres.service.spool_hold import SpoolHold
from superres.settings import Settings
from superres.store.spool import FolderSpool
from testkit import loopback
from testkit.pictures import encode, make_upload
from testkit.service import GUNICORN, find_free_port, run_light_service, service_environment
from testkit.waiting import WAIT_SECONDS, wait_until

ROOM = 1024**2


@pytest.fixture
def hold_of(tmp_path: Path) -> Iterator[Callable[[Path], SpoolHold]]:
    """Make the hold of a process that shares the table, given its spool."""
    with ExitStack() as stack:

        def make(spool: Path) -> SpoolHold:
            table = Jobs(SqliteDatabase(tmp_path / "jobs.sqlite3", SCHEMA), "a")
            stack.callback(table.database.close)
            return SpoolHold(table, FolderSpool(spool, ROOM, DiskSpace()))

        yield make


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("RENEW", 0.05), ("RELEASE", 0.15), ("HOLD", 0.5)):
        monkeypatch.setattr(spool_hold, f"{name}_SECONDS", seconds)


def test_table_has_one_spool_while_an_instance_lives(
    tmp_path: Path, hold_of: Callable[[Path], SpoolHold], impatient: None
) -> None:
    here, sibling, other = (hold_of(tmp_path / folder / "spool") for folder in ("a", "a", "b"))
    here.start()
    sibling.start()
    with pytest.raises(ConfigError, match=r"SR_STORE_URL.*SR_DATABASE_URL") as caught:
        other.start()
    assert str(tmp_path / "a" / "spool") in str(caught.value)
    with pytest.raises(NotStored):
        other.check()
    here.stop()  # the sibling is still alive
    with pytest.raises(ConfigError):
        hold_of(tmp_path / "b" / "spool").start()
    sibling.stop()
    late = hold_of(tmp_path / "b" / "spool")
    late.start()
    late.check()
    assert not sibling.renew()
    late.stop()


def test_dead_instance_is_replaced_by_one_with_another_spool(
    tmp_path: Path, hold_of: Callable[[Path], SpoolHold], impatient: None
) -> None:
    dead = hold_of(tmp_path / "a" / "spool")
    assert dead.renew()
    heir = hold_of(tmp_path / "b" / "spool")
    heir.start()
    assert heir.is_held
    heir.stop()


def test_sweep_leaves_the_uploads_of_another_table(
    settings: Settings,
    tmp_path: Path,
    fake_super_resolution: Upscaler,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("superres.service.job_keeper.SPOOL_GRACE_SECONDS", 0.0)
    here, there = (
        Runner(
            replace(settings, state_dir=tmp_path / state),
            ModelLoader(lambda: fake_super_resolution),
        )
        for state in ("one", "two")
    )
    there.model_loader.get()
    there.submissions.submit(make_upload(1), Options())
    forgotten = here.spool.store(BytesIO(b"1"), here.jobs.table_id())
    (kept,) = there.jobs.database.execute("SELECT spool FROM jobs")[0]
    here.keeper._sweep()
    spool = settings.cache_dir / "spool"
    assert [path.name for path in spool.iterdir()] == [kept]
    assert forgotten != kept
    os.utime(spool / kept, (0, 0))
    there.keeper._sweep()
    assert (spool / kept).exists()  # however old: its job is open
    here.keeper._spool_due = 0.0
    here.keeper._sweep()
    assert not (spool / kept).exists()  # nothing else cleans up after tables that are gone
    for runner in (here, there):
        runner.stop()


def picture(shade: int) -> bytes:
    return encode(Image.new("RGB", (40, 40), (shade, 1, 2)), "PNG")


def send(url: str, content: bytes) -> httpx.Response:
    headers = {"Content-Type": "image/png", "Prefer": "respond-async"}
    return loopback.post(
        f"{url}/api/enhance", content=content, headers=headers, timeout=WAIT_SECONDS
    )


def test_second_machine_without_a_store_refuses_to_start_and_may_replace_the_first(
    tmp_path: Path, postgres_url: str
) -> None:
    with run_light_service(tmp_path / "first", database_url=postgres_url) as first:
        assert send(first.url, picture(1)).status_code == 202
        second = subprocess.run(
            GUNICORN,
            cwd=PROJECT_DIR,
            env=service_environment(
                tmp_path / "second", find_free_port(), database_url=postgres_url
            ),
            capture_output=True,
            timeout=WAIT_SECONDS,
        )
        assert second.returncode == 3
        assert "SR_STORE_URL" in second.stderr.decode()
        assert str(tmp_path / "first" / "cache" / "spool") in second.stderr.decode()
        wait_until(lambda: is_done(first.url, picture(1)))
        # As if its machine failed.
        worker = first.worker_pid
        first.process.kill()
        os.kill(worker, signal.SIGKILL)
    with run_light_service(tmp_path / "third", database_url=postgres_url) as third:
        assert send(third.url, picture(2)).status_code == 202
        wait_until(lambda: is_done(third.url, picture(2)))


def is_done(url: str, content: bytes) -> bool:
    """Tell whether a result already exists."""
    answer = send(url, content)
    assert answer.status_code in {200, 202}, answer.text
    return answer.status_code == 200


def test_instances_on_one_cache_folder_keep_each_others_uploads(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with (
        run_light_service(tmp_path / "one", cache_dir=cache) as one,
        run_light_service(tmp_path / "two", cache_dir=cache) as two,
    ):
        database = SqliteDatabase(tmp_path / "one" / "state" / "jobs.sqlite3", SCHEMA)
        accepted = send(one.url, picture(7)).json()
        wait_until(lambda: loopback.get(accepted["status_url"]).json()["state"] == "done")
        # An upload old enough for sweeps, of a job that another process is computing.
        table_id = Jobs(database, "test").table_id()
        held = FolderSpool(cache / "spool", ROOM, DiskSpace()).store(BytesIO(picture(8)), table_id)
        Jobs(database, "test").submit(f"{'0' * 64}.x.png", {"format": "odd"}, 10**9, held)
        os.utime(cache / "spool" / held, (time.time() - 600, time.time() - 600))
        database.execute(
            "UPDATE jobs SET state = 'running', owner = 'test', lease_until = now() + 19"
            " WHERE spool = ?",
            [held],
        )
        other = SqliteDatabase(tmp_path / "two" / "state" / "jobs.sqlite3", SCHEMA)
        other_id = Jobs(other, "test").table_id()
        for _ in range(3):  # both sweep at the same rate: in three sweeps each has its turn
            lost = (
                cache
                / "spool"
                / FolderSpool(cache / "spool", ROOM, DiskSpace()).store(BytesIO(b"1"), other_id)
            )
            os.utime(lost, (time.time() - 600, time.time() - 600))
            wait_until(lambda lost=lost: not lost.exists())  # type: ignore[misc]
        assert (cache / "spool" / held).exists()
        assert loopback.get(f"{two.url}/api/ready").status_code == 200
        database.close()
        other.close()
