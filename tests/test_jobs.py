"""The jobs table, on both engines."""

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import jobs
from databases import Database, PostgresDatabase, SqliteDatabase
from errors import DatabaseDown
from jobs import SCHEMA, Jobs
from tests.postgres import run_postgres

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


def state(table: Jobs, ticket: str) -> str:
    status = table.find(ticket)
    assert status is not None
    return status.state


def test_submitted_job_is_queued_claimed_renewed_and_done(here: Jobs) -> None:
    ticket = here.submit("name", {"format": "png"}, 5000)
    status = here.find(ticket)
    assert status is not None
    assert (status.state, status.position, status.pixels_ahead) == ("queued", 0, 5000)
    assert (status.name, status.options) == ("name", {"format": "png"})
    claim = here.claim_next()
    assert claim == jobs.Claim("name", {"format": "png"}, 5000)
    assert here.claim_next() is None
    assert here.renew("name", 3, 4)
    status = here.find(ticket)
    assert status is not None
    assert (status.state, status.tiles_done, status.pixels_ahead) == ("running", 3, 1250)
    here.finish("name")
    assert state(here, ticket) == "done"
    assert here.open_jobs() == {}


def test_unknown_ticket_is_none(here: Jobs) -> None:
    assert here.find("nothing") is None
    assert here.withdraw("nothing") is None


def test_smallest_comes_first_and_waiting_counts(here: Jobs) -> None:
    tickets = [here.submit(f"job{pixels}", {}, pixels) for pixels in (9000, 1000, 5000)]
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
        tables[0].submit(f"queued{round_number}", {}, 1)
        barrier = threading.Barrier(8)

        def race(
            table: Jobs, number: int = round_number, start: threading.Barrier = barrier
        ) -> int:
            start.wait(20)
            return table.claim(f"waited{number}", {}, 1, 10) + bool(table.claim_next())

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(race, tables)) == 2


def test_claim_for_a_waiting_request_takes_a_queued_job(here: Jobs, there: Jobs) -> None:
    ticket = here.submit("name", {}, 100)
    assert there.claim("name", {}, 100, 10)
    assert not here.claim("name", {}, 100, 10)
    assert here.claim_next() is None
    there.finish("name")
    assert state(here, ticket) == "done"
    assert here.claim("name", {}, 100, 10)  # its result was cleaned up


def test_failed_job_tells_why_and_is_made_anew(here: Jobs) -> None:
    ticket = here.submit("name", {}, 100)
    here.claim_next()
    here.finish("name", {"status": 422, "code": "undecodable_image", "message": "No."})
    status = here.find(ticket)
    assert status is not None
    assert status.state == "failed"
    assert status.problem == {"status": 422, "code": "undecodable_image", "message": "No."}
    again = here.submit("name", {}, 100)
    assert (state(here, again), state(here, ticket)) == ("queued", "queued")


def test_withdrawn_job_is_cancelled_when_nobody_else_wants_it(here: Jobs) -> None:
    first, second = (here.submit("name", {}, 100) for _ in range(2))
    assert here.claim_next()
    assert here.withdraw(first) == "name"
    assert not here.cancel_unless_wanted("name")
    assert (state(here, first), state(here, second)) == ("cancelled", "running")
    here.withdraw(second)
    assert here.cancel_unless_wanted("name")
    assert not here.renew("name", 1, 2)
    here.finish("name")
    assert state(here, second) == "cancelled"


def test_waiting_request_keeps_a_job_alive(here: Jobs, there: Jobs) -> None:
    ticket = here.submit("name", {}, 100)
    assert here.claim("name", {}, 100, 10)
    there.withdraw(ticket)
    assert not there.cancel_unless_wanted("name")
    here.want("name", 0)
    assert there.cancel_unless_wanted("name")


def test_job_of_an_owner_that_died_is_queued_again(
    here: Jobs, there: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "LEASE_SECONDS", 0.2)
    ticket = here.submit("name", {}, 100)
    assert here.claim_next()
    assert here.claim("waited", {}, 100, 10)
    there.give_up_dead()
    assert state(there, ticket) == "running"
    time.sleep(0.25)
    there.give_up_dead()
    assert state(there, ticket) == "queued"
    assert not here.renew("name", 1, 2)
    assert there.claim_next()
    rows = there.database.execute("SELECT state FROM jobs WHERE name = 'waited'")
    assert rows == [("cancelled",)]


def test_lease_far_in_the_future_is_over(here: Jobs, there: Jobs) -> None:
    here.submit("name", {}, 100)
    assert here.claim_next()
    here.database.execute("UPDATE jobs SET lease_until = lease_until + 3600")
    there.give_up_dead()
    assert there.claim_next()


def test_dead_process_is_told_by_its_prefix(here: Jobs, there: Jobs) -> None:
    tickets = [here.submit(name, {}, 100) for name in ("mine", "theirs")]
    assert here.claim_next()
    assert there.claim_next()
    there.give_up_dead("host:1:")
    assert [state(there, ticket) for ticket in tickets] == ["queued", "running"]


def test_job_that_kills_its_process_three_times_has_failed(here: Jobs) -> None:
    ticket = here.submit("name", {}, 100)
    for _ in range(3):
        assert here.claim_next()
        here.give_up_dead("host:1:")
    status = here.find(ticket)
    assert status is not None
    assert status.state == "failed"
    assert status.problem is not None
    assert status.problem["code"] == "internal_error"
    assert here.claim_next() is None


def test_handing_over_is_no_failed_attempt(here: Jobs, there: Jobs) -> None:
    ticket = here.submit("name", {}, 100)
    for _ in range(5):
        assert here.claim_next()
        here.hand_over()
        assert state(here, ticket) == "queued"
    assert there.claim_next()


def test_old_tickets_are_forgotten_and_their_jobs_cancelled(here: Jobs) -> None:
    done, queued = (here.submit(name, {}, 100) for name in ("done", "queued"))
    assert here.claim("done", {}, 100, 0)
    here.finish("done")
    here.purge(100)
    assert (state(here, done), state(here, queued)) == ("done", "queued")
    here.database.execute("UPDATE jobs SET updated = updated - 200")
    here.database.execute("UPDATE tickets SET created = created - 200")
    here.purge(100)
    assert here.find(done) is here.find(queued) is None
    assert here.database.execute("SELECT name, state FROM jobs") == [("queued", "cancelled")]


# --- engines that fail


def test_sqlite_file_that_is_deleted_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite3"
    first, second = (Jobs(SqliteDatabase(path, SCHEMA), name) for name in "ab")
    first.submit("lost", {}, 1)
    for file in tmp_path.iterdir():
        file.unlink()
    ticket = first.submit("kept", {}, 1)
    assert state(second, ticket) == "queued"


def test_sqlite_that_cannot_be_written_is_down_and_recovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    obstacle = tmp_path / "state"
    obstacle.write_text("a file where the folder belongs")
    table = Jobs(SqliteDatabase(obstacle / "jobs.sqlite3", SCHEMA), "a")
    with pytest.raises(DatabaseDown):
        table.open_jobs()
    obstacle.unlink()
    with pytest.raises(DatabaseDown):  # it is not tried with every request
        table.open_jobs()
    monkeypatch.setattr("databases.DOWN_SECONDS", 0.0)
    table.database._down_until = 0.0
    assert table.open_jobs() == {}


def test_postgres_that_went_away_is_down_and_comes_back() -> None:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        with run_postgres(Path(name) / "postgres") as url:
            table = Jobs(PostgresDatabase(url, SCHEMA), "a")
            ticket = table.submit("name", {}, 1)
            table.database.execute("SELECT 1")
            with pytest.raises(DatabaseDown):
                # The server ends this connection, as a restart does; the next one is fresh.
                table.database.execute("SELECT pg_terminate_backend(pg_backend_pid())")
            table.database._down_until = 0.0
            assert state(table, ticket) == "queued"
        with pytest.raises(DatabaseDown):
            table.open_jobs()
    table.database.close()
