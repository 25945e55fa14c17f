"""What a process does with its jobs after the database was away for longer than a lease."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from superres.errors import DatabaseDown
from superres.images.options import Options
from superres.jobs.database import Database, Row
from superres.jobs.job_upkeep import LEASE_SECONDS
from superres.jobs.jobs import Jobs
from superres.jobs.jobs_schema import SCHEMA
from superres.jobs.postgres_database import PostgresDatabase
from superres.jobs.sqlite_database import SqliteDatabase
from superres.service import job_keeper
from superres.service.claimed_uploads import Fetching
from superres.service.runner import Result, Runner
from testkit.fakes import FakeModel
from testkit.pictures import make_upload, read
from testkit.waiting import wait_until


@pytest.fixture(params=["sqlite", "postgres"])
def tables(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Jobs, Jobs]]:
    """Two processes' views of one table."""
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else ""
    made: list[Database] = [
        PostgresDatabase(url, SCHEMA) if url else SqliteDatabase(tmp_path / "jobs.db", SCHEMA)
        for _ in range(2)
    ]
    yield Jobs(made[0], "host:1:a"), Jobs(made[1], "host:2:b")
    for database in made:
        database.close()


def read_rows(table: Jobs) -> list[Row]:
    return table.database.execute("SELECT name, state, owner, attempts FROM jobs ORDER BY name")


# --- the table


def test_job_that_was_swept_is_taken_back_as_the_same_attempt(tables: tuple[Jobs, Jobs]) -> None:
    here, there = tables
    here.submit("a", {}, 1, "spool of a")
    assert here.claim_next()
    there.requeue_abandoned("host:1:")
    assert not here.renew("a", 1, 2)
    assert here.reclaim("a")
    assert here.renew("a", 1, 2)
    assert read_rows(there) == [("a", "running", "host:1:a", 1)]
    there.requeue_abandoned("host:1:")
    assert there.claim_next()
    assert not here.reclaim("a")  # another process has it


def test_job_that_its_owner_does_not_know_of_is_queued_again(tables: tuple[Jobs, Jobs]) -> None:
    here, there = tables
    for name in ("known", "unknown", "theirs"):
        here.submit(name, {}, 1, f"spool of {name}")
    for table in (here, here, there):
        assert table.claim_next()
    owned = {name for name, _, owner, _ in read_rows(here) if owner == "host:1:a"}
    known = min(owned)
    here.requeue_unknown({known})
    states = {name: (state, attempts) for name, state, _, attempts in read_rows(here)}
    (unknown,) = owned - {known}
    assert states.pop(unknown) == ("queued", 0)
    assert set(states.values()) == {("running", 1)}


def test_job_that_waits_for_its_next_attempt_lets_others_pass(tables: tuple[Jobs, Jobs]) -> None:
    here, there = tables
    here.submit("first", {}, 1, "spool of first")
    here.submit("second", {}, 1000, "spool of second")
    claim = here.claim_next()
    assert claim is not None
    assert claim.name == "first"
    here.requeue("first", counts=False, pause_seconds=LEASE_SECONDS)
    claim = there.claim_next()
    assert claim is not None
    assert claim.name == "second"
    assert there.claim_next() is None
    here.database.execute("UPDATE jobs SET lease_until = lease_until - ?", [LEASE_SECONDS])
    assert there.claim_next()
    # A clock that was set back does not make anybody wait.
    here.requeue("first", counts=False)
    there.requeue("first", counts=False)
    here.database.execute("UPDATE jobs SET lease_until = lease_until + 3600")
    assert there.claim_next()


def test_sweep_that_a_frozen_server_runs_late_takes_nothing(
    tables: tuple[Jobs, Jobs], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tables
    here.submit("a", {}, 1, "spool of a")
    assert here.claim_next()
    execute = there.database.execute

    def freeze_before_updates(statement: str, parameters: Sequence[object] = ()) -> list[Row]:
        if statement.lstrip().startswith("UPDATE"):
            here.database.execute("UPDATE jobs SET lease_until = now() + 0.1")
            time.sleep(0.2)
        return execute(statement, parameters)

    monkeypatch.setattr(there.database, "execute", freeze_before_updates)
    there.requeue_abandoned()
    assert read_rows(here) == [("a", "running", "host:1:a", 1)]


# --- the process


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as executor:
        yield executor


OTHERS = {
    "swept": "UPDATE jobs SET state = 'queued', owner = NULL",
    "swept without an upload": "UPDATE jobs SET state = 'cancelled', owner = NULL",
    "taken": "UPDATE jobs SET owner = 'host:2:b', lease_until = now() + 3600",
    "forgotten": "DELETE FROM jobs",
}


def begin_waiting(
    runner: Runner, pool: ThreadPoolExecutor, model: FakeModel, shade: int = 1
) -> Future[Result]:
    """Make a request wait for an image that is computed until the model is released."""
    model.may_go_on.clear()
    waiting = pool.submit(runner.enhance, make_upload(shade))
    wait_until(lambda: runner.statistics()["lanes_busy"] >= 1)
    return waiting


@pytest.mark.parametrize("statement", OTHERS.values(), ids=OTHERS)
def test_who_waits_gets_the_result_whatever_became_of_the_claim(
    runner: Runner, pool: ThreadPoolExecutor, fake_model: FakeModel, statement: str
) -> None:
    waiting = begin_waiting(runner, pool, fake_model)
    (job,) = runner._local_jobs.claimed()
    runner.jobs.database.execute(statement)
    # Until the keeper has noticed.
    wait_until(lambda: runner._local_jobs.claimed() == [] or runner.jobs.renew(job.name, 0, 0))
    assert not job.progress.cancelled
    fake_model.may_go_on.set()
    assert read(waiting.result())
    assert runner.statistics()["inferences"] == 1


def test_job_that_was_swept_goes_on_where_it_was(runner: Runner, fake_model: FakeModel) -> None:
    fake_model.may_go_on.clear()
    runner.submissions.submit(make_upload(1), Options())
    wait_until(lambda: runner.statistics()["lanes_busy"] == 1)
    (job,) = runner._local_jobs.claimed()
    # As after an outage: another process sweeps, but does not claim in time.
    runner.jobs.database.execute(
        "UPDATE jobs SET state = 'queued', owner = NULL, lease_until = now() + 15"
    )
    wait_until(lambda: read_rows(runner.jobs)[0][1] == "running")
    fake_model.may_go_on.set()
    wait_until(lambda: read_rows(runner.jobs)[0][1] == "done")
    assert read_rows(runner.jobs) == [(job.name, "done", None, 1)]
    assert runner.statistics()["inferences"] == 1


def test_job_requeued_before_its_upload_was_open_is_left_to_whoever_claims_it(
    runner: Runner,
) -> None:
    """The thread that opens the upload requeues it if the store is down, for example."""
    runner.keeper.stop()
    runner.submissions.submit(make_upload(1), Options())
    ((name, *_),) = queued = read_rows(runner.jobs)
    fetching = Fetching(name, 1)
    runner._local_jobs.regain(fetching)
    assert read_rows(runner.jobs) == queued == [(name, "queued", None, 0)]
    assert fetching.progress.cancelled


def test_leases_are_renewed_at_once_however_many_there_are(
    runner: Runner, fake_model: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements: list[str] = []
    execute = runner.jobs.database.execute

    def note(statement: str, parameters: Sequence[object] = ()) -> list[Row]:
        statements.append(statement)
        return execute(statement, parameters)

    with ThreadPoolExecutor(9) as many:
        waiting = [begin_waiting(runner, many, fake_model, shade) for shade in range(9)]
        wait_until(lambda: len(runner._local_jobs.claimed()) == len(waiting))
        runner.keeper.stop()
        runner.keeper._renew()  # progress is reported, too, if it has changed
        execute("UPDATE jobs SET lease_until = now()")
        monkeypatch.setattr(runner.jobs.database, "execute", note)
        runner.keeper._renew()
        monkeypatch.undo()
        renewed = execute("SELECT count(*) FROM jobs WHERE lease_until > now()")
        fake_model.may_go_on.set()
        assert all(read(each.result()) for each in waiting)
    # A slow database has the time of one lease for all of them.
    assert len(statements) == 1
    assert renewed == [(len(waiting),)]


def test_nobody_sweeps_before_the_living_could_renew(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = runner.keeper
    keeper.stop()
    swept: list[str] = []
    monkeypatch.setattr(runner.jobs, "requeue_abandoned", lambda: swept.append("swept"))
    clock = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: clock)

    def be_down() -> None:
        keeper._stopped.set()
        raise DatabaseDown("away")

    keeper._stopped.clear()
    keeper._repeat(be_down, keeper._stopped, keeper._stopped)
    clock += LEASE_SECONDS
    keeper._sweep()
    assert swept == []
    clock += 1
    keeper._sweep()
    assert swept == ["swept"]


def test_end_that_could_not_be_recorded_is_found_out(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = runner.jobs.finish
    failed: list[str] = []

    def fail_once(name: str, *others: Any) -> str | None:
        if not failed:
            failed.append(name)
            raise DatabaseDown("away")
        return finish(name, *others)

    monkeypatch.setattr(runner.jobs, "finish", fail_once)
    monkeypatch.setattr(job_keeper, "SWEEP_SECONDS", 0.1)
    runner.submissions.submit(make_upload(1), Options())
    wait_until(lambda: read_rows(runner.jobs)[0][1] == "done")
    assert failed
    assert read_rows(runner.jobs) == [(failed[0], "done", None, 1)]
    assert runner.statistics()["inferences"] == 1
