"""What PostgreSQL can do to its clients, and how they recover."""

import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from superres.errors import DatabaseDown
from superres.jobs.jobs import Jobs
from superres.jobs.jobs_schema import FIRST, SCHEMA
from superres.jobs.postgres_database import PostgresDatabase
from superres.jobs.sqlite_database import SqliteDatabase
from testkit.postgres import PostgresServer, run_pgbouncer, run_server
from testkit.service import find_free_port
from testkit.tcp_proxy import TcpProxy, run_tcp_proxy
from testkit.waiting import wait_until

READ_ONLY = "-c default_transaction_read_only=on"


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A separate server, which the test may break."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        with run_server(Path(name) / "postgres") as server:
            yield server


@pytest.fixture
def connect() -> Iterator[Callable[..., PostgresDatabase]]:
    """Make a connection, as a process does."""
    made: list[PostgresDatabase] = []

    def make(url: str, schema: object = SCHEMA) -> PostgresDatabase:
        made.append(PostgresDatabase(url, schema))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for database in made:
        database.close()


Connect = Callable[..., PostgresDatabase]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a process retry immediately, without its usual pause."""
    monkeypatch.setattr("superres.jobs.database.DOWN_SECONDS", 0.0)


def submit(table: Jobs, name: str) -> str:
    return table.submit(name, {}, 100, f"upload {name}")[0]


def state(table: Jobs, ticket: str) -> str:
    found = table.find(ticket)
    assert found is not None
    return found.state


def count_backends(onlooker: PostgresDatabase, condition: str = "true") -> int:
    """Count the server's other client backends that meet a condition."""
    rows = onlooker.execute(
        f"""SELECT count(*) FROM pg_stat_activity
        WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND {condition}"""
    )
    number: int = rows[0][0]
    return number


@pytest.mark.parametrize("tables", ["none", "first release", "present"])
def test_server_that_comes_back_read_only_costs_nobody_the_table(
    server: PostgresServer, connect: Connect, tables: str
) -> None:
    here, there = Jobs(connect(server.url), "a"), Jobs(connect(server.url), "b")
    if tables == "present":
        ticket = submit(here, "name")
    elif tables == "first release":
        with_first = connect(server.url, ())
        for statement in FIRST:
            with_first.execute(statement)
    server.restart(READ_ONLY)
    onlooker = connect(server.url, ())
    for _ in range(3):
        for table in (here, there):
            with pytest.raises(DatabaseDown):
                submit(table, "other")
    if tables == "present":
        assert state(here, ticket) == state(there, ticket) == "queued"
    assert onlooker.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [(0,)]
    assert count_backends(onlooker) <= 2
    server.restart()
    # The other one first: nothing from the first is in its way.
    assert state(there, submit(there, "after")) == "queued"
    assert state(here, submit(here, "after")) == "queued"


def test_server_that_is_no_primary_any_more_is_left_for_the_one_that_is(
    postgres_url: str, server: PostgresServer, connect: Connect
) -> None:
    ports = [url.rpartition(":")[2].partition("/")[0] for url in (server.url, postgres_url)]
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
    url = f"postgresql://sr@{hosts}/postgres?target_session_attrs=read-write"
    table, there = Jobs(connect(url), "a"), connect(postgres_url, ())
    ticket = submit(table, "name")
    # It survives, and so does the connection.
    admin = connect(server.url, ())
    admin.execute("ALTER SYSTEM SET default_transaction_read_only = on")
    admin.execute("SELECT pg_reload_conf()")
    wait_until(lambda: admin.execute("SHOW transaction_read_only") == [("on",)])
    with pytest.raises(DatabaseDown):
        submit(table, "other")
    assert table.find(ticket) is None
    ticket = submit(table, "other")
    assert there.execute("SELECT ticket FROM tickets") == [(ticket,)]


def test_table_that_somebody_locks_takes_no_more_connections(
    postgres_url: str, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("superres.jobs.postgres_database.STATEMENT_SECONDS", 1.0)
    table, onlooker = Jobs(connect(postgres_url), "a"), connect(postgres_url, ())
    locker = connect(postgres_url, ())
    ticket = submit(table, "name")
    locker.execute("SET idle_in_transaction_session_timeout = 0")
    locker.execute("BEGIN")
    locker.execute("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
    for _ in range(4):
        with pytest.raises(DatabaseDown):
            table.find(ticket)
        assert count_backends(onlooker, "wait_event_type = 'Lock'") == 0
    assert count_backends(onlooker) <= 2
    locker.execute("COMMIT")
    assert state(table, ticket) == "queued"


def test_process_that_freezes_in_a_step_gives_the_tables_back(
    postgres_url: str, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("superres.jobs.postgres_database.IDLE_TRANSACTION_SECONDS", 0.5)
    frozen = connect(postgres_url)
    frozen.execute("BEGIN")
    frozen.execute("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
    # It goes silent, and its connection stays open.
    table = Jobs(connect(postgres_url), "b")
    assert state(table, submit(table, "name")) == "queued"


@pytest.mark.parametrize("engine", ["sqlite", "postgres"])
def test_tables_that_are_dropped_are_made_anew(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if engine == "postgres":
        url = request.getfixturevalue("postgres_url")
        databases = [PostgresDatabase(url, SCHEMA), PostgresDatabase(url, ())]
        drop = ["DROP SCHEMA public CASCADE", "CREATE SCHEMA public"]
    else:
        path = tmp_path / "jobs.sqlite3"
        databases = [SqliteDatabase(path, SCHEMA), SqliteDatabase(path, ())]  # type: ignore[list-item]
        names = ("jobs", "tickets", "totals", "identity", "spool_hold", "schema_version")
        drop = [f"DROP TABLE {name}" for name in names]
    table = Jobs(databases[0], "a")
    before = submit(table, "lost")
    for statement in drop:
        databases[1].execute(statement)
    with pytest.raises(DatabaseDown):
        table.find(before)
    assert table.find(before) is None
    assert state(table, submit(table, "kept")) == "queued"
    for database in databases:
        database.close()


@pytest.mark.parametrize("engine", ["sqlite", "postgres"])
def test_column_that_was_missing_for_a_while_costs_no_restart(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if engine == "postgres":
        url = request.getfixturevalue("postgres_url")
        databases = [PostgresDatabase(url, SCHEMA), PostgresDatabase(url, ())]
    else:
        path = tmp_path / "jobs.sqlite3"
        databases = [SqliteDatabase(path, SCHEMA), SqliteDatabase(path, ())]  # type: ignore[list-item]
    table = Jobs(databases[0], "a")
    ticket = submit(table, "name")
    for _ in range(8):  # until the server has a plan for it
        assert state(table, ticket) == "queued"
    databases[1].execute("ALTER TABLE jobs RENAME COLUMN problem TO trouble")
    for _ in range(2):
        with pytest.raises(DatabaseDown):
            table.find(ticket)
    databases[1].execute("ALTER TABLE jobs RENAME COLUMN trouble TO problem")
    assert state(table, ticket) == "queued"
    for database in databases:
        database.close()


def test_full_disk_of_the_server_refuses_writes_and_goes_on_reading(
    postgres_url: str, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("superres.jobs.database.DOWN_SECONDS", 1e6)  # once down, it stays down
    table, other = Jobs(connect(postgres_url), "a"), connect(postgres_url, ())
    ticket = submit(table, "name")
    # What the server returns if it cannot extend a file.
    other.execute(
        """CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$"""
    )
    other.execute("CREATE TRIGGER full_disk BEFORE INSERT ON tickets EXECUTE FUNCTION refuse()")
    with pytest.raises(DatabaseDown):
        submit(table, "more")
    assert state(table, ticket) == "queued"
    other.execute("DROP TRIGGER full_disk ON tickets")
    assert state(table, submit(table, "more")) == "queued"


@pytest.fixture(params=["session", "transaction"])
def pooled_url(request: pytest.FixtureRequest, postgres_url: str) -> Iterator[str]:
    """The URL of an empty database behind PgBouncer, which has two connections for all."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        connections = {"session": 8, "transaction": 2}[request.param]
        folder = Path(name) / "pgbouncer"
        with run_pgbouncer(folder, postgres_url, request.param, connections) as url:
            yield url


def test_pgbouncer_serves_all_statements_and_keeps_no_setting(
    pooled_url: str, postgres_url: str, connect: Connect
) -> None:
    tables = [Jobs(connect(pooled_url), f"host:{number}:") for number in range(6)]

    def work(number: int) -> list[str]:
        table, done = tables[number], []
        tickets = [submit(table, f"job{number}-{each}") for each in range(10)]
        for _ in tickets:
            claim = table.claim_next()
            assert claim is not None
            assert table.renew(claim.name, 1, 2)
            assert table.finish(claim.name, tiles=2) == claim.spool
            done.append(claim.name)
        table.purge(1000)
        assert all(table.find(ticket) is not None for ticket in tickets)
        return done

    with ThreadPoolExecutor(6) as pool:
        done = [name for names in pool.map(work, range(6)) for name in names]
    assert len(done) == len(set(done)) == 60
    assert tables[0].count_states()["done"] == 60
    shown = "SELECT current_setting('enable_seqscan'), current_setting('statement_timeout')"
    assert tables[0].database.execute(shown) == [("off", "4s")]
    with psycopg.connect(pooled_url, autocommit=True, prepare_threshold=None) as neighbour:
        assert neighbour.execute(shown).fetchall() == [("on", "0")]


def test_table_that_is_locked_behind_pgbouncer_takes_no_more_connections(
    pooled_url: str, postgres_url: str, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("superres.jobs.postgres_database.STATEMENT_SECONDS", 1.0)
    table, onlooker = Jobs(connect(pooled_url), "a"), connect(postgres_url, ())
    ticket = submit(table, "name")
    with psycopg.connect(postgres_url) as locker:
        locker.execute("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
        for _ in range(3):
            with pytest.raises(DatabaseDown):
                table.find(ticket)
            assert count_backends(onlooker, "wait_event_type = 'Lock'") == 0
    assert state(table, ticket) == "queued"


def test_pgbouncer_that_is_gone_for_a_while_costs_no_restart(
    postgres_url: str, connect: Connect, tmp_path: Path
) -> None:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        port = find_free_port()
        with run_pgbouncer(Path(name) / "a", postgres_url, "transaction", port=port) as url:
            table = Jobs(connect(url), "a")
            ticket = submit(table, "name")
        with pytest.raises(DatabaseDown):
            table.find(ticket)
        with run_pgbouncer(Path(name) / "b", postgres_url, "transaction", port=port):
            assert state(table, ticket) == "queued"


# --- silent connections


@pytest.fixture
def proxy(postgres_url: str) -> Iterator[TcpProxy]:
    """A connection to the server that can be cut silently."""
    with run_tcp_proxy(int(postgres_url.rpartition(":")[2].partition("/")[0])) as proxy:
        yield proxy


@pytest.fixture
def proxied_url(postgres_url: str, proxy: TcpProxy) -> str:
    return f"postgresql://sr@127.0.0.1:{proxy.port}/postgres"


def test_line_that_swallows_everything_costs_no_restart(
    proxied_url: str, proxy: TcpProxy, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("superres.jobs.postgres_database.STATEMENT_SECONDS", 1.0)
    table = Jobs(connect(proxied_url), "a")
    ticket = submit(table, "name")
    proxy.swallows = True
    for _ in range(2):
        with pytest.raises(DatabaseDown):
            table.find(ticket)
    proxy.swallows = False
    assert state(table, ticket) == "queued"


def test_line_that_goes_silent_while_the_schema_is_looked_at_is_left_at_once(
    proxied_url: str, proxy: TcpProxy, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("superres.jobs.postgres_database.STATEMENT_SECONDS", 1.0)
    table, other = Jobs(connect(proxied_url), "a"), connect(proxied_url)
    ticket = submit(table, "name")
    migrate = PostgresDatabase._migrate

    def swallow_and_migrate(database: PostgresDatabase) -> None:
        proxy.swallows = True
        migrate(database)

    monkeypatch.setattr(PostgresDatabase, "_migrate", swallow_and_migrate)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(other.execute, "SELECT 1")
        # Not after the ten minutes that a migration may take.
        wait_until(asked.done)
        assert isinstance(asked.exception(), DatabaseDown)
    monkeypatch.setattr(PostgresDatabase, "_migrate", migrate)
    proxy.swallows = False
    assert state(table, ticket) == "queued"


def test_nobody_waits_for_who_tries_a_database_that_is_down(
    server: PostgresServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("superres.jobs.database.LOCK_SECONDS", 1e3)
    table = Jobs(connect(server.url), "a")
    ticket = submit(table, "name")
    server.stop()
    with pytest.raises(DatabaseDown):
        table.find(ticket)
    server.start()
    is_trying, may_connect = threading.Event(), threading.Event()
    connect_at_once = psycopg.connect

    def wait_for_a_name_server(*arguments: Any, **options: Any) -> Any:
        is_trying.set()
        may_connect.wait(120)
        return connect_at_once(*arguments, **options)

    monkeypatch.setattr(psycopg, "connect", wait_for_a_name_server)
    with ThreadPoolExecutor(2) as pool:
        trying = pool.submit(table.find, ticket)
        assert is_trying.wait(60)
        others = pool.submit(table.find, ticket)
        wait_until(others.done)
        failure = others.exception()
        assert isinstance(failure, DatabaseDown)
        assert isinstance(failure.__cause__, psycopg.Error)  # what the log then says
        assert not trying.done()
        may_connect.set()
        assert trying.result() is not None
    assert state(table, ticket) == "queued"
