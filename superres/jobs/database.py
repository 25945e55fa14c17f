"""What the jobs table needs of a database, whichever engine it is.

Both engines take the same SQL: PostgreSQL's, with `?` for parameters and `now()` for the time.
One connection a process, behind a lock, made when first needed: never before the server forks.
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
# A server that does not answer is asked again after this; requests do not wait for it meanwhile.
DOWN_SECONDS = 5.0
# Longer than a statement may take: whoever waits so long waits for more than one.
LOCK_SECONDS = 10.0


class Fault(Enum):
    """What an error says about the database, beyond the statement that failed.

    NONE : nothing. A full disk refuses writes while reads go on: no reason to stop asking.
    STALE : it is not what it was when the connection was made; another may find it sound
    DOWN : it does not answer
    """

    NONE = "none"
    STALE = "stale"
    DOWN = "down"


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
        self._connected = 0.0

    @abstractmethod
    def _connect(self) -> None:
        """Connect, unless a sound connection is there; after an error there is none."""

    @abstractmethod
    def _run(self, statement: str, parameters: Sequence[object]) -> list[Row]:
        """Run a statement on the connection."""

    @abstractmethod
    def _judge(self, error: Exception) -> Fault:
        """Tell what is wrong where a statement has raised this."""

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
        # Who tries one that was down may wait, for a name server or a lock say; others do not.
        if self._down_until and self._lock.locked():
            raise unavailable()
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
                rows = self._run(self._translate(statement), parameters)
            except Exception as error:
                self._answer_fault(self._judge(error))
                raise unavailable() from error
            self._down_until = 0.0
            return rows
        finally:
            self._lock.release()

    def _answer_fault(self, fault: Fault) -> None:
        if fault is Fault.DOWN:
            self._mark_down()
        # Not with each statement: the next connection may find the same.
        elif fault is Fault.STALE and time.monotonic() - self._connected >= DOWN_SECONDS:
            self._drop_connection()

    def _mark_down(self) -> None:
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
    """Make the error of a database that is not available."""
    return DatabaseDown("The database is not available.", int(DOWN_SECONDS))
