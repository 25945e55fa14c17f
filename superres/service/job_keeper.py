"""Maintains the jobs table: renews leases, claims jobs, cleans up after dead processes."""

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
# Younger spool files may belong to a job that is not in the table yet.
SPOOL_GRACE_SECONDS = 20.0
# Pause between searches for orphaned uploads, in multiples of a search's duration.
SPOOL_SWEEP_SHARE = 20

logger = logging.getLogger(__name__)


class OwnedJob(Protocol):
    """What the jobs table needs to know about a job that this process has claimed."""

    name: str
    progress: Progress


class JobExecutor(Protocol):
    """Computes the jobs that the keeper claims."""

    def claimable_pixels(self) -> int | None:
        """Return the most pixels that the next claimed job may have; None for any number.

        0 if no job could be finished here: results cannot be written to the folder or the store,
        this process does not hold the spool, its model is not loaded or not sound, or it is
        shutting down.
        """

    def claimed(self) -> Sequence[OwnedJob]:
        """Return this process's jobs that are claimed in the table."""

    def names(self) -> Collection[str]:
        """Return the names of all of this process's jobs, claimed or about to be."""

    def regain(self, owned: OwnedJob) -> None:
        """Continue a job whose lease was lost, or stop it."""

    def free_memory(self) -> None:
        """Return memory that is no longer needed; called every few seconds."""

    def run_claimed(self, claim: Claim) -> None:
        """Start a claimed job."""


class JobKeeper:
    """Maintains one process's part of the jobs table.

    Parameters
    ----------
    ttl_seconds : how long ended jobs are remembered
    executor : runs the jobs claimed here, and knows them
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
        # There may have been an outage just before this process started.
        self._last_outage = time.monotonic()
        self._unclaimed: dict[str, float] = {}  # uploads without a job, and since when
        self._stopping = threading.Event()
        # In separate threads: a slow upload from the store must not cost leases.
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
        """Start the threads."""
        self._renewing.start()
        self._claiming.start()

    def wake(self) -> None:
        """Look for queued jobs immediately."""
        self._wake.set()

    def stop(self) -> None:
        """Stop the threads: from then on nothing is claimed, and no lease renewed."""
        self._stopping.set()
        self._wake.set()
        if self._claiming.is_alive():
            self._claiming.join()
        # Until now, jobs that were being claimed have kept their leases.
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
                logger.exception("maintaining the jobs table failed")
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
        self._executor.free_memory()
        self.jobs.requeue_unknown(self._executor.names())
        # After an outage leases of live processes have expired, too: give them time to renew.
        if time.monotonic() - self._last_outage > LEASE_SECONDS:
            self.jobs.requeue_abandoned()
        self.jobs.purge(self.ttl_seconds)
        self._sweep_spool()

    def _sweep_spool(self) -> None:
        """Remove uploads without a job: this table's at once, any table's after a month."""
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
            return  # the database was just replaced, and knows nothing about them
        # Only if seen twice this far apart: if clocks differ, an upload may look old that was just
        # stored, and whose job is not in the table yet.
        self._unclaimed = {name: self._unclaimed.get(name, started) for name in unclaimed}
        for name, since in [*self._unclaimed.items()]:
            if started - since >= SPOOL_GRACE_SECONDS:
                self.spool.remove(name)
                del self._unclaimed[name]
        # Searching a hundred thousand uploads takes a second.
        took = time.monotonic() - started
        self._spool_due = time.monotonic() + SPOOL_SWEEP_SHARE * took
