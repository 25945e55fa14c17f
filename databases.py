"""Two engines for the jobs table: SQLite, which needs no server, and PostgreSQL.

Both take the same SQL: PostgreSQL's, with `?` for parameters and `now()` for the time.
One connection a process, behind a lock, made when first needed: never before the server forks.
"""

import contextlib
import sqlite3
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from errors import ConfigError, DatabaseDown
from settings import Settings

Row = tuple[Any, ...]
# A server that does not answer is asked again after this; requests do not wait for it meanwhile.
DOWN_SECONDS = 5.0
SQLITE_BUSY_SECONDS = 10
CONNECT_SECONDS = 2
STATEMENT_MILLISECONDS = 5000
# Any number that nobody else takes: two processes that create the tables at once would fail.
SCHEMA_LOCK = 7_316_425


class Database(ABC):
    """A connection that is made anew when it was lost; safe to use from any thread.

    Parameters
    ----------
    schema : statements that create the tables; each may be run again
    """

    def __init__(self, schema: Sequence[str]) -> None:
        self._schema = [self._translate(statement) for statement in schema]
        self._lock = threading.Lock()
        self._down_until = 0.0

    @abstractmethod
    def _run(self, statement: str, parameters: Sequence[object]) -> list[Row]:
        """Run a statement, connecting first where that is needed."""

    @abstractmethod
    def _disconnect(self) -> None:
        """Close the connection, if there is one."""

    @abstractmethod
    def _translate(self, statement: str) -> str:
        """Return the engine's own spelling of a statement."""

    def execute(self, statement: str, parameters: Sequence[object] = ()) -> list[Row]:
        """Run one statement, which commits by itself, and return the rows that it gives.

        Raises
        ------
        DatabaseDown
            The engine does not answer or cannot write; it says why in the exception's cause.
        """
        with self._lock:
            if time.monotonic() < self._down_until:
                raise DatabaseDown("The database is not available.", int(DOWN_SECONDS))
            try:
                return self._run(self._translate(statement), parameters)
            except Exception as error:
                self._down_until = time.monotonic() + DOWN_SECONDS
                with contextlib.suppress(Exception):
                    self._disconnect()
                raise DatabaseDown("The database is not available.", int(DOWN_SECONDS)) from error

    def close(self) -> None:
        """Close the connection; the next statement makes a new one."""
        with self._lock:
            self._disconnect()


def open_database(settings: Settings, schema: Sequence[str]) -> Database:
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

    def __init__(self, path: Path, schema: Sequence[str]) -> None:
        super().__init__(schema)
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._inode = 0

    def _run(self, statement: str, parameters: Sequence[object]) -> list[Row]:
        connection = self._connect()
        return connection.execute(statement, parameters).fetchall()

    def _connect(self) -> sqlite3.Connection:
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
            for statement in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=NORMAL"):
                self._connection.execute(statement)
            for statement in self._schema:
                self._connection.execute(statement)
            self._inode = self._current_inode()
        return self._connection

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

    def __init__(self, url: str, schema: Sequence[str]) -> None:
        super().__init__(schema)
        try:
            import psycopg
        except ImportError:
            raise ConfigError(
                "SR_DATABASE_URL needs psycopg: pip install -r requirements-postgres.txt"
            ) from None
        self._psycopg = psycopg
        self._url = url
        self._connection: psycopg.Connection[Row] | None = None

    def _run(self, statement: str, parameters: Sequence[object]) -> list[Row]:
        if self._connection is not None:
            try:
                return self._fetch(statement, parameters)
            except self._psycopg.OperationalError:
                self._disconnect()  # the server may have been restarted since
        self._connection = self._psycopg.connect(
            self._url,
            autocommit=True,
            connect_timeout=CONNECT_SECONDS,
            tcp_user_timeout=STATEMENT_MILLISECONDS,
            options=f"-c statement_timeout={STATEMENT_MILLISECONDS}",
        )
        self._fetch("SELECT pg_advisory_lock(%s)", [SCHEMA_LOCK])
        for line in self._schema:
            self._fetch(line, [])
        self._fetch("SELECT pg_advisory_unlock(%s)", [SCHEMA_LOCK])
        return self._fetch(statement, parameters)

    def _fetch(self, statement: str, parameters: Sequence[object]) -> list[Row]:
        assert self._connection is not None
        cursor = self._connection.execute(statement.encode(), parameters)
        return cursor.fetchall() if cursor.description else []

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _translate(self, statement: str) -> str:
        now = "extract(epoch from clock_timestamp())::float8"
        return statement.replace("now()", now).replace("?", "%s")
