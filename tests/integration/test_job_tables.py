"""The jobs table's schema: versions, migrations, totals and limits."""

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from superres.errors import Busy, ConfigError, DatabaseDown
from superres.jobs import job_upkeep, jobs
from superres.jobs.database import Database
from superres.jobs.jobs import Jobs
from superres.jobs.jobs_schema import FIRST, SCHEMA
from superres.jobs.migrations import Migration
from superres.jobs.postgres_database import PostgresDatabase
from superres.jobs.sqlite_database import SqliteDatabase

Connect = Callable[..., Database]
OPEN_SUMS = """SELECT state, (spool IS NOT NULL), count(*), sum(pixels) FROM jobs GROUP BY 1, 2"""


@pytest.fixture(params=["sqlite", "postgres"])
def connect(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Connect]:
    """Make another connection to the same database, with a schema."""
    made: list[Database] = []
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else ""

    def make(schema: tuple[Migration, ...] = SCHEMA) -> Database:
        made.append(
            PostgresDatabase(url, schema) if url else SqliteDatabase(tmp_path / "jobs.db", schema)
        )
        return made[-1]

    yield make
    for database in made:
        database.close()


def check_sums(database: Database) -> None:
    """Compare the counters with the rows."""
    counted: Counter[tuple[str, bool]] = Counter()
    pixels: Counter[tuple[str, bool]] = Counter()
    for state, spooled, number, total in database.execute(OPEN_SUMS):
        counted[state, bool(spooled)] = number
        pixels[state, bool(spooled)] = int(total)
    kept: Counter[tuple[str, bool]] = Counter()
    kept_pixels: Counter[tuple[str, bool]] = Counter()
    for what, spooled, number, total in database.execute(
        "SELECT what, spooled, number, pixels FROM totals WHERE what <> 'tickets'"
    ):
        kept[what, bool(spooled)] += number
        kept_pixels[what, bool(spooled)] += total
    assert (+kept, +kept_pixels) == (+counted, +pixels)
    assert min([0, *kept.values(), *kept_pixels.values()]) == 0
    rows = database.execute("SELECT sum(number) FROM totals WHERE what = 'tickets'")
    assert [(int(rows[0][0] or 0),)] == database.execute("SELECT count(*) FROM tickets")


def test_counters_follow_whatever_happens_to_jobs(connect: Connect) -> None:
    tables = [Jobs(connect(), f"host:{number}:") for number in range(4)]

    def act(number: int) -> None:
        draw, table = random.Random(number), tables[number]
        for _ in range(60):
            name = f"job{draw.randrange(8)}"
            kind = draw.randrange(9)
            if kind < 3:
                ticket, _ = table.submit(name, {}, draw.randrange(1, 9), f"spool {number}")
                if draw.random() < 0.3:
                    table.withdraw(ticket)
                    table.cancel_unless_wanted(name)
            elif kind < 5:
                claim = table.claim_next()
                if claim is not None and draw.random() < 0.8:
                    table.finish(claim.name, {"status": 500} if draw.random() < 0.3 else None)
            elif kind == 5:
                table.claim(name, {}, 3, 10)
            elif kind == 6:
                table.release_all()
            elif kind == 7:
                table.requeue_abandoned(f"host:{draw.randrange(4)}:")
            else:
                table.purge(draw.choice([0, 1000]))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(act, range(4)))
    check_sums(tables[0].database)


def old_statements(database: Database) -> None:
    """Do what a process of the first release does when it connects, accepts, claims and ends."""
    for statement in FIRST:
        database.execute(statement)
    database.execute("INSERT INTO tickets (ticket, name, created) VALUES ('t3', 'c', now())")
    database.execute(
        """INSERT INTO jobs (name, state, options, pixels, spool, created, updated)
        VALUES ('c', 'queued', '{}', 7, 'upload c', now(), now())
        ON CONFLICT (name) DO UPDATE SET updated = now() RETURNING spool"""
    )
    rank = "(jobs.pixels - (now() - jobs.created) * 20000)"
    claimed = database.execute(
        f"""UPDATE jobs SET state = 'running', owner = 'old', lease_until = now() + 10
        WHERE state = 'queued' AND name = (
            SELECT name FROM jobs WHERE state = 'queued' AND spool IS NOT NULL
            ORDER BY {rank}, created LIMIT 1 FOR UPDATE SKIP LOCKED)
        RETURNING name"""
    )
    database.execute(
        "UPDATE jobs SET state = 'done', owner = NULL WHERE name = ? AND owner = 'old'", claimed[0]
    )


def test_tables_of_the_first_release_keep_their_jobs_and_serve_its_processes_on(
    connect: Connect,
) -> None:
    old = connect(())
    for statement in FIRST:
        old.execute(statement)
    old.execute(
        """INSERT INTO jobs (name, state, options, pixels, spool, created, updated) VALUES
        ('a', 'queued', '{"format": "png"}', 5, 'upload a', now() - 60, now()),
        ('b', 'done', '{}', 6, NULL, now(), now())"""
    )
    old.execute("INSERT INTO tickets (ticket, name, created) VALUES ('t1', 'a', now())")
    old.execute("INSERT INTO tickets (ticket, name, created) VALUES ('t2', 'b', now())")
    new = Jobs(connect(), "new")
    queued, done = new.find("t1"), new.find("t2")
    assert queued is not None
    assert done is not None
    assert (queued.state, queued.options, done.state) == ("queued", {"format": "png"}, "done")
    check_sums(old)
    old_statements(old)  # claims "a", which has waited longest
    check_sums(old)
    assert new.backlog("c").has_it
    claim = new.claim_next()
    assert claim is not None
    assert (claim.name, claim.spool) == ("c", "upload c")
    new.finish("c")
    check_sums(old)
    assert new.count_states()["done"] == 3


def test_two_that_come_first_make_the_tables_once(connect: Connect) -> None:
    databases = [connect() for _ in range(4)]
    barrier = threading.Barrier(4)

    def start(database: Database) -> str:
        barrier.wait(20)
        return Jobs(database, "a").table_id()

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(start, databases))) == 1


NEXT = len(SCHEMA) + 1


def step(oldest_code: int, *statements: str) -> Migration:
    return Migration(NEXT, oldest_code, statements, statements)


def test_step_runs_once_and_one_that_fails_leaves_nothing(connect: Connect) -> None:
    table_id = Jobs(connect(), "a").table_id()
    more = "ALTER TABLE jobs ADD COLUMN more INTEGER NOT NULL DEFAULT 1"
    broken = (*SCHEMA, step(1, more, "SELECT nonsense"))
    database = connect(broken)
    for _ in range(2):
        database._down_until = 0.0
        with pytest.raises(DatabaseDown):
            database.execute("SELECT 1")
    mended = (*SCHEMA, step(1, more))  # fails if the column exists
    for _ in range(2):
        assert Jobs(connect(mended), "a").table_id() == table_id
    assert connect(()).execute("SELECT version, oldest_code FROM schema_version") == [(NEXT, 1)]
    # A release that does not know the migration keeps working.
    assert Jobs(connect(), "a").submit("name", {}, 1, "upload")[1] == "upload"


def test_tables_of_a_newer_release_that_changed_them_are_refused(connect: Connect) -> None:
    Jobs(connect((*SCHEMA, step(NEXT))), "a").table_id()
    database = connect()
    with pytest.raises(ConfigError, match="newer release"):
        database.check()


def test_connection_that_fails_on_its_way_back_holds_no_lock(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = PostgresDatabase(postgres_url, SCHEMA)
    (backend,) = database.execute("SELECT pg_backend_pid()")[0]
    other = PostgresDatabase(postgres_url, ())
    other.execute("SELECT pg_terminate_backend(?)", [backend])
    database._schema = (*SCHEMA, step(1, "SELECT nonsense"))
    with pytest.raises(DatabaseDown):
        database.execute("SELECT 1")
    assert other.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [(0,)]
    database._schema = SCHEMA
    database._down_until = 0.0
    assert database.execute("SELECT 1") == [(1,)]  # not on the failed connection
    database.close()
    other.close()


# --- limits


def test_job_has_so_many_tickets_and_no_more(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "MAX_TICKETS_OF_JOB", 5)
    table = Jobs(connect(), "a")
    for _ in range(5):
        table.submit("name", {}, 1, "upload")
    with pytest.raises(Busy) as caught:
        table.submit("name", {}, 1, "upload")
    assert caught.value.retry_after_seconds
    table.submit("another", {}, 1, "upload")
    assert table.database.execute("SELECT count(*) FROM tickets") == [(6,)]


def test_full_table_gives_no_ticket_and_forgets_the_oldest_that_have_ended(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (jobs, job_upkeep):
        monkeypatch.setattr(module, "MAX_ROWS", 20)
    table = Jobs(connect(), "a")
    tickets = [table.submit(f"job{number}", {}, number + 1, "upload")[0] for number in range(20)]
    with pytest.raises(Busy):
        table.submit("late", {}, 1, "upload")
    table.purge(1000)
    with pytest.raises(Busy):  # all are open
        table.submit("late", {}, 1, "upload")
    assert table.claim_next()
    table.finish("job0")
    table.purge(1000)
    assert table.find(tickets[0]) is None
    assert table.find(tickets[1]) is not None
    table.submit("late", {}, 1, "upload")
    check_sums(table.database)


def test_position_is_counted_up_to_its_limit(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "MAX_POSITION", 3)
    table = Jobs(connect(), "a")
    tickets = [table.submit(f"job{size}", {}, size * 10**6, "u")[0] for size in range(1, 7)]
    found = [table.find(ticket) for ticket in tickets]
    assert [status.position for status in found if status] == [0, 1, 2, 3, 3, 3]
    assert [status.pixels_ahead // 10**6 for status in found if status] == [1, 3, 6, 10, 11, 12]


def test_long_queue_is_looked_through_part_by_part(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_upkeep, "BATCH", 2)
    table = Jobs(connect(), "a")
    tickets = [table.submit(f"job{number}", {}, number + 1, "u")[0] for number in range(5)]
    for ticket in tickets[:2] + tickets[4:]:
        table.withdraw(ticket)
    for _ in range(3):
        table.purge(1000)
    states: dict[str, str] = dict(table.database.execute("SELECT name, state FROM jobs"))
    assert [states[f"job{number}"] for number in range(5)] == [
        *("cancelled", "cancelled", "queued", "queued", "cancelled")
    ]


def test_text_stays_text_in_a_database_without_an_encoding(postgres_url: str) -> None:
    # As initdb makes it where no locale is set.
    options = "ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS ascii")
        connection.execute(f"CREATE DATABASE ascii {options}")
    database = PostgresDatabase(urlsplit(postgres_url)._replace(path="/ascii").geturl(), SCHEMA)
    try:
        assert database.execute("SELECT 'name'::text") == [("name",)]
    finally:
        database.close()
