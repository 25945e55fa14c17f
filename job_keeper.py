"""Looks after the jobs table: renews leases, claims jobs, clears up after the dead."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from errors import DatabaseDown
from jobs import Claim, Jobs
from lanes import Progress
from spool import Spool

TICK_SECONDS = 0.5
SWEEP_SECONDS = 5.0
# Asynchronous pictures in work at once: enough to keep the lanes busy while one is encoded.
CLAIMS_AT_ONCE = 4
# Younger spool files may belong to a job that is not yet in the table.
SPOOL_GRACE_SECONDS = 20.0

logger = logging.getLogger(__name__)


class OwnedJob(Protocol):
    """What the keeper must know of a job that this process has claimed."""

    name: str
    is_asynchronous: bool
    progress: Progress


class JobKeeper:
    """Keeps one process's part of the jobs table in order.

    Parameters
    ----------
    owned : returns the jobs of this process that are claimed in the table
    run : starts a claimed job
    ttl_seconds : how long ended jobs are remembered
    may_claim : False while the process is stopping
    """

    def __init__(
        self,
        jobs: Jobs,
        spool: Spool,
        ttl_seconds: float,
        owned: Callable[[], Sequence[OwnedJob]],
        run: Callable[[Claim], None],
        may_claim: Callable[[], bool],
    ) -> None:
        self.jobs = jobs
        self.spool = spool
        self.ttl_seconds = ttl_seconds
        self._owned = owned
        self._run = run
        self._may_claim = may_claim
        self._wake = threading.Event()
        self._stopping = False
        self._swept = -SWEEP_SECONDS
        self._thread = threading.Thread(target=self._keep, name="job-keeper", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wake(self) -> None:
        """Look for queued jobs at once."""
        self._wake.set()

    def stop(self) -> None:
        """End the thread: from then on nothing is claimed, and no lease renewed."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def _keep(self) -> None:
        while not self._stopping:
            try:
                self._tick()
            except DatabaseDown as error:
                logger.error("the jobs table is not available: %s", error.__cause__ or error)
            except Exception:
                # This thread must live as long as the process: without it no lease is renewed.
                logger.exception("looking after the jobs failed")
            self._wake.wait(TICK_SECONDS)
            self._wake.clear()

    def _tick(self) -> None:
        for job in self._owned():
            if not self.jobs.renew(job.name, job.progress.tiles_done, job.progress.tiles_total):
                job.progress.cancelled = True
        if time.monotonic() - self._swept >= SWEEP_SECONDS:
            self._swept = time.monotonic()
            self._sweep()
        while self._may_claim() and not self._stopping:
            if sum(job.is_asynchronous for job in self._owned()) >= CLAIMS_AT_ONCE:
                return
            claim = self.jobs.claim_next()
            if claim is None:
                return
            self._run(claim)

    def _sweep(self) -> None:
        self.jobs.give_up_dead()
        self.jobs.purge(self.ttl_seconds)
        old_names = list(self.spool.old_names(SPOOL_GRACE_SECONDS))
        if old_names:
            wanted = self.jobs.open_spools()
            for name in old_names:
                if name not in wanted:
                    self.spool.remove(name)
