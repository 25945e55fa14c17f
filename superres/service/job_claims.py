"""Synchronizes a job with the jobs table: who owns it, and how it ended."""

import time
from contextlib import suppress
from typing import Any

from superres.errors import (
    Busy,
    DatabaseDown,
    EngineLost,
    JobCancelled,
    NoRoom,
    NotStored,
    ServiceError,
    StoreDown,
)
from superres.service.job import Job, Outcome
from superres.service.resources import Resources

# Polling interval for a result that another process is making.
CLAIM_POLL_SECONDS = 0.1


def describe(error: ServiceError) -> dict[str, Any]:
    """Return an error as stored in the jobs table."""
    return {"status": error.status, "code": error.code, "message": error.message}


class JobClaims:
    """Claims jobs for waiting requests, and records how jobs end; works without the table, too."""

    def __init__(self, resources: Resources) -> None:
        self._table = resources.table
        self._spool = resources.spool
        self._counters = resources.counters
        self._max_sync_seconds = resources.settings.max_sync_seconds

    def note_wish(self, job: Job) -> None:
        """Tell the table that a request waits for the job, if the job is claimed in it."""
        if job.is_claimed:
            with suppress(DatabaseDown):
                self._table.extend_interest(job.name, self._max_sync_seconds)

    def is_wanted(self, job: Job) -> bool:
        """Tell whether a job that no request here waits for is still wanted."""
        if not job.is_claimed:
            return False
        try:
            self._table.extend_interest(job.name, 0)
            cancelled = self._table.cancel_unless_wanted(job.name)
        except DatabaseDown:
            return job.is_asynchronous
        if cancelled is not None:
            self._spool.remove(cancelled.spool)
        return cancelled is None

    def claim(self, job: Job) -> None:
        """Wait until this process owns the job in the table.

        Until then another process may have owned it, and stored its result.
        """
        has_waited = False
        while job.keep and not job.is_claimed:
            if job.progress.cancelled:
                raise JobCancelled("Nobody is waiting for this image any more.")
            try:
                if has_waited and self._table.is_done(job.name):
                    return
                if self._table.claim(
                    job.name,
                    job.options.as_dict(),
                    job.place.pixels,
                    self._max_sync_seconds,
                ):
                    # Never set to False here: the keeper may have claimed it in the meantime.
                    job.is_claimed = True
                    if job.progress.cancelled:
                        self._table.requeue(job.name)
            except DatabaseDown:
                self._counters.add("jobs_unavailable")
                return  # at least this process still computes each result only once
            if not job.is_claimed:
                if job.waiters == 0:
                    raise JobCancelled("Nobody is waiting for this image any more.")
                time.sleep(CLAIM_POLL_SECONDS)
                has_waited = True

    def record_end(self, job: Job, outcome: Outcome) -> None:
        """Tell the table how a job ended, unless it was cancelled there or released."""
        if not job.is_claimed or job.progress.cancelled:
            return
        error = outcome.error
        try:
            if isinstance(error, (Busy, NotStored, JobCancelled)):
                # It may succeed later, or elsewhere, if its upload is kept. A store that is down, a
                # full disk or a GPU that fails is not the job's fault.
                counts = not isinstance(error, (EngineLost, NoRoom, StoreDown))
                self._table.requeue(job.name, counts)
            else:
                problem = describe(error) if error else None
                tiles = job.progress.tiles_total
                self._spool.remove(self._table.finish(job.name, problem, tiles))
                if job.is_asynchronous and error is not None and error.status >= 500:
                    self._counters.add("job_faults")
        except DatabaseDown:
            # The keeper will requeue it: its next owner finds the stored result.
            self._counters.add("jobs_unavailable")
