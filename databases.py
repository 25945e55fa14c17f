"""Two engines for the jobs table: SQLite, which needs no server, and PostgreSQL.

Both take the same SQL: PostgreSQL's, with `?` for parameters and `now()` for the time.
One connection a process, behind a lock, made when first needed: never before the server forks.
"""

import contextlib
import os
import socket
import sqlite3
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from errors import ConfigError, DatabaseDown, StartupError
from migrations import Migration, check_version, take_steps
from settings import Settings

Row = tuple[Any, ...]
# A server that does not answer is asked again after this; requests do not wait for it meanwhile.
DOWN_SECONDS = 5.0
SQLITE_BUSY_SECONDS = 10
SQLITE_RETRY_SECONDS = 0.05
CONNECT_SECONDS = 2
STATEMENT_SECONDS = 5.0
# An index of ten million rows, or another process that makes it.
MIGRATION_SECONDS = 600.0
# Longer than a statement may take: whoever waits so long waits for more than one.
LOCK_SECONDS = 10.0
# Each statement has its index. PostgreSQL's statistics call a queue empty that has just grown: it
# sorted 100,000 rows for the first of them. (The price of what is off would start its compiler.)
INDEXES_ALONE = ("enable_seqscan", "enable_bitmapscan", "jit")
# Any number that nobody else takes: two processes that change the tables at once would fail.
SCHEMA_LOCK = 7_316_425


class Database(ABC):
    """A connection that is made anew when it was lost; safe to use from any thread.

    Parameters
    ----------
    schema : the steps that make the tables what this code knows; none: as they are
    """

    def __init__(self, schema: Sequence[Migration]) -> None:
        self._schema = schema
        self._lock = threading.Lock()
        self._down_until = 0.0

    # What the engine raises when the connection is of no use any more.
    lost: tuple[type[Exception], ...]

    @abstractmethod
    def _connect(self) -> None:
        """Connect, unless a sound connection is there; after an error there is none."""

    @abstractmethod
    def _run(self, statement: str, parameters: Sequence[object]) -> list[Row]:
        """Run a statement on the connection."""

    @abstractmethod
    def _disconnect(self) -> None:
        """Close the connection, if there is one."""

    @abstractmethod
    def _translate(self, statement: str) -> str:
        """Return the engine's own spelling of a statement."""

    def check(self) -> None:
        """Connect, at the start of the service.

        Raises
        ------
        ConfigError
            This code must not use the tables.
        DatabaseDown
            The engine does not answer.
        """
        try:
            self.execute("SELECT 1")
        except DatabaseDown as error:
            if isinstance(error.__cause__, StartupError):
                raise error.__cause__ from None
            raise

    def execute(self, statement: str, parameters: Sequence[object] = ()) -> list[Row]:
        """Run one statement, which commits by itself, and return the rows that it gives.

        Raises
        ------
        DatabaseDown
            The engine does not answer or cannot write; the exception's cause says why.
        """
        if not self._lock.acquire(timeout=LOCK_SECONDS):
            raise unavailable()
        try:
            if time.monotonic() < self._down_until:
                raise unavailable()
            try:
                self._connect()
            except Exception as error:
                self._mark_down()
                raise unavailable() from error
            try:
                return self._run(self._translate(statement), parameters)
            except self.lost as error:
                self._mark_down()
                raise unavailable() from error
            except Exception as error:
                # A full disk refuses writes while reads go on: no reason to stop asking.
                raise unavailable() from error
        finally:
            self._lock.release()

    def _mark_down(self) -> None:
        self._down_until = time.monotonic() + DOWN_SECONDS
        with contextlib.suppress(Exception):
            self._disconnect()

    def close(self) -> None:
        """Close the connection; the next statement makes a new one."""
        with self._lock:
            self._disconnect()


def unavailable() -> DatabaseDown:
    """Make the error of a database that is not available."""
    return DatabaseDown("The database is not available.", int(DOWN_SECONDS))


def open_database(settings: Settings, schema: Sequence[Migration]) -> Database:
    """Return the settings' database; nothing is connected yet."""
    if settings.database_url:
        return PostgresDatabase(settings.database_url, schema)
    return SqliteDatabase(settings.state_dir / "jobs.sqlite3", schema)


class SqliteDatabase(Database):
    """A file on a local disk, never on a network file system.

    WAL with synchronous NORMAL survives a killed process; a power cut may lose the last commits.
    Single autocommit statements with a busy timeout never failed under load; read-then-write
    transactions failed in most tries.
    """

    def __init__(self, path: Path, schema: Sequence[Migration]) -> None:
        super().__init__(schema)
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._inode = 0

    # A file that cannot be written now may still be read.
    lost = ()

    def _run(self, statement: str, parameters: Sequence[object]) -> list[Row]:
        assert self._connection is not None
        return self._connection.execute(statement, parameters).fetchall()

    def _connect(self) -> None:
        # Somebody may have deleted the file: this process would go on alone with the deleted one.
        if self._connection is not None and self._current_inode() != self._inode:
            self._disconnect()
        if self._connection is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                self._path,
                timeout=SQLITE_BUSY_SECONDS,
                isolation_level=None,
                check_same_thread=False,
            )
            try:
                self._enter_wal(self._connection)
                self._connection.execute("PRAGMA synchronous=NORMAL")
                self._migrate()
            except BaseException:
                self._disconnect()
                raise
            self._inode = self._current_inode()

    def _enter_wal(self, connection: sqlite3.Connection) -> None:
        """Change to WAL; of two that do so at once, SQLite refuses one without letting it wait."""
        deadline = time.monotonic() + SQLITE_BUSY_SECONDS
        while True:
            try:
                connection.execute("PRAGMA journal_mode=WAL")
            except sqlite3.OperationalError as error:
                is_busy = error.sqlite_errorcode == sqlite3.SQLITE_BUSY
                if not is_busy or time.monotonic() > deadline:
                    raise
                time.sleep(SQLITE_RETRY_SECONDS)
            else:
                return

    def _migrate(self) -> None:
        def fetch(statement: str) -> list[Row]:
            return self._run(self._translate(statement), ())

        # A disk that is full refuses a transaction, and tables that are right need none.
        is_there = fetch("SELECT 1 FROM sqlite_master WHERE name = 'schema_version'")
        found = fetch("SELECT version, oldest_code FROM schema_version") if is_there else []
        if not self._schema or check_version(found[0] if found else None, self._schema):
            return
        fetch("BEGIN IMMEDIATE")
        take_steps(fetch, self._schema, "sqlite")
        fetch("COMMIT")

    def _current_inode(self) -> int:
        try:
            return self._path.stat().st_ino
        except OSError:
            return 0

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _translate(self, statement: str) -> str:
        now = "((julianday('now') - 2440587.5) * 86400.0)"
        # One writer at a time: there is nothing to skip.
        return statement.replace("now()", now).replace("FOR UPDATE SKIP LOCKED", "")


class PostgresDatabase(Database):
    """A PostgreSQL server, for several machines that share their jobs.

    Raises
    ------
    ConfigError
        psycopg is not installed.
    """

    def __init__(self, url: str, schema: Sequence[Migration]) -> None:
        super().__init__(schema)
        self._timed_out = False
        try:
            import psycopg
        except ImportError:
            raise ConfigError(
                "SR_DATABASE_URL needs psycopg: pip install -r requirements-postgres.txt"
            ) from None
        self._psycopg = psycopg
        self.lost = (psycopg.OperationalError, psycopg.InterfaceError)
        self._url = url
        self._connection: psycopg.Connection[Row] | None = None

    def _connect(self) -> None:
        if self._connection is not None:
            return
        self._connection = self._psycopg.connect(
            self._url, autocommit=True, connect_timeout=CONNECT_SECONDS
        )
        try:
            for setting in INDEXES_ALONE:
                self._fetch(f"SET {setting} = off", [])
            self._migrate()
        except BaseException:
            self._disconnect()
            raise

    def _migrate(self) -> None:
        def fetch(statement: str) -> list[Row]:
            return self._fetch(self._translate(statement), [], MIGRATION_SECONDS)

        is_there = fetch("SELECT to_regclass('schema_version') IS NOT NULL")[0][0]
        found = fetch("SELECT version, oldest_code FROM schema_version") if is_there else []
        if not self._schema or check_version(found[0] if found else None, self._schema):
            return
        fetch("BEGIN")
        # Releases without versions take the same lock, for their whole session.
        fetch(f"SELECT pg_advisory_xact_lock({SCHEMA_LOCK})")
        take_steps(fetch, self._schema, "postgres")
        fetch("COMMIT")

    def _run(self, statement: str, parameters: Sequence[object]) -> list[Row]:
        try:
            return self._fetch(statement, parameters)
        except self.lost:
            if not self._is_broken():
                raise
        self._disconnect()  # the server may have been restarted since the last statement
        self._connect()
        return self._fetch(statement, parameters)

    def _is_broken(self) -> bool:
        return self._connection is not None and self._connection.closed and not self._timed_out

    def _fetch(
        self, statement: str, parameters: Sequence[object], seconds: float | None = None
    ) -> list[Row]:
        connection = self._connection
        assert connection is not None
        self._timed_out = False

        def hang_up() -> None:
            # Neither the server's statement_timeout nor TCP notices a server that has stopped.
            self._timed_out = True
            with socket.socket(fileno=os.dup(connection.fileno())) as end:
                end.shutdown(socket.SHUT_RDWR)

        watchdog = threading.Timer(seconds or STATEMENT_SECONDS, hang_up)
        watchdog.start()
        try:
            cursor = connection.execute(statement.encode(), parameters)
            return cursor.fetchall() if cursor.description else []
        finally:
            watchdog.cancel()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _translate(self, statement: str) -> str:
        # Not clock_timestamp(), which changes within a statement, so that no index serves it.
        now = "extract(epoch from statement_timestamp())::float8"
        return statement.replace("now()", now).replace("?", "%s")
