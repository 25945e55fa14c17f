"""What the jobs table needs from a database, whatever its engine.

Both engines take the same SQL: PostgreSQL's, with `?` for parameters and `now()` for the time.
One connection per process, behind a lock, opened on first use: never before the server forks.
"""

import contextlib
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import Enum
from typing import Any

from superres.errors import DatabaseDown, StartupError
from superres.jobs.migrations import Migration

Row = tuple[Any, ...]
# A server that does not respond is retried after this; until then requests fail immediately.
DOWN_SECONDS = 5.0
# Longer than one statement may take: a wait this long is for more than one.
LOCK_SECONDS = 10.0


class Fault(Enum):
    """What an error says about the database, beyond the statement that failed.

    NONE : nothing; a full disk rejects writes while reads still work, so keep using it
    STALE : it has changed since the connection was made; a new connection may work
    DOWN : it does not respond
    """

    NONE = "none"
    STALE = "stale"
    DOWN = "down"


class Database(ABC):
    """A connection that is reopened when lost; safe to use from any thread.

    Parameters
    ----------
    schema : migrations to the tables that this code expects; if empty, tables are left alone
    """

    def __init__(self, schema: Sequence[Migration]) -> None:
        self._schema = schema
        self._lock = threading.Lock()
        self._down_until = 0.0
        self._down_reason: Exception | None = None
        self._connected = 0.0

    @abstractmethod
    def _connect(self) -> None:
        """Connect unless there is a working connection; after an error there is none."""

    @abstractmethod
    def _run(self, statement: str, parameters: Sequence[object]) -> list[Row]:
        """Run a statement on the connection."""

    @abstractmethod
    def _judge(self, error: Exception) -> Fault:
        """Classify an error raised by a statement."""

    @abstractmethod
    def _disconnect(self) -> None:
        """Close the connection, if there is one."""

    @abstractmethod
    def _translate(self, statement: str) -> str:
        """Return a statement in the engine's own dialect."""

    def check(self) -> None:
        """Connect, when the service starts.

        Raises
        ------
        ConfigError
            The tables are not compatible with this code.
        DatabaseDown
            The engine does not respond.
        """
        try:
            self.execute("SELECT 1")
        except DatabaseDown as error:
            if isinstance(error.__cause__, StartupError):
                raise error.__cause__ from None
            raise

    def execute(self, statement: str, parameters: Sequence[object] = ()) -> list[Row]:
        """Run one statement, which autocommits, and return its rows.

        Raises
        ------
        DatabaseDown
            The engine does not respond or cannot write; the exception's cause says why.
        """
        # One caller retries a database that was down and may block, on DNS or a lock say; others
        # fail immediately.
        if self._down_until and self._lock.locked():
            raise unavailable() from self._down_reason
        if not self._lock.acquire(timeout=LOCK_SECONDS):
            raise unavailable()
        try:
            if time.monotonic() < self._down_until:
                raise unavailable() from self._down_reason
            try:
                self._connect()
            except Exception as error:
                self._mark_down(error)
                raise unavailable() from error
            try:
                rows = self._run(self._translate(statement), parameters)
            except Exception as error:
                self._answer_fault(self._judge(error), error)
                raise unavailable() from error
            self._down_until = 0.0
            return rows
        finally:
            self._lock.release()

    def _answer_fault(self, fault: Fault, error: Exception) -> None:
        if fault is Fault.DOWN:
            self._mark_down(error)
        # Not after every statement: the next connection may fail the same way.
        elif fault is Fault.STALE and time.monotonic() - self._connected >= DOWN_SECONDS:
            self._drop_connection()

    def _mark_down(self, reason: Exception) -> None:
        self._down_reason = reason
        self._down_until = time.monotonic() + DOWN_SECONDS
        self._drop_connection()

    def _drop_connection(self) -> None:
        with contextlib.suppress(Exception):
            self._disconnect()

    def close(self) -> None:
        """Close the connection; the next statement makes a new one."""
        with self._lock:
            self._disconnect()


def unavailable() -> DatabaseDown:
    """Make the error for an unavailable database."""
    return DatabaseDown("The database is not available.", int(DOWN_SECONDS))
