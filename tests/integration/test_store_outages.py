"""A store that is briefly unavailable, or corrupts transfers: nothing is lost."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest

from superres.engines.model_loader import ModelLoader
from superres.engines.upscaler import Upscaler
from superres.errors import StoreDown
from superres.images.options import Options
from superres.jobs.jobs import Jobs
from superres.sandbox.sandbox import Sandbox
from superres.service.runner import Runner
from superres.service.spool_hold import SpoolHold
from superres.settings import Settings
from superres.store import doubts, remote_store
from superres.store.remote_store import RemoteStore
from superres.store.stored_result import StoredResult
from superres.store.tiers import RemoteSpool
from testkit.pictures import make_upload, read
from testkit.s3 import run_s3
from testkit.s3_proxy import REFUSALS, S3Proxy, run_s3_proxy
from testkit.waiting import wait_until

MachineMaker = Callable[..., Runner]


@pytest.fixture(scope="module")
def proxies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Proxy]:
    with (
        run_s3(tmp_path_factory.mktemp("s3") / "server") as server,
        run_s3_proxy(server.url) as proxy,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in (server.environment | {"AWS_ENDPOINT_URL": proxy.url}).items():
            patch.setenv(name, value)
        yield proxy


@pytest.fixture
def proxy(proxies: S3Proxy, monkeypatch: pytest.MonkeyPatch) -> S3Proxy:
    monkeypatch.setattr(remote_store, "DOWN_SECONDS", 0.2)
    return proxies


@pytest.fixture
def store(proxy: S3Proxy, tmp_path: Path) -> RemoteStore:
    return RemoteStore(f"s3://pictures/{tmp_path.name}")


@pytest.fixture
def machine(
    settings: Settings, postgres_url: str, fake_super_resolution: Upscaler, sandbox: Sandbox
) -> Iterator[MachineMaker]:
    """Make machines that share a store and the jobs table."""
    made: list[Runner] = []

    def make(store: RemoteStore) -> Runner:
        changed = replace(
            settings,
            cache_dir=settings.cache_dir.with_name(f"cache{len(made)}"),
            store_url=store.url,
            database_url=postgres_url,
        )
        made.append(Runner(changed, ModelLoader(lambda: fake_super_resolution)))
        made[-1].resources.codec.sandbox = sandbox
        return made[-1]

    yield make
    for runner in made:
        runner.stop()


def state(runner: Runner, ticket: str) -> str:
    found = runner.jobs.find(ticket)
    return found.state if found else "unknown"


def accept(runner: Runner) -> str:
    """Make a machine accept a job that it does not compute."""
    runner.start()
    runner.keeper.stop()
    return runner.submissions.submit(make_upload(1), Options())


# --- buckets


@pytest.mark.parametrize("fault", [*REFUSALS, "no listing"])
def test_what_a_bucket_does_not_show_is_not_gone(
    store: RemoteStore, proxy: S3Proxy, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    store.put("spool/a", BytesIO(b"1"))
    assert store.get("spool/b") is None
    assert not store.contains("spool/b")
    assert store.contains("spool/a")
    uses: list[Callable[[], object]] = [
        lambda: store.get("spool/b"),
        lambda: store.contains("spool/b"),
        lambda: store.list_keys("spool"),
    ]
    if fault != "no listing":
        uses += [lambda: store.remove(["spool/b"]), lambda: store.get("spool/a")]
    with proxy.spoil(fault):
        for use in uses:
            store._is_down = False
            with pytest.raises(StoreDown):
                use()
    told = "s3:ListBucket" in caplog.text
    assert told == (fault in {"forbidden", "no listing"})
    store._is_down = False
    assert store.contains("spool/a")


def test_upload_is_accepted_when_it_has_arrived_whole(store: RemoteStore, proxy: S3Proxy) -> None:
    with proxy.spoil("corrupted writes"), pytest.raises(StoreDown):
        store.put("spool/a", BytesIO(b"an upload"))
    time.sleep(remote_store.DOWN_SECONDS)
    store.put("spool/a", BytesIO(b"an upload"))
    pieces = store.get("spool/a")
    assert pieces is not None
    assert b"".join(pieces) == b"an upload"


@pytest.mark.parametrize("fault", ["no bucket", "expired", "truncated", "corrupted", "cut off"])
def test_job_outlives_a_store_that_fails_for_a_while(
    store: RemoteStore,
    proxy: S3Proxy,
    machine: MachineMaker,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
) -> None:
    monkeypatch.setattr("superres.service.local_jobs.DOUBT_PAUSE_SECONDS", 0.1)
    here, there = machine(store), machine(store)
    ticket = accept(here)
    with proxy.spoil(fault):
        there.start()
        # More often than a job may be attempted.
        wait_until(lambda: proxy.spoiled >= 8)
        assert state(here, ticket) in {"queued", "running"}
    wait_until(lambda: state(here, ticket) == "done")
    rows = here.jobs.database.execute("SELECT attempts FROM jobs")
    assert rows == [(1,)]


def test_upload_that_stays_lost_fails(
    store: RemoteStore, machine: MachineMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doubts, "DOUBT_SECONDS", 1.0)
    monkeypatch.setattr("superres.service.local_jobs.DOUBT_PAUSE_SECONDS", 0.1)
    here, there = machine(store), machine(store)
    ticket = accept(here)
    store.remove(store.list_keys("spool"))
    there.start()
    wait_until(lambda: state(here, ticket) == "failed")
    found = here.jobs.find(ticket)
    assert found is not None
    assert found.problem is not None
    assert found.problem["code"] == "upload_lost"
    assert read(there.enhance(make_upload(2)))


def test_result_that_is_damaged_on_its_way_stays_in_the_store(
    store: RemoteStore, proxy: S3Proxy, machine: MachineMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = machine(store), machine(store)
    here.start()
    there.start()
    made = here.enhance(make_upload(1))
    content = read(made)
    get = RemoteStore.get

    def get_damaged_first(remote: RemoteStore, key: str) -> Iterator[bytes] | None:
        proxy.fault = "corrupted" if proxy.fault == "once" else ""
        pieces = get(remote, key)
        return None if pieces is None else iter([b"".join(pieces)])

    monkeypatch.setattr(RemoteStore, "get", get_damaged_first)
    proxy.fault = "once"
    found = there.enhance(make_upload(1))
    assert (read(found), found.hit) == (content, True)
    assert there.statistics()["cache_damaged"] == 0


def test_request_that_waits_is_answered_without_the_store(
    store: RemoteStore, machine: MachineMaker, proxy: S3Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = machine(store)
    here.start()
    claim = Jobs.claim

    def go_away(table: Jobs, *arguments: object) -> bool:
        proxy.fault = "no bucket"
        return claim(table, *arguments)  # type: ignore[arg-type]  # handed on as they came

    monkeypatch.setattr(Jobs, "claim", go_away)
    try:
        result = here.enhance(make_upload(1))
    finally:
        proxy.fault = ""
    assert not isinstance(result.content, StoredResult)
    assert read(result)


# --- folders


def test_folder_that_is_not_mounted_yet_loses_no_job(
    machine: MachineMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_store, "DOWN_SECONDS", 0.1)
    folder, away = tmp_path / "shared", tmp_path / "away"
    shared = RemoteStore(f"file://{folder}")
    here = machine(shared)
    ticket = accept(here)
    here.stop()
    folder.rename(away)
    folder.mkdir()  # the mount point
    there = machine(shared)
    there.start()
    for _ in range(3):
        assert not there.spool_hold.renew()
    with pytest.raises(StoreDown):
        there.enhance(make_upload(2))
    assert state(here, ticket) == "queued"
    assert not (folder / "spool.id").exists()
    folder.rmdir()
    away.rename(folder)
    wait_until(lambda: state(here, ticket) == "done")


def test_folder_that_goes_away_at_work_is_an_outage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_store, "DOWN_SECONDS", 0.0)
    folder, away = tmp_path / "shared", tmp_path / "away"
    store = RemoteStore(f"file://{folder}", is_marked=True)
    spool = RemoteSpool(store, 1024**2)
    with pytest.raises(StoreDown):  # its mark has not been read yet
        spool.store(BytesIO(b"1"), "table")
    identity = spool.identity(is_known=False)
    name = spool.store(BytesIO(b"1"), "table")
    folder.rename(away)
    folder.mkdir()
    for use in (lambda: spool.open(name), lambda: spool.store(BytesIO(b"2"), "table")):
        with pytest.raises(StoreDown):
            use()
    assert list(folder.iterdir()) == []
    # A different folder in its place is not accepted either.
    other = RemoteStore(f"file://{folder}", is_marked=True)
    assert other.identify(is_known=False) != identity
    with pytest.raises(StoreDown):
        spool.open(name)
    (folder / "spool.id").unlink()
    folder.rmdir()
    away.rename(folder)
    file = spool.open(name)
    assert file is not None
    with file:
        assert file.read() == b"1"


def test_place_is_known_from_the_table(
    machine: MachineMaker, tmp_path: Path, postgres_url: str
) -> None:
    here = machine(RemoteStore(f"file://{tmp_path}/shared"))
    assert isinstance(here.spool_hold, SpoolHold)
    assert not here.spool_hold._is_known()
    assert here.spool_hold.renew()
    assert here.spool_hold._is_known()
    other = machine(RemoteStore(f"file://{tmp_path}/other"))
    assert not other.spool_hold._is_known()
