"""Runs this process's jobs: one for each result, however many requests wait for it."""

import logging
import os
import threading
from collections.abc import Collection
from contextvars import copy_context

from superres import machine
from superres.engines.lanes import Progress
from superres.errors import (
    DatabaseDown,
    JobCancelled,
    NotReady,
    ServiceError,
    StoreDown,
    UploadLost,
)
from superres.images.options import Options
from superres.images.picture import ImageHeader
from superres.jobs.job_records import Claim
from superres.logs import current_request_id
from superres.service.claimed_uploads import DOUBT_PAUSE_SECONDS, ClaimedUploads, Fetching
from superres.service.job import Failed, Job, Outcome, short_job_id
from superres.service.job_claims import JobClaims, describe
from superres.service.job_keeper import OwnedJob
from superres.service.pipeline import Pipeline
from superres.service.resources import Resources
from superres.service.upload import Upload
from superres.threads import Threads

JOBS_FOR_BUSY_LANES = 4
# Beyond these, each has at most half the pixels of the one before.
MAX_CLAIMED = JOBS_FOR_BUSY_LANES + 32

logger = logging.getLogger(__name__)


class LocalJobs:
    """Runs this process's jobs from claim to end; the `JobExecutor` of its keeper.

    Parameters
    ----------
    threads : number of concurrent jobs; most only wait, for memory or for the lanes
    """

    def __init__(self, resources: Resources, pipeline: Pipeline, threads: int) -> None:
        self._resources = resources
        self._table = resources.table
        self._spool = resources.spool
        self._scheduler = resources.scheduler
        self._max_sync_seconds = resources.settings.max_sync_seconds
        self._pipeline = pipeline
        self._lock = threading.Lock()
        self._jobs: dict[tuple[str, bool], Job] = {}  # by name and `keep`
        self._claims = JobClaims(resources)
        self._uploads = ClaimedUploads(resources)
        self._pool = Threads(threads, thread_name_prefix="picture")

    def __len__(self) -> int:
        """Return the number of jobs."""
        return len(self._jobs)

    def join(self, name: str, keep: bool) -> Job | None:
        """Add a request to the waiters of the job that makes a result, if there is one."""
        with self._lock:
            job = self._find(name, keep)
            if job is not None:
                job.waiters += 1
        if job is not None:
            self._claims.note_wish(job)
        return job

    def _find(self, name: str, keep: bool) -> Job | None:
        """Return the job that makes a result, unless it has just failed: the next may succeed."""
        job = self._jobs.get((name, keep))
        return None if job is not None and isinstance(job.outcome, Failed) else job

    def start(
        self,
        name: str,
        upload: Upload,
        header: ImageHeader,
        options: Options,
        keep: bool,
        cost: int,
    ) -> tuple[Job, bool]:
        """Start the job that makes a result, with a request as its first waiter.

        Parameters
        ----------
        cost : see `Resources.estimate_cost`

        Returns
        -------
        The job, and whether it is new and has taken the upload's file; otherwise another request
        was faster.

        Raises
        ------
        ServiceError
            The scheduler does not admit the image.
        """
        with self._lock:
            job = self._find(name, keep)
            is_new = job is None
            if job is None:
                place = self._scheduler.admit(cost)
                job = Job(name, upload.take_file(), header, options, place, keep)
                job.upload = upload
                self._jobs[name, keep] = job
                job.waiters = 1
                # With the request's ID, for log messages.
                self._pool.submit(copy_context().run, self._run, job)
            else:
                job.waiters += 1
        if not is_new:
            self._claims.note_wish(job)
        return job, is_new

    def leave(self, job: Job, client_left: bool) -> None:
        """Remove a request from a job's waiters; cancel a job that nobody wants any more."""
        with self._lock:
            job.waiters -= 1
            is_lonely = client_left and job.waiters == 0
        # Outside the lock: the database may be slow. A request that joins meanwhile sees the job
        # cancelled, and starts another.
        if is_lonely and not self._claims.is_wanted(job):
            with self._lock:
                self._cancel(job)

    def stop(self) -> None:
        """Stop all jobs: the process is about to exit, and nobody waits for them any more."""
        with self._lock:
            jobs: list[OwnedJob] = [*self._jobs.values(), *self._uploads.fetching.values()]
            for job in jobs:
                job.progress.cancelled = True

    def cancel(self, name: str) -> None:
        """Stop a job that was cancelled in the table."""
        with self._lock:
            job = self._jobs.get((name, True))
            if job is not None and job.waiters == 0:
                self._cancel(job)
            fetching = self._uploads.fetching.get(name)
            if fetching is not None:
                fetching.progress.cancelled = True

    def _cancel(self, job: Job) -> None:
        """Stop a job within a tile; later requests for its result start another."""
        job.progress.cancelled = True
        if self._jobs.get((job.name, job.keep)) is job:
            del self._jobs[job.name, job.keep]

    def free_memory(self) -> None:
        """Return memory that images and uploads no longer need."""
        machine.return_free_memory()

    def claimable_pixels(self) -> int | None:
        """Return the most pixels that the next claimed job may have; None for any number.

        Enough jobs are claimed to keep the lanes busy while one is decoded or encoded. Beyond
        these, or while images wait for memory, only a job that the lanes would compute before all
        of them: so small jobs do not wait in the table, and other processes can claim the rest.
        """
        if not self._resources.can_finish_jobs:
            return 0
        with self._lock:
            claimed = [job.place.pixels for job in self._jobs.values() if job.is_asynchronous]
            claimed += [each.pixels for each in [*self._uploads.fetching.values()]]
        is_busy = len(claimed) >= JOBS_FOR_BUSY_LANES or self._resources.memory.is_contended
        return min(claimed) // 2 if claimed and is_busy else None

    def run_claimed(self, claim: Claim) -> None:
        """Start a job that the keeper has claimed."""
        try:
            mine = self._uploads.rename(claim)
        except NotReady as error:
            logger.error("%s", error.message)
            pause = float(error.retry_after_seconds or DOUBT_PAUSE_SECONDS)
            self._table.requeue(claim.name, counts=False, pause_seconds=pause)
            return
        if mine is None:
            return
        claim, options = mine
        if not self._adopt(claim):
            fetching = self._uploads.fetching[claim.name] = Fetching(claim.name, claim.pixels)
            # On its own thread: opening an upload may take seconds.
            self._pool.submit(self._run_claimed, claim, options, fetching)

    def _adopt(self, claim: Claim) -> bool:
        """Give a claim to the job of a request that wants the same result, if there is one."""
        with self._lock:
            job = self._find(claim.name, True)
            if job is None or job.is_claimed or job.progress.cancelled:
                return False
            job.take_over_claim()
        self._table.extend_interest(claim.name, self._max_sync_seconds)
        return True

    def _run_claimed(self, claim: Claim, options: Options, fetching: Fetching) -> None:
        # Its request has ended, and was logged with this ID.
        current_request_id.set(short_job_id(claim.name))
        job = None
        try:
            job = self._open(claim, options, fetching.progress)
        except (DatabaseDown, OSError, StoreDown) as error:
            logger.error("%s %s", error, error.__cause__ or "")
        except Exception:
            logger.exception("opening an upload failed")
        finally:
            # The job is known by now: at no time is the claim nobody's.
            if self._uploads.fetching.get(claim.name) is fetching:
                del self._uploads.fetching[claim.name]
        if job is not None:
            self._run(job)

    def _open(self, claim: Claim, options: Options, progress: Progress) -> Job | None:
        """Make a claimed job, unless its upload shows that there is nothing to compute."""
        try:
            file, header = self._uploads.open(claim, options, progress)
        except (OSError, StoreDown):
            # Not the job's fault, however often it is retried.
            self._table.requeue(claim.name, counts=False, pause_seconds=DOUBT_PAUSE_SECONDS)
            raise
        except UploadLost as error:
            self._uploads.doubt(claim, error)
            return None
        except ServiceError as error:
            # A job that was cancelled is another process's, or is about to be released.
            if not progress.cancelled:
                problem = None if error.code == JobCancelled.code else describe(error)
                self._spool.remove(self._table.finish(claim.name, problem))
            return None
        if progress.cancelled:
            file.close()
            return None
        file_bytes = file.seek(0, os.SEEK_END)
        cost = self._resources.estimate_cost(claim.name, header, options, file_bytes)
        job = Job(claim.name, file, header, options, self._scheduler.enter(cost))
        job.take_over_claim()
        with self._lock:
            former = self._find(job.name, True)
            if former is None or former.progress.cancelled:
                self._jobs[job.name, True] = job
                return job
        job.place.release()
        file.close()
        self._adopt(claim)  # a request was faster, and waits for the claim
        return None

    def claimed(self) -> list[OwnedJob]:
        """Return this process's jobs that are claimed in the table."""
        # In this order: a job may just become one whose upload is open.
        jobs: list[OwnedJob] = [*self._uploads.fetching.values()]
        with self._lock:
            jobs += [job for job in self._jobs.values() if job.is_claimed and job.outcome is None]
        return jobs

    def names(self) -> Collection[str]:
        """Return the names of all of this process's jobs, claimed or about to be."""
        names = {*self._uploads.fetching}
        with self._lock:
            return names | {name for name, keep in self._jobs if keep}

    def regain(self, owned: OwnedJob) -> None:
        """Handle a job that, according to the table, this process no longer owns.

        The database, or this process, was unavailable for longer than a lease. A job that nobody
        has claimed since is claimed again. One that has another owner, or was cancelled, continues
        for the requests that wait here, and otherwise stops.
        """
        if isinstance(owned, Fetching):
            # Nothing is computed yet; and perhaps its own thread has just requeued it.
            owned.progress.cancelled = True
            return
        if self._table.reclaim(owned.name):
            return
        with self._lock:
            job = self._jobs.get((owned.name, True))
            if job is owned and job.waiters > 0:
                job.give_up_claim()
            else:
                owned.progress.cancelled = True

    def _run(self, job: Job) -> None:
        """Run a job until it succeeds or fails; called on a thread of the pool."""
        outcome = job.outcome = self._find_outcome(job)
        try:
            if job.upload is not None and isinstance(outcome, Failed) and outcome.lost_engine:
                job.upload.give_back()  # its request starts another job with it
            else:
                job.file.close()
            job.place.release()
            self._claims.record_end(job, outcome)
        finally:
            with self._lock:
                if self._jobs.get((job.name, job.keep)) is job:
                    del self._jobs[job.name, job.keep]
            job.ended.set()

    def _find_outcome(self, job: Job) -> Outcome:
        """Compute a job's result; whatever goes wrong, waiting requests must be told."""
        try:
            self._claims.claim(job)
            return self._pipeline.compute(job)
        except ServiceError as error:
            return Failed(error.renew())
        except MemoryError:
            logger.exception("not enough memory for %s", job.name)
            busy = self._scheduler.busy("There is not enough memory for this image now.")
            return Failed(busy)
        except Exception:
            logger.exception("computing %s failed", job.name)
            return Failed(ServiceError("The image could not be computed."))
