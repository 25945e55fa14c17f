"""SQLite, for a service on one machine: it needs no server."""

import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

from superres.jobs.database import Database, Fault, Row
from superres.jobs.migrations import Migration, migrate

SQLITE_BUSY_SECONDS = 10
SQLITE_RETRY_SECONDS = 0.05


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

    def _judge(self, error: Exception) -> Fault:
        # No such table or column. (A file that cannot be written may still be readable.)
        code = getattr(error, "sqlite_errorcode", None)
        return Fault.STALE if code == sqlite3.SQLITE_ERROR else Fault.NONE

    def _run(self, statement: str, parameters: Sequence[object]) -> list[Row]:
        assert self._connection is not None
        return self._connection.execute(statement, parameters).fetchall()

    def _connect(self) -> None:
        # If the file was deleted, this process alone would keep using the deleted one.
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
            self._connected = time.monotonic()

    def _enter_wal(self, connection: sqlite3.Connection) -> None:
        """Switch to WAL; of two processes that do so at once, SQLite fails one without waiting."""
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

        is_there = bool(fetch("SELECT 1 FROM sqlite_master WHERE name = 'schema_version'"))
        migrate(fetch, self._schema, "sqlite", is_there, ["BEGIN IMMEDIATE"])

    def _current_inode(self) -> int:
        try:
            return self._path.stat().st_ino
        except OSError:
            return 0

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _translate(self, statement: str) -> str:
        now = "((julianday('now') - 2440587.5) * 86400.0)"
        # One writer at a time: there is nothing to skip.
        return statement.replace("now()", now).replace("FOR UPDATE SKIP LOCKED", "")
