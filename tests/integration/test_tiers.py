"""Machines that share a store, a folder or a real S3 server: what one has, all have."""

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from PIL import Image

from superres.engines.model_loader import ModelLoader
from superres.engines.upscaler import Upscaler
from superres.errors import Busy, ConfigError, StoreDown, UploadTooLarge
from superres.images.options import Options
from superres.jobs.job_records import Claim
from superres.jobs.jobs import Jobs
from superres.paths import PROJECT_DIR
from superres.service.runner import Runner
from superres.settings import Settings
from superres.store import doubts, remote_store, tiers
from superres.store.remote_store import RemoteStore
from superres.store.stored_result import StoredResult
from superres.store.tiers import RemoteSpool, TieredCache, result_key
from testkit.fakes import FakeModel
from testkit.pictures import make_upload, read
from testkit.postgres import run_postgres
from testkit.s3 import S3Server, run_s3
from testkit.waiting import wait_until


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with run_s3(tmp_path_factory.mktemp("s3") / "server") as server:
        yield server


@pytest.fixture(params=["folder", "s3"])
def store_url(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    if request.param == "folder":
        return f"file://{tmp_path}/shared%20folder"
    server: S3Server = request.getfixturevalue("s3")
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return f"{server.store_url}/{tmp_path.name}"


@pytest.fixture
def store(store_url: str) -> RemoteStore:
    return RemoteStore(store_url)


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


# --- the store


def test_first_to_store_wins(store: RemoteStore, tmp_path: Path) -> None:
    large = b"x" * 12_000_000
    assert store.put_new("a/b", write(tmp_path / "first", large))
    assert not store.put_new("a/b", write(tmp_path / "second", b"other"))
    pieces = store.get("a/b")
    assert pieces is not None
    assert b"".join(pieces) == large


def test_objects_come_and_go(store: RemoteStore) -> None:
    store.put("spool/one", BytesIO(b"1"))
    store.put("spool/two", BytesIO(b"2"))
    store.put("results/three", BytesIO(b"3"))
    assert sorted(store.list_keys("spool")) == ["spool/one", "spool/two"]
    assert store.list_keys("spool", age_seconds=60) == []
    assert store.contains("spool/one")
    store.remove(["spool/one", "spool/absent"])
    store.remove([])
    assert not store.contains("spool/one")
    assert store.get("spool/one") is None
    assert store.list_keys("nothing") == []
    assert store.errors == 0


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], RemoteStore]:
    """Make a store with another endpoint."""

    def connect(endpoint: str) -> RemoteStore:
        values = {"ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "wrong", "ENDPOINT_URL": endpoint}
        for name, value in (values | {"ALLOW_HTTP": "true", "REGION": "us-east-1"}).items():
            monkeypatch.setenv(f"AWS_{name}", value)
        return RemoteStore("s3://pictures/sr")

    return connect


def test_store_that_refuses_is_down_and_left_alone_for_a_while(
    s3: S3Server, aws: Callable[[str], RemoteStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = aws(s3.url)
    with pytest.raises(StoreDown) as caught:
        store.get("a")
    assert caught.value.retry_after_seconds is not None
    with pytest.raises(StoreDown):
        store.contains("a")
    assert store.errors == 1  # the second time it was not asked
    monkeypatch.setattr(time, "monotonic", lambda now=time.monotonic: now() + 10)
    with pytest.raises(StoreDown):
        store.contains("a")
    assert store.errors == 2


def test_store_that_hangs_is_given_up(
    aws: Callable[[str], RemoteStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_store, "WRITE_SECONDS", 2)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(1)
        store = aws(f"http://127.0.0.1:{listener.getsockname()[1]}")
        for use in (
            lambda: store.put_new("a", write(tmp_path / "file", b"1")),
            lambda: store.get("a"),
        ):
            store._is_down = False
            started = time.monotonic()
            with pytest.raises(StoreDown):
                use()
            # Generous; the clients' own defaults are minutes.
            assert time.monotonic() - started < 4 * remote_store.ANSWER_SECONDS
            listener.accept()[0].close()  # it was asked


@pytest.mark.parametrize("url", ["s3://", "ftp://host/a", "file://host/a", "bucket", "file:a"])
def test_wrong_url_is_a_wrong_setting(url: str) -> None:
    with pytest.raises(ConfigError, match="SR_STORE_URL"):
        Settings.from_env({"SR_STORE_URL": url})


# --- machines


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        with run_postgres(Path(name) / "server") as url:
            yield url


@pytest.fixture
def database_url(postgres: str, tmp_path: Path) -> str:
    """A database that no other test uses."""
    name = f"sr_{secrets.token_hex(4)}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return postgres.rpartition("/")[0] + f"/{name}"


MachineMaker = Callable[..., Runner]


@pytest.fixture
def machine(
    settings: Settings, store_url: str, database_url: str, fake_super_resolution: Upscaler
) -> Iterator[MachineMaker]:
    """Make a machine with its own folder; all share the store and the jobs table."""
    made: list[Runner] = []

    def make(started: bool = True, **changes: Any) -> Runner:
        folder = settings.cache_dir.with_name(f"cache{len(made)}")
        changed = replace(
            settings, cache_dir=folder, store_url=store_url, database_url=database_url, **changes
        )
        runner = Runner(changed, ModelLoader(lambda: fake_super_resolution))
        if started:
            runner.start()
        made.append(runner)
        return runner

    yield make
    for runner in made:
        runner.stop()


def test_result_of_one_machine_is_a_hit_on_the_other(
    machine: MachineMaker, fake_model: FakeModel
) -> None:
    here, there = machine(), machine()
    made = here.enhance(make_upload(1))
    content, tiles = read(made), fake_model.tiles
    assert there.cache.contains(made.name)
    found = there.enhance(make_upload(1))
    assert (read(found), found.hit, found.info) == (content, True, made.info)
    assert fake_model.tiles == tiles
    # From then on it is in that machine's folder, too, and counts towards its limits.
    assert [file.name for file in there.cache.scan()] == [made.name]
    assert there.resources.limiter._size_bytes == here.resources.limiter._size_bytes


def test_result_that_another_machine_stored_meanwhile_wins(
    machine: MachineMaker, tmp_path: Path
) -> None:
    here, there = machine(), machine()
    made = here.enhance(make_upload(1))
    content = read(made)
    assert isinstance(there.cache, TieredCache)
    there.cache.store(made.name, b"computed here as well", made.info)
    stored = there.cache.open(made.name)
    assert stored is not None
    with stored.file as file:
        assert file.read() == content


def test_result_that_stays_damaged_in_the_store_is_computed_again(
    machine: MachineMaker, store: RemoteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = machine(), machine()
    made = here.enhance(make_upload(1))
    content = read(made)
    key = result_key(made.name)
    pieces = store.get(key)
    assert pieces is not None
    damaged = bytearray(b"".join(pieces))
    damaged[len(damaged) // 3] ^= 1
    store.put(key, BytesIO(damaged))
    with pytest.raises(StoreDown):  # it may have been damaged in transit
        there.enhance(make_upload(1))
    assert store.contains(key)
    monkeypatch.setattr(doubts, "DOUBT_SECONDS", 0.0)
    again = there.enhance(make_upload(1))
    assert (read(again), again.hit) == (content, False)
    assert there.statistics()["cache_damaged"] == 1
    third = machine().enhance(make_upload(1))
    assert (read(third), third.hit) == (content, True)


def test_job_of_one_machine_is_done_by_another(
    machine: MachineMaker, fake_model: FakeModel, store: RemoteStore
) -> None:
    here = machine()
    here.keeper.stop()  # it accepts jobs, but claims none
    ticket = here.submissions.submit(make_upload(1), options=Options())
    assert len(store.list_keys("spool")) == 1
    there = machine()
    wait_until(lambda: status(here, ticket) == "done")
    found = here.jobs.find(ticket)
    assert found is not None
    result = here.open_result(found.name)
    assert result is not None
    assert Image.open(BytesIO(read(result))).size == (60, 60)
    assert there.statistics()["inferences"] == 1
    wait_until(lambda: store.list_keys("spool") == [])


def break_store(runner: Runner, seconds: float = 60) -> None:
    """Make a machine believe that the store has just failed."""
    assert runner.resources.remote is not None
    runner.resources.remote._is_down = True
    runner.resources.remote._down_until = time.monotonic() + seconds


def status(runner: Runner, ticket: str) -> str:
    found = runner.jobs.find(ticket)
    return found.state if found else "unknown"


def is_done(runner: Runner, ticket: str) -> bool:
    return status(runner, ticket) == "done"


def test_upload_that_was_changed_in_the_store_is_not_computed(
    machine: MachineMaker, store: RemoteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doubts, "DOUBT_SECONDS", 1.0)
    here = machine()
    here.keeper.stop()
    ticket = here.submissions.submit(make_upload(1), options=Options())
    (key,) = store.list_keys("spool")
    store.put(key, make_upload(2).file)
    machine()
    wait_until(lambda: status(here, ticket) == "failed")
    found = here.jobs.find(ticket)
    assert found is not None
    assert found.problem is not None
    assert found.problem["code"] == "upload_lost"


def test_while_the_store_is_down_hits_go_on_and_new_work_is_refused(
    machine: MachineMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = machine(), machine()
    made = here.enhance(make_upload(1))
    read(made)
    for runner in (here, there):
        break_store(runner)
    hit = here.enhance(make_upload(1))
    assert hit.hit
    read(hit)
    for work in (here.enhance, there.enhance):
        with pytest.raises(StoreDown) as caught:
            work(make_upload(2))
        assert (caught.value.status, caught.value.code) == (503, "store_unavailable")
        assert caught.value.retry_after_seconds
    with pytest.raises(StoreDown):
        here.submissions.submit(make_upload(2), options=Options())
    assert here.cache.contains(made.name)


def test_job_outlives_an_outage_of_the_store(
    machine: MachineMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = machine()
    here.keeper.stop()
    ticket = here.submissions.submit(make_upload(1), options=Options())
    claims: list[str] = []
    claim_next = Jobs.claim_next

    def note(jobs: Jobs, max_pixels: int | None = None) -> Claim | None:
        claim = claim_next(jobs, max_pixels)
        claims.extend([claim.name] if claim else [])
        return claim

    monkeypatch.setattr(Jobs, "claim_next", note)
    there = machine(started=False)
    break_store(there)
    there.start()
    wait_until(lambda: bool(claims))
    time.sleep(2)
    assert status(here, ticket) in {"queued", "running"}
    assert 1 <= len(claims) < 8  # repeatedly, but with pauses
    break_store(there, seconds=0)
    wait_until(lambda: status(here, ticket) == "done")


def test_job_waits_while_the_store_can_be_read_only(
    machine: MachineMaker, monkeypatch: pytest.MonkeyPatch, fake_model: FakeModel
) -> None:
    here = machine()

    def fail(*_arguments: object, **_more: object) -> None:
        raise OSError("full")

    assert here.resources.remote is not None
    here.keeper.stop()
    ticket = here.submissions.submit(make_upload(1), options=Options())
    there = machine(started=False)
    assert there.resources.remote is not None
    obstore = SimpleNamespace(**vars(there.resources.remote._obstore))
    monkeypatch.setattr(there.resources.remote, "_obstore", obstore)
    monkeypatch.setattr(obstore, "put", fail)
    monkeypatch.setattr(remote_store, "DOWN_SECONDS", 0.1)
    there.start()
    time.sleep(4)
    assert status(here, ticket) in {"queued", "running"}
    assert there.statistics()["inferences"] == 1
    monkeypatch.undo()
    wait_until(lambda: status(here, ticket) == "done")


def test_result_whose_store_fails_at_the_end_is_delivered_all_the_same(
    machine: MachineMaker, fake_model: FakeModel
) -> None:
    here = machine()
    here.keeper.stop()  # a successful sweep would show that the store works
    fake_model.may_go_on.clear()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(here.enhance, make_upload(1))
        wait_until(lambda: here.statistics()["lanes_busy"] == 1)
        break_store(here)
        fake_model.may_go_on.set()
        result = waiting.result()
    assert not isinstance(result.content, StoredResult)
    assert here.statistics()["cache_write_errors"] == 1
    assert list(here.cache.scan()) == []  # nothing is promised that others do not have


def test_result_that_was_removed_from_the_store_is_not_served_for_long(
    machine: MachineMaker, store: RemoteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = machine()
    made = here.enhance(make_upload(1))
    read(made)
    store.remove([result_key(made.name)])
    stored = here.cache.open(made.name)
    assert stored is not None
    stored.file.close()
    monkeypatch.setattr(tiers, "CONFIRM_SECONDS", 0)
    assert here.cache.open(made.name) is None
    assert list(here.cache.scan()) == []


def test_job_that_another_version_accepted_is_computed_under_this_ones_name(
    machine: MachineMaker,
) -> None:
    here = machine(keep_metadata="none")
    here.keeper.stop()
    tickets = [here.submissions.submit(make_upload(1), options=Options()) for _ in range(2)]
    there = machine()
    for ticket in tickets:
        wait_until(partial(is_done, here, ticket))
        found = here.jobs.find(ticket)
        assert found is not None
        assert found.name == there.result_name(make_upload(1).key)
        result = here.open_result(found.name)
        assert result is not None
        read(result)


def test_forgotten_uploads_are_old_by_an_hour(store: RemoteStore) -> None:
    spool = RemoteSpool(store, 4)
    name = spool.store(BytesIO(b"1"), "table")
    with pytest.MonkeyPatch.context() as patch:
        assert list(spool.old_names(0)) == []
        patch.setattr(tiers, "SPOOL_SWEEP_SECONDS", 0)
        assert list(spool.old_names(0)) == []
        patch.setattr(tiers, "SPOOL_GRACE_SECONDS", 0)
        assert list(spool.old_names(0)) == [name]
    file = spool.open(name)
    assert file is not None
    with file:
        assert file.read() == b"1"
    spool.remove(name)
    assert spool.open(name) is None


def test_uploads_of_all_machines_count_in_the_store(
    store: RemoteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = RemoteSpool(store, 8), RemoteSpool(store, 8)
    first = here.store(BytesIO(b"12"), "table", "a")
    with pytest.raises(Busy, match="your queued uploads"):
        here.store(BytesIO(b"1"), "table", "a")
    for client in "bcd":
        here.store(BytesIO(b"12"), "table", client)
    assert here.used_bytes == 8
    list(there.old_names(0))
    with pytest.raises(Busy, match="all queued uploads"):
        there.store(BytesIO(b"1"), "table", "e")
    # The machine that computed it removes it; the others notice when they need space.
    there.remove(first)
    there.store(BytesIO(b"1"), "table", "e")
    with pytest.raises(Busy, match="all queued uploads"):
        here.store(BytesIO(b"12"), "table", "f")
    monkeypatch.setattr(tiers, "SPOOL_RECOUNT_SECONDS", 0)
    here.store(BytesIO(b"1"), "table", "f")
    assert here.used_bytes == 8
    with pytest.raises(UploadTooLarge):
        here.store(BytesIO(b"123"), "table", "g")


def test_deleting_an_upload_deletes_it_in_the_store(
    machine: MachineMaker, store: RemoteStore, store_url: str, tmp_path: Path
) -> None:
    made = machine().enhance(make_upload(1))
    other = machine().enhance(make_upload(2))
    read(made), read(other)
    key = made.name.partition(".")[0]
    done = subprocess.run(
        [sys.executable, "cleanup_cache.py", "--delete", key],
        cwd=PROJECT_DIR,
        env={**os.environ, "SR_STORE_URL": store_url, "SR_CACHE_DIR": str(tmp_path / "cache0")},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert f"/cache/{made.name}" in done.stdout
    assert "removed 1 results" in done.stdout
    assert not store.contains(result_key(made.name))
    assert store.contains(result_key(other.name))
