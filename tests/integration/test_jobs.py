"""The jobs table, on both engines."""

import os
import re
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from superres.errors import DatabaseDown
from superres.jobs import job_records, jobs
from superres.jobs.database import Database
from superres.jobs.job_records import Backlog
from superres.jobs.jobs import Jobs
from superres.jobs.jobs_schema import SCHEMA
from superres.jobs.postgres_database import PostgresDatabase
from superres.jobs.sqlite_database import SqliteDatabase
from testkit.postgres import run_postgres

Connect = Callable[[], Database]


@pytest.fixture(params=["sqlite", "postgres"])
def connect(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Connect]:
    """Make another connection to an empty database, as another process does."""
    made: list[Database] = []
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else ""

    def make() -> Database:
        if request.param == "sqlite":
            made.append(SqliteDatabase(tmp_path / "state" / "jobs.sqlite3", SCHEMA))
        else:
            made.append(PostgresDatabase(url, SCHEMA))
        return made[-1]

    yield make
    for database in made:
        database.close()


@pytest.fixture
def here(connect: Connect) -> Jobs:
    return Jobs(connect(), "host:1:a")


@pytest.fixture
def there(connect: Connect) -> Jobs:
    return Jobs(connect(), "host:2:b")


def submit(table: Jobs, name: str, options: dict[str, Any], pixels: int) -> str:
    return table.submit(name, options, pixels, f"spool of {name}")[0]


def state(table: Jobs, ticket: str) -> str:
    status = table.find(ticket)
    assert status is not None
    return status.state


def test_submitted_job_is_queued_claimed_renewed_and_done(here: Jobs) -> None:
    ticket = submit(here, "name", {"format": "png"}, 5000)
    status = here.find(ticket)
    assert status is not None
    assert (status.state, status.position, status.pixels_ahead) == ("queued", 0, 5000)
    assert (status.name, status.options) == ("name", {"format": "png"})
    claim = here.claim_next()
    assert claim == job_records.Claim("name", {"format": "png"}, 5000, "spool of name")
    assert here.claim_next() is None
    assert here.renew("name", 3, 4)
    status = here.find(ticket)
    assert status is not None
    assert (status.state, status.tiles_done, status.pixels_ahead) == ("running", 3, 1250)
    here.finish("name")
    assert state(here, ticket) == "done"
    assert here.backlog("name") == Backlog(0, 0, False, here.table_id())


def test_unknown_ticket_is_none(here: Jobs) -> None:
    assert here.find("nothing") is None
    assert here.withdraw("nothing") is None


def test_what_is_left_of_running_jobs_is_ahead_unless_they_are_overtaken(here: Jobs) -> None:
    for name, pixels in ("large", 9000), ("new", 4000):
        submit(here, name, {}, pixels)
    assert here.claim_next() and here.claim_next()
    assert here.renew("large", 3, 4)
    ahead = []
    for pixels in 1000, 3000, 5000:
        status = here.find(submit(here, f"job{pixels}", {}, pixels))
        assert status is not None
        ahead.append(status.pixels_ahead)
    assert ahead == [1000, 4000 + 1000 + 3000, 2250 + 4000 + 1000 + 3000 + 5000]


def test_smallest_comes_first_and_waiting_counts(here: Jobs) -> None:
    tickets = [submit(here, f"job{pixels}", {}, pixels) for pixels in (9000, 1000, 5000)]
    positions = []
    for ticket in tickets:
        status = here.find(ticket)
        assert status is not None
        positions.append((status.position, status.pixels_ahead))
    assert positions == [(2, 15000), (0, 1000), (1, 6000)]
    here.database.execute("UPDATE jobs SET created = created - 10 WHERE name = 'job9000'")
    claims = [here.claim_next() for _ in range(3)]
    assert [claim.pixels for claim in claims if claim] == [9000, 1000, 5000]


def test_one_of_many_claims_a_job(connect: Connect) -> None:
    tables = [Jobs(connect(), f"host:{i}:x") for i in range(8)]
    for round_number in range(5):
        submit(tables[0], f"queued{round_number}", {}, 1)
        barrier = threading.Barrier(8)

        def race(
            table: Jobs, number: int = round_number, start: threading.Barrier = barrier
        ) -> int:
            start.wait(20)
            return table.claim(f"waited{number}", {}, 1, 10) + bool(table.claim_next())

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(race, tables)) == 2


def test_claim_for_a_waiting_request_takes_a_queued_job(here: Jobs, there: Jobs) -> None:
    ticket = submit(here, "name", {}, 100)
    assert there.claim("name", {}, 100, 10)
    assert not here.claim("name", {}, 100, 10)
    assert here.claim_next() is None
    there.finish("name")
    assert state(here, ticket) == "done"
    assert here.claim("name", {}, 100, 10)  # its result was evicted


def test_failed_job_tells_why_and_is_made_anew(here: Jobs) -> None:
    ticket = submit(here, "name", {}, 100)
    here.claim_next()
    here.finish("name", {"status": 422, "code": "undecodable_image", "message": "No."})
    status = here.find(ticket)
    assert status is not None
    assert status.state == "failed"
    assert status.problem == {"status": 422, "code": "undecodable_image", "message": "No."}
    again = submit(here, "name", {}, 100)
    assert (state(here, again), state(here, ticket)) == ("queued", "queued")


def test_withdrawn_job_is_cancelled_when_nobody_else_wants_it(here: Jobs) -> None:
    first, second = (submit(here, "name", {}, 100) for _ in range(2))
    assert here.claim_next()
    assert here.withdraw(first) == "name"
    assert not here.cancel_unless_wanted("name")
    assert (state(here, first), state(here, second)) == ("cancelled", "running")
    here.withdraw(second)
    assert here.cancel_unless_wanted("name")
    assert not here.renew("name", 1, 2)
    here.finish("name")
    assert state(here, second) == "cancelled"


def test_job_that_was_cancelled_is_claimed_at_once_when_it_is_submitted_again(here: Jobs) -> None:
    ticket = submit(here, "name", {}, 100)
    assert here.claim_next()
    here.withdraw(ticket)
    assert here.cancel_unless_wanted("name")
    submit(here, "name", {}, 100)
    assert here.claim_next()


def test_waiting_request_keeps_a_job_alive(here: Jobs, there: Jobs) -> None:
    ticket = submit(here, "name", {}, 100)
    assert here.claim("name", {}, 100, 10)
    there.withdraw(ticket)
    assert not there.cancel_unless_wanted("name")
    here.extend_interest("name", 0)
    assert there.cancel_unless_wanted("name")


def test_job_of_an_owner_that_died_is_queued_again(
    here: Jobs, there: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "LEASE_SECONDS", 0.2)
    ticket = submit(here, "name", {}, 100)
    assert here.claim_next()
    assert here.claim("waited", {}, 100, 10)
    there.requeue_abandoned()
    assert state(there, ticket) == "running"
    time.sleep(0.25)
    there.requeue_abandoned()
    assert state(there, ticket) == "queued"
    assert not here.renew("name", 1, 2)
    assert there.claim_next()
    rows = there.database.execute("SELECT state FROM jobs WHERE name = 'waited'")
    assert rows == [("cancelled",)]


def test_owner_renews_its_leases_and_no_others(here: Jobs, there: Jobs) -> None:
    for name in ("first", "second", "ended", "queued"):
        submit(here, name, {}, 100)
    claimed = [here.claim_next() for _ in range(3)]
    assert None not in claimed
    names = [claim.name for claim in claimed if claim is not None]
    here.finish(names.pop())
    assert there.claim("theirs", {}, 100, 10)
    here.renew(names[0], 3, 4)
    here.database.execute("UPDATE jobs SET lease_until = now() - 1 WHERE state = 'running'")
    assert here.renew_all() == {names[0]: (3, 4), names[1]: (0, 0)}
    there.requeue_abandoned()
    rows = here.database.execute("SELECT name FROM jobs WHERE state = 'running' ORDER BY name")
    assert rows == [(name,) for name in sorted(names)]
    assert there.renew_all() == {}


def test_lease_far_in_the_future_is_over(here: Jobs, there: Jobs) -> None:
    submit(here, "name", {}, 100)
    assert here.claim_next()
    here.database.execute("UPDATE jobs SET lease_until = lease_until + 3600")
    there.requeue_abandoned()
    assert there.claim_next()


def test_dead_process_is_told_by_its_prefix(here: Jobs, there: Jobs) -> None:
    tickets = [submit(here, name, {}, 100) for name in ("mine", "theirs")]
    assert here.claim_next()
    assert there.claim_next()
    there.requeue_abandoned("host:1:")
    assert [state(there, ticket) for ticket in tickets] == ["queued", "running"]


def test_job_that_kills_its_process_three_times_has_failed(here: Jobs) -> None:
    ticket = submit(here, "name", {}, 100)
    for _ in range(3):
        assert here.claim_next()
        here.requeue_abandoned("host:1:")
    status = here.find(ticket)
    assert status is not None
    assert status.state == "failed"
    assert status.problem is not None
    assert status.problem["code"] == "internal_error"
    assert here.claim_next() is None


def test_handing_over_is_no_failed_attempt(here: Jobs, there: Jobs) -> None:
    ticket = submit(here, "name", {}, 100)
    for _ in range(5):
        assert here.claim_next()
        here.release_all()
        assert state(here, ticket) == "queued"
    assert there.claim_next()


def test_old_tickets_are_forgotten_and_their_jobs_cancelled(here: Jobs) -> None:
    done, queued = (submit(here, name, {}, 100) for name in ("done", "queued"))
    assert here.claim("done", {}, 100, 0)
    here.finish("done")
    here.purge(100)
    assert (state(here, done), state(here, queued)) == ("done", "queued")
    here.database.execute("UPDATE jobs SET updated = updated - 200")
    here.database.execute("UPDATE tickets SET created = created - 200")
    here.purge(100)
    assert here.find(done) is here.find(queued) is None
    assert here.database.execute("SELECT name, state FROM jobs") == [("queued", "cancelled")]


def test_upload_of_a_job_is_removed_by_whoever_ends_it_and_no_other_is(here: Jobs) -> None:
    assert here.submit("name", {}, 1, "first")[1] == "first"
    ticket, kept = here.submit("name", {}, 1, "second")
    assert kept == "first"  # an open job keeps its upload
    assert here.open_spools(["first", "second"]) == {"first"}
    assert here.claim_next() == job_records.Claim("name", {}, 1, "first")
    assert here.finish("name", {"code": "busy"}) == "first"
    assert here.finish("name") is None  # this process no longer owned it
    third, kept = here.submit("name", {}, 1, "third")
    assert kept == "third"
    for each in (ticket, third):
        here.withdraw(each)
    assert here.cancel_unless_wanted("name") is None  # because of the very first ticket
    here.database.execute("UPDATE tickets SET withdrawn = 1")
    assert here.cancel_unless_wanted("name") == job_records.Cancelled("third")
    assert here.open_spools(["first", "second", "third"]) == set()


def test_job_that_is_given_back_is_tried_again_and_then_failed(here: Jobs) -> None:
    ticket = submit(here, "name", {}, 1)
    for expected in ("queued", "queued", "failed"):
        assert here.claim_next()
        here.requeue("name")
        assert state(here, ticket) == expected


def test_glance_is_the_short_form_of_find(here: Jobs) -> None:
    ticket = submit(here, "name", {}, 1)
    assert here.glance(ticket) == ("queued", 0)
    here.claim_next()
    here.renew("name", 3, 9)
    assert here.glance(ticket) == ("running", 3)
    here.withdraw(ticket)
    assert here.glance(ticket) == ("cancelled", 3)
    assert here.glance("unknown") is None


def test_queries_of_open_jobs_do_not_scan_the_table(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path / "jobs.sqlite3", SCHEMA)
    seen: list[str] = []
    execute = database.execute

    def explain(statement: str, parameters: Any = ()) -> Any:
        if "jobs" in statement and not statement.startswith("INSERT"):
            plan = execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
            seen.extend(str(row[3]) for row in plan)
        return execute(statement, parameters)

    database.execute = explain  # type: ignore[method-assign]
    table = Jobs(database, "a")
    ticket = submit(table, "name", {}, 1)
    table.find(ticket)
    table.glance(ticket)
    table.claim_next()
    table.renew("name", 1, 2)
    table.requeue_abandoned()
    table.backlog("name")
    table.open_spools(["a", "b"])
    table.purge(1)
    database.close()
    assert len(seen) > 8
    assert [plan for plan in seen if re.match(r"SCAN (jobs|other)", plan)] == []


# --- engines that fail


def test_sqlite_file_that_is_deleted_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite3"
    first, second = (Jobs(SqliteDatabase(path, SCHEMA), name) for name in "ab")
    submit(first, "lost", {}, 1)
    for file in tmp_path.iterdir():
        file.unlink()
    ticket = submit(first, "kept", {}, 1)
    assert state(second, ticket) == "queued"
    for table in (first, second):
        table.database.close()


def test_sqlite_that_cannot_be_written_is_down_and_recovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    obstacle = tmp_path / "state"
    obstacle.write_text("a file where the folder belongs")
    table = Jobs(SqliteDatabase(obstacle / "jobs.sqlite3", SCHEMA), "a")
    with pytest.raises(DatabaseDown):
        table.backlog("name")
    obstacle.unlink()
    with pytest.raises(DatabaseDown):  # it is not retried with every request
        table.backlog("name")
    monkeypatch.setattr("superres.jobs.database.DOWN_SECONDS", 0.0)
    table.database._down_until = 0.0
    assert table.backlog("name").jobs == 0
    table.database.close()


def test_postgres_that_went_away_is_down_and_comes_back() -> None:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        with run_postgres(Path(name) / "postgres") as url:
            table = Jobs(PostgresDatabase(url, SCHEMA), "a")
            ticket = submit(table, "name", {}, 1)
            table.database.execute("SELECT 1")
            with pytest.raises(DatabaseDown):
                # The server closes this connection, as in a restart; the next one is fresh.
                table.database.execute("SELECT pg_terminate_backend(pg_backend_pid())")
            table.database._down_until = 0.0
            assert state(table, ticket) == "queued"
        with pytest.raises(DatabaseDown):
            table.backlog("name")
    table.database.close()


def test_text_that_the_server_refuses_does_not_cost_the_connection(postgres_url: str) -> None:
    table = Jobs(PostgresDatabase(postgres_url, SCHEMA), "a")
    ticket = submit(table, "name", {}, 1)
    with pytest.raises(DatabaseDown):
        table.find("\0")
    assert state(table, ticket) == "queued"
    table.database.close()


def test_server_that_stops_answering_is_given_up(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("superres.jobs.postgres_database.STATEMENT_SECONDS", 0.5)
    table = Jobs(PostgresDatabase(postgres_url, SCHEMA), "a")
    (backend,) = table.database.execute("SELECT pg_backend_pid()")[0]
    os.kill(backend, signal.SIGSTOP)
    try:
        # Stopped until the end of this block: the client can only give up.
        with pytest.raises(DatabaseDown):
            table.backlog("name")
    finally:
        os.kill(backend, signal.SIGCONT)
    table.database._down_until = 0.0
    assert table.backlog("name").jobs == 0
    table.database.close()


def test_full_disk_refuses_writes_and_goes_on_reading(tmp_path: Path) -> None:
    table = Jobs(SqliteDatabase(tmp_path / "jobs.sqlite3", SCHEMA), "a")
    ticket = submit(table, "name", {}, 1)
    table.database.execute("PRAGMA query_only = 1")  # rejects writes as a full disk does
    with pytest.raises(DatabaseDown):
        submit(table, "other", {}, 1)
    assert state(table, ticket) == "queued"
    table.database.close()
