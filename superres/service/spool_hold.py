"""Ties the jobs table to one spool: instances with different spools cannot share a table."""

import contextlib
import logging
import socket
import threading
import time
from dataclasses import dataclass

from superres.errors import ConfigError, DatabaseDown, NotStored, StoreDown
from superres.jobs.jobs import Jobs
from superres.store.spool import Spool

RENEW_SECONDS = 3.0
# An instance that has not renewed for this long, while others could, is dead.
HOLD_SECONDS = 5 * RENEW_SECONDS
# A stopped instance may leave others that share its spool: they will have renewed by then.
RELEASED, RELEASE_SECONDS = 0.0, 3 * RENEW_SECONDS

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Holder:
    """Which spool holds the table; `seen` is when, by this process's clock, it last changed."""

    spool: str
    place: str
    renewed: float
    seen: float


class SpoolHold:
    """Lets a process accept and claim jobs only if it can read the uploads of all jobs.

    Any process may claim any job of the table. So all of them must share one spool: a folder, or
    the store. The table records which, as long as one of them is alive.

    Attributes
    ----------
    is_held : whether the table's spool is this process's
    """

    def __init__(self, jobs: Jobs, spool: Spool) -> None:
        self._jobs = jobs
        self._spool = spool
        self._identity = ""
        self.is_held = False
        self._other: Holder | None = None
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._renewing = threading.Thread(target=self._repeat, name="spool-hold", daemon=True)

    def start(self) -> None:
        """Acquire the table for this process's spool, and keep it.

        If a previous instance has just died, waits until its hold expires.

        Raises
        ------
        ConfigError
            A live instance has another spool, or the table is incompatible with this code.
        """
        with contextlib.suppress(DatabaseDown):  # retried later; until then no job is accepted
            self._jobs.database.check()
        deadline = time.monotonic() + HOLD_SECONDS + 2 * RENEW_SECONDS
        while not self.renew() and self._other is not None:
            if time.monotonic() > deadline:
                raise ConfigError(self._explain())
            if self._stopped.wait(RENEW_SECONDS / 3):
                return
        self._renewing.start()

    def stop(self) -> None:
        """Release the table to others, whatever their spool."""
        self._stopped.set()
        if self._renewing.is_alive():
            self._renewing.join()
        if self.is_held:
            with contextlib.suppress(DatabaseDown):
                self._jobs.database.execute(
                    "UPDATE spool_hold SET renewed = ? WHERE spool = ?", [RELEASED, self._identity]
                )

    def check(self) -> None:
        """Refuse an upload that could not be kept until its job is done.

        Raises
        ------
        NotStored
            The table's uploads are in another spool.
        """
        if not self.is_held and not self.renew():
            raise NotStored("Uploads cannot be stored now.", int(HOLD_SECONDS))

    def renew(self) -> bool:
        """Acquire or renew the hold; tell whether this process's spool has it."""
        with self._lock:
            try:
                self._identity = self._identity or self._spool.identity(self._is_known())
                is_held = self._keep() or self._take_over()
            except (DatabaseDown, OSError, StoreDown) as error:
                logger.error("%s %s", error, error.__cause__ or "")
                # Others may have been unable to renew, too: only count from now on.
                self._other = None
                return self.is_held
            if self.is_held and not is_held:
                logger.error("%s", self._explain())
            self.is_held = is_held
            return is_held

    def _is_known(self) -> bool:
        """Tell whether the table's uploads were in this place when it was last used."""
        rows = self._jobs.database.execute("SELECT place FROM spool_hold")
        return any(place.rpartition(" of ")[0] == self._spool.place for (place,) in rows)

    def _keep(self) -> bool:
        """Renew the hold if nobody has it, or if this spool does."""
        return bool(
            self._jobs.database.execute(
                """INSERT INTO spool_hold VALUES (1, ?, ?, now())
                ON CONFLICT (one) DO UPDATE SET renewed = excluded.renewed, place = excluded.place
                WHERE spool_hold.spool = excluded.spool RETURNING spool""",
                [self._identity, self._describe()],
            )
        )

    def _take_over(self) -> bool:
        """Take over a hold that another spool's instances have let expire."""
        rows = self._jobs.database.execute("SELECT spool, place, renewed FROM spool_hold")
        spool, place, renewed = rows[0]
        other = self._other
        if other is None or (other.spool, other.renewed) != (spool, renewed):
            self._other = Holder(spool, place, renewed, time.monotonic())
            return False
        patience = RELEASE_SECONDS if renewed == RELEASED else HOLD_SECONDS
        if time.monotonic() - other.seen < patience:
            return False
        return bool(
            self._jobs.database.execute(
                """UPDATE spool_hold SET spool = ?, place = ?, renewed = now()
                WHERE spool = ? AND renewed = ? RETURNING spool""",
                [self._identity, self._describe(), spool, renewed],
            )
        )

    def _describe(self) -> str:
        return f"{self._spool.place} of {socket.gethostname()}"

    def _explain(self) -> str:
        other = self._other.place if self._other else "another place"
        return (
            f"The jobs table belongs to a running instance that keeps its uploads in {other}; "
            f"this one would keep them in {self._describe()}, and neither could compute what the "
            "other accepts. Give all of them the same SR_STORE_URL and SR_DATABASE_URL, or each "
            "its own table (SR_DATABASE_URL, SR_STATE_DIR)."
        )

    def _repeat(self) -> None:
        while not self._stopped.wait(RENEW_SECONDS):
            try:
                self.renew()
            except Exception:
                # This thread must live as long as the process.
                logger.exception("renewing the spool's hold failed")
