"""Looks after the jobs table: renews leases, claims jobs, clears up after the dead."""

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from superres.engines.lanes import Progress
from superres.errors import DatabaseDown, StoreDown
from superres.jobs.job_records import Claim
from superres.jobs.job_upkeep import LEASE_SECONDS
from superres.jobs.jobs import Jobs
from superres.store.spool import ABANDONED_SECONDS, Spool, spool_prefix

TICK_SECONDS = 0.5
SWEEP_SECONDS = 5.0
# Younger spool files may belong to a job that is not yet in the table.
SPOOL_GRACE_SECONDS = 20.0
# Looking for forgotten uploads pauses for so many times as long as it takes.
SPOOL_SWEEP_SHARE = 20

logger = logging.getLogger(__name__)


class OwnedJob(Protocol):
    """What the jobs table is told of a job that this process has claimed."""

    name: str
    is_asynchronous: bool
    progress: Progress


class JobExecutor(Protocol):
    """Computes the jobs that the keeper claims."""

    def claimable_pixels(self) -> int | None:
        """Return the most pixels that the next claimed job may have; None: any number.

        0: none, since no job could be brought to its end here. Its results or the store cannot be
        written, it does not have the spool, its model is not loaded or not sound, or it is ending.
        """

    def claimed(self) -> Sequence[OwnedJob]:
        """Return the jobs of this process that are claimed in the table."""

    def names(self) -> Collection[str]:
        """Return the names of all jobs of this process, claimed or about to be."""

    def regain(self, owned: OwnedJob) -> None:
        """Go on with a job whose lease was lost, or stop it."""

    def rest(self) -> None:
        """Give back what is not needed any more; called every few seconds."""

    def run_claimed(self, claim: Claim) -> None:
        """Start a claimed job.

        Raises
        ------
        OSError, StoreDown
            Its upload cannot be read now; the job is queued again.
        """


class JobKeeper:
    """Keeps one process's part of the jobs table in order.

    Parameters
    ----------
    ttl_seconds : how long ended jobs are remembered
    executor : starts what is claimed here, and knows what was
    """

    def __init__(self, jobs: Jobs, spool: Spool, ttl_seconds: float, executor: JobExecutor) -> None:
        self.jobs = jobs
        self.spool = spool
        self.ttl_seconds = ttl_seconds
        self._executor = executor
        self._wake = threading.Event()
        self._stopped = threading.Event()
        self._swept = -SWEEP_SECONDS
        self._spool_due = 0.0
        # Nobody knows what was before a process began, either.
        self._last_outage = time.monotonic()
        self._unclaimed: dict[str, float] = {}  # uploads that no job has, and since when
        self._stopping = threading.Event()
        # Apart from each other: an upload that comes slowly must cost no lease.
        self._claiming = threading.Thread(
            target=self._repeat,
            args=[self._claim, self._wake, self._stopping],
            name="job-keeper-claim",
            daemon=True,
        )
        self._renewing = threading.Thread(
            target=self._repeat,
            args=[self._renew, self._stopped, self._stopped],
            name="job-keeper-renew",
            daemon=True,
        )

    def start(self) -> None:
        """Begin."""
        self._renewing.start()
        self._claiming.start()

    def wake(self) -> None:
        """Look for queued jobs at once."""
        self._wake.set()

    def stop(self) -> None:
        """End the threads: from then on nothing is claimed, and no lease renewed."""
        self._stopping.set()
        self._wake.set()
        if self._claiming.is_alive():
            self._claiming.join()
        # What was being claimed has kept its lease until now.
        self._stopped.set()
        if self._renewing.is_alive():
            self._renewing.join()

    def _repeat(
        self, step: Callable[[], None], pause: threading.Event, end: threading.Event
    ) -> None:
        while not end.is_set():
            try:
                step()
            except (DatabaseDown, StoreDown, OSError) as error:
                if isinstance(error, DatabaseDown):
                    self._last_outage = time.monotonic()
                logger.error("%s %s", error, error.__cause__ or "")
            except Exception:
                # These threads must live as long as the process.
                logger.exception("looking after the jobs failed")
            pause.wait(TICK_SECONDS)

    def _renew(self) -> None:
        claimed = self._executor.claimed()
        owned = self.jobs.renew_all() if claimed else {}
        for job in claimed:
            progress = job.progress.tiles_done, job.progress.tiles_total
            if job.name not in owned:
                self._executor.regain(job)
            elif owned[job.name] != progress:
                self.jobs.renew(job.name, *progress)

    def _claim(self) -> None:
        self._wake.clear()
        if time.monotonic() - self._swept >= SWEEP_SECONDS:
            self._swept = time.monotonic()
            self._sweep()
        while not self._stopping.is_set():
            max_pixels = self._executor.claimable_pixels()
            if max_pixels == 0:
                return
            claim = self.jobs.claim_next(max_pixels)
            if claim is None:
                return
            self._executor.run_claimed(claim)

    def _sweep(self) -> None:
        self._executor.rest()
        self.jobs.requeue_unknown(self._executor.names())
        # After an outage the leases of the living are over, too: they have the time of a new one.
        if time.monotonic() - self._last_outage > LEASE_SECONDS:
            self.jobs.requeue_abandoned()
        self.jobs.purge(self.ttl_seconds)
        self._sweep_spool()

    def _sweep_spool(self) -> None:
        """Remove uploads that no job has: of this table at once, of whomever after a month."""
        if time.monotonic() < self._spool_due:
            return
        started = time.monotonic()
        table_id = self.jobs.table_id()
        prefix = spool_prefix(table_id)
        names = {
            name for name in self.spool.old_names(SPOOL_GRACE_SECONDS) if name.startswith(prefix)
        }
        names.update(self.spool.old_names(ABANDONED_SECONDS), self._unclaimed)
        unclaimed = names - self.jobs.open_spools(names)
        if self.jobs.table_id() != table_id:
            self._unclaimed = {}
            return  # the database is another since a moment ago, and knows nothing of them
        # Seen twice, so far apart: by the clock of another machine an upload is old that was kept a
        # moment ago, and whose job is not there yet.
        self._unclaimed = {name: self._unclaimed.get(name, started) for name in unclaimed}
        for name, since in [*self._unclaimed.items()]:
            if started - since >= SPOOL_GRACE_SECONDS:
                self.spool.remove(name)
                del self._unclaimed[name]
        # A hundred thousand uploads take a second to look through.
        took = time.monotonic() - started
        self._spool_due = time.monotonic() + SPOOL_SWEEP_SHARE * took
