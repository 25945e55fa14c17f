"""PostgreSQL, for several machines that share jobs."""

import os
import socket
import threading
import time
from collections.abc import Sequence
from typing import Any

from superres.errors import ConfigError
from superres.jobs.database import LOCK_SECONDS, Database, Fault, Row
from superres.jobs.migrations import Migration, migrate

CONNECT_SECONDS = 2
STATEMENT_SECONDS = 5.0
# The server cancels a statement before this process hangs up: otherwise an abandoned statement
# would keep waiting there, for a lock say, and each retry would take another connection.
SERVER_SHARE, LOCK_SHARE = 0.8, 0.6
# A process that freezes in the middle of a migration loses its locks.
IDLE_TRANSACTION_SECONDS = 10.0
# Enough to index ten million rows.
MIGRATION_SECONDS = 600.0
# Every statement has its index. PostgreSQL's statistics still show a queue empty that has just
# grown: it sorted 100,000 rows to find the first. (jit is off since the high cost of disabled plans
# would trigger it.)
INDEXES_ALONE = ("enable_seqscan", "enable_bitmapscan", "jit")
# Any number that nothing else uses: two processes migrating the tables at once would fail.
SCHEMA_LOCK = 7_316_425


def milliseconds(seconds: float) -> int:
    """Return a time as PostgreSQL's settings expect it."""
    return max(round(seconds * 1000), 1)


class PostgresDatabase(Database):
    """A connection to a PostgreSQL server, directly or through PgBouncer.

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
                "SR_DATABASE_URL needs the extra postgres: pip install '.[postgres]'"
            ) from None
        self._psycopg = psycopg
        self._url = url
        self._connection: psycopg.Connection[Row] | None = None
        self._is_pooled = False

    def _connect(self) -> None:
        if self._connection is not None:
            return
        connection = self._connection = self._psycopg.connect(
            self._url,
            autocommit=True,
            connect_timeout=CONNECT_SECONDS,
            fallback_application_name="super-resolution",
            client_encoding="utf8",  # a database in SQL_ASCII would return bytes
        )
        try:
            (backend,) = self._fetch("SELECT pg_backend_pid()")[0]
            # A pooler reports a process ID of its own. It may run each transaction on a different,
            # shared connection, so session settings and prepared statements are impossible.
            self._is_pooled = backend != connection.info.backend_pid
            if self._is_pooled:
                connection.prepare_threshold = None
            else:
                calls = [f"set_config('{name}', '{value}', false)" for name, value in settings()]
                self._fetch(f"SELECT {', '.join(calls)}")
            self._migrate()
        except BaseException:
            self._disconnect()
            raise
        self._connected = time.monotonic()

    def _migrate(self) -> None:
        idle = self._psycopg.pq.TransactionStatus.IDLE

        def fetch(statement: str) -> list[Row]:
            # Only a migration may take long: before it, a server that hangs is given up soon.
            assert self._connection is not None
            is_step = self._connection.info.transaction_status != idle
            seconds = MIGRATION_SECONDS if is_step else None
            return self._fetch(self._translate(statement), seconds=seconds)

        is_there = fetch("SELECT to_regclass('schema_version') IS NOT NULL")[0][0]
        local = settings(MIGRATION_SECONDS, LOCK_SECONDS)
        begin = ["BEGIN", *(f"SET LOCAL {name} = '{value}'" for name, value in local)]
        # Releases without versions hold the same lock for their whole session.
        begin.append(f"SELECT pg_advisory_xact_lock({SCHEMA_LOCK})")
        migrate(fetch, self._schema, "postgres", is_there, begin)

    def _run(self, statement: str, parameters: Sequence[object]) -> list[Row]:
        try:
            return self._fetch_with_settings(statement, parameters)
        except self._psycopg.Error:
            if self._connection is None or not self._connection.closed or self._timed_out:
                raise
        self._disconnect()  # the server may have been restarted since the last statement
        self._connect()
        return self._fetch_with_settings(statement, parameters)

    def _judge(self, error: Exception) -> Fault:
        errors = self._psycopg.errors
        if self._connection is None or self._connection.closed:
            return Fault.DOWN
        # A table is locked: the next statements would wait as long.
        if isinstance(error, (errors.QueryCanceled, errors.LockNotAvailable)):
            return Fault.DOWN
        # This server may no longer be the primary, or its tables have been replaced.
        stale = (
            errors.ReadOnlySqlTransaction,
            self._psycopg.ProgrammingError,
            self._psycopg.NotSupportedError,
        )
        return Fault.STALE if isinstance(error, stale) else Fault.NONE

    def _fetch_with_settings(self, statement: str, parameters: Sequence[object]) -> list[Row]:
        if not self._is_pooled:
            return self._fetch(statement, parameters)
        # In one message, which is one transaction, with the parameters inlined.
        local = "".join(f"SET LOCAL {name} = '{value}';" for name, value in settings())
        return self._fetch(local + statement, parameters)

    def _fetch(
        self, statement: str, parameters: Sequence[object] = (), seconds: float | None = None
    ) -> list[Row]:
        connection = self._connection
        assert connection is not None
        self._timed_out = False

        def hang_up() -> None:
            # Neither the server's statement_timeout nor TCP detects a server that hangs.
            self._timed_out = True
            with socket.socket(fileno=os.dup(connection.fileno())) as end:
                end.shutdown(socket.SHUT_RDWR)

        watchdog = threading.Timer(seconds or STATEMENT_SECONDS, hang_up)
        watchdog.start()
        try:
            kind = self._psycopg.ClientCursor if self._is_pooled else self._psycopg.Cursor
            cursor: Any = kind(connection).execute(statement.encode(), parameters)
            while cursor.nextset():
                pass
            return cursor.fetchall() if cursor.description else []
        finally:
            watchdog.cancel()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _translate(self, statement: str) -> str:
        # Not clock_timestamp(), which changes within a statement, so that no index can be used.
        now = "extract(epoch from statement_timestamp())::float8"
        return statement.replace("now()", now).replace("?", "%s")


def settings(
    statement_seconds: float | None = None, lock_seconds: float | None = None
) -> list[tuple[str, object]]:
    """Return the server's settings for this service's statements."""
    statement = statement_seconds or SERVER_SHARE * STATEMENT_SECONDS
    lock = lock_seconds or LOCK_SHARE * STATEMENT_SECONDS
    return [
        *((name, "off") for name in INDEXES_ALONE),
        ("statement_timeout", milliseconds(statement)),
        ("lock_timeout", milliseconds(lock)),
        ("idle_in_transaction_session_timeout", milliseconds(IDLE_TRANSACTION_SECONDS)),
    ]
