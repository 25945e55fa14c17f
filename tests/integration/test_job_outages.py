"""Asynchronous requests while the jobs table goes away, comes back, or is replaced."""

import errno
import os
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient
from PIL import Image

from superres.disk import BLOCK_BYTES, DiskSpace
from superres.errors import DatabaseDown
from superres.service import job_keeper
from superres.service.runner import Runner
from superres.settings import Settings
from superres.store import result_cache
from superres.store.result_name import generate_file_hash
from testkit.app_client import AppMaker, assert_problem, upload
from testkit.fakes import FakeModel
from testkit.pictures import PNG, encode, make_upload
from testkit.postgres import PostgresServer, run_server
from testkit.waiting import wait_until

ASYNC = {"Prefer": "respond-async"}


def wait_for(client: FlaskClient, path: str, state: str) -> dict[str, Any]:
    """Poll until a job has a state, whatever the responses are until then."""
    seen: dict[str, Any] = {}

    def is_there() -> bool:
        seen.update(client.get(path).get_json())
        return seen.get("state") == state

    wait_until(is_there, f"it never was {state}")
    return seen


# --- jobs of a newer version


@pytest.mark.parametrize(
    "options",
    ['{"format": "jxl"}', '{"format":"jxl","scale":3}', '{"format": "png", "tone_map": true}'],
    ids=["format", "written in another way", "option"],
)
def test_job_that_only_a_newer_version_can_compute_is_left_to_it(
    client: FlaskClient,
    runner: Runner,
    options: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key = generate_file_hash(PNG)
    tickets = []
    # Nothing is claimed until the rows are as the newer version writes them.
    with monkeypatch.context() as paused:
        paused.setattr(runner.keeper._executor, "claimable_pixels", lambda: 0)
        for number in range(3):
            spool = runner.spool.store(BytesIO(PNG), runner.jobs.table_id())
            ticket, _ = runner.jobs.submit(f"{key}.newer{number}.jxl", {}, 1 + number, spool)
            runner.jobs.database.execute(
                "UPDATE jobs SET options = ? WHERE spool = ?", [options, spool]
            )
            tickets.append(ticket)
    runner.keeper.wake()
    # Other jobs get their turn, though these are smaller.
    for shade in range(3):
        accepted = upload(client, content=make_upload(shade).file.read(), headers=ASYNC)
        wait_for(client, accepted.get_json()["status_url"], "done")
    wait_until(lambda: runner.jobs.count_states()["running"] == 0)
    rows = runner.jobs.database.execute(
        "SELECT state, attempts, owner FROM jobs WHERE name LIKE '%newer%'"
    )
    assert rows == [("queued", 0, None)] * 3
    wait_until(lambda: len(list((runner.cache.folder / "spool").iterdir())) == 3)
    assert caplog.text.count("left to a newer version") == 1
    # Its status is available here, too, and it can be withdrawn.
    for ticket in tickets:
        assert client.get(f"/api/jobs/{ticket}").get_json()["state"] == "queued"
        assert client.delete(f"/api/jobs/{ticket}").status_code == 204
    assert list((runner.cache.folder / "spool").iterdir()) == []


# --- a table that goes away


@pytest.mark.parametrize("prefer", ["respond-async", "respond-async, wait=1"])
def test_accepted_upload_has_its_ticket_though_the_database_goes_away(
    client: FlaskClient,
    runner: Runner,
    fake_model: FakeModel,
    prefer: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_model.may_go_on.clear()
    database = runner.jobs.database
    execute, submit = database.execute, runner.jobs.submit

    def go_away(*arguments: Any) -> tuple[str, str]:
        accepted = submit(*arguments)
        monkeypatch.setattr(database, "execute", refuse)
        return accepted

    def refuse(*_arguments: Any) -> list[Any]:
        raise DatabaseDown("It is away.", 1)

    monkeypatch.setattr(runner.jobs, "submit", go_away)
    response = upload(client, headers={"Prefer": prefer})
    assert response.status_code == 202
    status = response.get_json()
    assert status["state"] == "queued"
    assert response.headers["Location"] == status["status_url"]
    assert int(response.headers["Retry-After"]) >= 1
    assert_problem(client.get(status["status_url"]), 503, "jobs_unavailable")
    monkeypatch.setattr(database, "execute", execute)
    fake_model.may_go_on.set()
    wait_for(client, status["status_url"], "done")


def test_long_poll_goes_on_after_the_database_was_away(
    client: FlaskClient, runner: Runner, fake_model: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_model.may_go_on.clear()
    path = upload(client, headers=ASYNC).get_json()["status_url"]
    wait_for(client, path, "running")
    glance, failures = runner.jobs.glance, iter(range(3))

    def fail_first(ticket: str) -> tuple[str, int] | None:
        if next(failures, None) is not None:
            raise DatabaseDown("It is away.", 1)
        fake_model.may_go_on.set()
        return glance(ticket)

    monkeypatch.setattr(runner.jobs, "glance", fail_first)
    response = client.get(path, headers={"Prefer": "wait=30"})
    assert response.status_code == 200
    assert next(failures, None) is None


# --- a table that is replaced


def test_upload_outlives_a_database_that_was_empty_for_a_while(
    make_app: AppMaker,
    settings: Settings,
    fake_model: FakeModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("superres.jobs.database.DOWN_SECONDS", 0.0)
    monkeypatch.setattr(job_keeper, "SWEEP_SECONDS", 0.1)
    monkeypatch.setattr(job_keeper, "SPOOL_GRACE_SECONDS", 0.2)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        Path(name).chmod(0o755)
        first = stack.enter_context(run_server(Path(name) / "first"))
        app = make_app(replace(settings, database_url=first.url))
        client, runner = app.test_client(), app.extensions["runner"]
        stack.callback(runner.stop)
        fake_model.may_go_on.clear()
        path = upload(client, headers=ASYNC).get_json()["status_url"]
        wait_for(client, path, "running")
        (kept,) = (settings.cache_dir / "spool").iterdir()
        first.stop()
        second = PostgresServer(Path(name) / "second", first.port)
        second.start()
        try:
            wait_until(lambda: client.get(path).status_code == 404)
            # An upload of this table without a job: once it is gone, the others were checked.
            forgotten = runner.spool.store(BytesIO(PNG), runner.jobs.table_id())
            wait_until(lambda: not (kept.parent / forgotten).exists())
            assert kept.exists()
        finally:
            second.stop()
        first.start()
        fake_model.may_go_on.set()
        assert wait_for(client, path, "done")["result"]
        wait_until(lambda: not kept.exists())


def test_database_that_is_replaced_during_a_sweep_costs_no_upload(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner.keeper.stop()
    monkeypatch.setattr(job_keeper, "SPOOL_GRACE_SECONDS", 0.0)
    spool = runner.spool.store(BytesIO(PNG), runner.jobs.table_id())
    identities = iter([runner.jobs.table_id(), "another"])
    with monkeypatch.context() as patch:
        patch.setattr(runner.jobs, "table_id", lambda: next(identities))
        runner.keeper._sweep_spool()
    assert (runner.cache.folder / "spool" / spool).exists()
    wait_until(lambda: sweep(runner, spool))


def sweep(runner: Runner, name: str) -> bool:
    """Sweep orphaned uploads now; tell whether one is gone."""
    runner.keeper._spool_due = 0.0
    runner.keeper._sweep_spool()
    return not (runner.cache.folder / "spool" / name).exists()


def test_machine_whose_clock_is_ahead_leaves_new_uploads_alone(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner.keeper.stop()
    monkeypatch.setattr(job_keeper, "SPOOL_GRACE_SECONDS", 0.3)
    spool = runner.spool.store(BytesIO(PNG), runner.jobs.table_id())
    path = runner.cache.folder / "spool" / spool
    os.utime(path, times=(0, path.stat().st_mtime - 600))  # this old by the sweeper's clock
    assert not sweep(runner, spool)
    ticket, _ = runner.jobs.submit("name", {}, 100, spool)
    time.sleep(0.3)
    assert not sweep(runner, spool)
    runner.jobs.withdraw(ticket)
    assert runner.jobs.cancel_unless_wanted("name")
    wait_until(lambda: sweep(runner, spool))


# --- a disk that is full


class SmallDisk(DiskSpace):
    """Disk space for a limited number of bytes at a time."""

    def __init__(self, free_bytes: int) -> None:
        self.free_bytes = free_bytes
        self.refusals = 0

    def take(self, size_bytes: int, is_result: bool = True) -> None:
        if size_bytes > self.free_bytes:
            self.refusals += 1
            raise OSError(errno.ENOSPC, "No room")
        self.free_bytes -= size_bytes

    def give_back(self, size_bytes: int, is_result: bool = True) -> None:
        self.free_bytes += size_bytes


def test_accepted_job_waits_for_room_for_its_result(
    client: FlaskClient, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    # There is less space than the result needs, as on a disk that others fill.
    monkeypatch.setattr(result_cache, "PROBE_BYTES", BLOCK_BYTES)
    disk = SmallDisk(2 * BLOCK_BYTES)
    monkeypatch.setattr(runner.cache, "_space", disk)
    pixels = np.random.default_rng(1).integers(0, 256, (90, 90, 3), np.uint8)
    content = encode(Image.fromarray(pixels), "PNG")
    path = upload(client, content=content, headers=ASYNC).get_json()["status_url"]
    wait_until(lambda: disk.refusals >= 6)
    assert client.get(path).get_json()["state"] == "queued"
    assert runner.jobs.database.execute("SELECT attempts FROM jobs") == [(0,)]
    assert runner.statistics()["inferences"] == 1
    # Waiting requests still get it.
    assert upload(client, content=content).status_code == 200
    disk.free_bytes = 10**6
    wait_for(client, path, "done")
