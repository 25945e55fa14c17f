"""Results in the making in this process: each is one job, however many requests wait for it."""

import logging
import threading
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

from superres import machine
from superres.errors import JobCancelled, ServiceError, StoreDown, UploadLost
from superres.images.image_codec import ImageHeader
from superres.images.options import Options, find_unknown
from superres.jobs.job_records import Claim
from superres.logs import current_request_id
from superres.service.claimed_uploads import DOUBT_PAUSE_SECONDS, ClaimedUploads
from superres.service.job import Failed, Job, Outcome
from superres.service.job_claims import JobClaims, describe
from superres.service.job_keeper import OwnedJob
from superres.service.pipeline import Pipeline, estimate_cost
from superres.service.resources import Resources
from superres.service.upload import Upload
from superres.store.result_name import upload_key

JOBS_FOR_BUSY_LANES = 4
# Beyond these, each has half of the pixels of the one before.
MAX_CLAIMED = JOBS_FOR_BUSY_LANES + 32

logger = logging.getLogger(__name__)


def short_job_id(name: str) -> str:
    """Return what the log calls an asynchronous job: not its result's name, which is a secret."""
    return f"job-{name[:12]}"


class LocalJobs:
    """Runs this process's jobs from claim to end; the `JobExecutor` of its keeper.

    Parameters
    ----------
    threads : jobs at once; most of them only wait, for memory or for the lanes
    """

    def __init__(self, resources: Resources, pipeline: Pipeline, threads: int) -> None:
        self._resources = resources
        self._table = resources.table
        self._spool = resources.spool
        self._scheduler = resources.scheduler
        self._max_sync_seconds = resources.settings.max_sync_seconds
        self._pipeline = pipeline
        self._lock = threading.Lock()
        self._jobs: dict[tuple[str, bool], Job] = {}  # by name, and whether they are kept
        self._claims = JobClaims(resources)
        self._uploads = ClaimedUploads(resources)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="picture")

    def __len__(self) -> int:
        """Return how many jobs there are."""
        return len(self._jobs)

    def join(self, name: str, keep: bool) -> Job | None:
        """Let a request wait for the job that makes a result, if there is one."""
        with self._lock:
            job = self._jobs.get((name, keep))
            if job is not None:
                job.waiters += 1
        if job is not None:
            self._claims.note_wish(job)
        return job

    def start(
        self, name: str, upload: Upload, header: ImageHeader, options: Options, keep: bool
    ) -> tuple[Job, bool]:
        """Start the job that makes a result, and let a request wait for it.

        Returns
        -------
        The job, and whether it is a new one, which has taken the upload's file; else another
        request was faster.

        Raises
        ------
        ServiceError
            The scheduler does not admit the image.
        """
        with self._lock:
            job = self._jobs.get((name, keep))
            is_new = job is None
            if job is None:
                place = self._scheduler.admit(estimate_cost(header, options))
                job = Job(name, upload.take_file(), header, options, place, keep)
                self._jobs[name, keep] = job
                job.waiters = 1
                # With the request's id, for what is logged there.
                self._pool.submit(copy_context().run, self._run, job)
            else:
                job.waiters += 1
        if not is_new:
            self._claims.note_wish(job)
        return job, is_new

    def leave(self, job: Job, client_left: bool) -> None:
        """Let a request wait no longer; a job that nobody wants any more ends."""
        with self._lock:
            job.waiters -= 1
            is_lonely = client_left and job.waiters == 0
        # Not behind the lock: the database may take its time. Who joins meanwhile is told that the
        # job was cancelled, and starts another.
        if is_lonely and not self._claims.is_wanted(job):
            with self._lock:
                self._cancel(job)

    def stop(self) -> None:
        """Stop all jobs: the process is about to end, and nobody waits for them any more."""
        with self._lock:
            for job in self._jobs.values():
                job.progress.cancelled = True

    def cancel(self, name: str) -> None:
        """Stop a job that the table says is cancelled."""
        with self._lock:
            job = self._jobs.get((name, True))
            if job is not None and job.waiters == 0:
                self._cancel(job)

    def _cancel(self, job: Job) -> None:
        """Stop a job within a tile; whoever wants its result from now on starts another."""
        job.progress.cancelled = True
        if self._jobs.get((job.name, job.keep)) is job:
            del self._jobs[job.name, job.keep]

    def rest(self) -> None:
        """Give memory back that images and uploads no longer need."""
        machine.return_free_memory()

    def claimable_pixels(self) -> int | None:
        """Return the most pixels that the next claimed job may have; None: any number; 0: none.

        Enough are claimed to keep the lanes busy while one is decoded or encoded. Beyond these, or
        where images wait for memory, one that the lanes would take before all of them: so small
        ones do not wait in the table, and what others can compute stays there for them.
        """
        if not self._resources.can_finish_jobs:
            return 0
        with self._lock:
            claimed = [job.place.pixels for job in self._jobs.values() if job.is_asynchronous]
        is_busy = len(claimed) >= JOBS_FOR_BUSY_LANES or self._resources.memory.is_contended
        return min(claimed) // 2 if claimed and is_busy else None

    def run_claimed(self, claim: Claim) -> None:
        """Start a job that the keeper has claimed.

        Raises
        ------
        OSError, StoreDown
            Its upload cannot be read now; the job is queued again.
        """
        mine = self._under_own_name(claim)
        if mine is None:
            return
        claim, options = mine
        with self._lock:
            job = self._jobs.get((claim.name, True))
            adopted = job is not None and not job.is_claimed and not job.progress.cancelled
            if job is not None and adopted:
                # A request came for the same result, and its job waits for this claim.
                job.take_over_claim()
        if adopted:
            self._table.extend_interest(claim.name, self._max_sync_seconds)
            return
        try:
            file, header = self._uploads.open(claim, options)
        except StoreDown:
            # No job is to blame for a store that is down, however often it is tried.
            self._table.requeue(claim.name, counts=False)
            raise
        except OSError:
            self._table.requeue(claim.name, counts=False, pause_seconds=DOUBT_PAUSE_SECONDS)
            raise
        except UploadLost as error:
            self._doubt(claim, error)
            return
        except ServiceError as error:
            problem = None if error.code == JobCancelled.code else describe(error)
            self._spool.remove(self._table.finish(claim.name, problem))
            return
        place = self._scheduler.enter(estimate_cost(header, options))
        job = Job(claim.name, file, header, options, place)
        job.take_over_claim()
        with self._lock:
            self._jobs[job.name, True] = job
        self._pool.submit(self._run_claimed, job)

    def _doubt(self, claim: Claim, error: UploadLost) -> None:
        """Fail a job whose upload has been lost for long; else let it be tried again."""
        if self._uploads.is_lost(claim.spool):
            self._spool.remove(self._table.finish(claim.name, describe(error)))
            return
        logger.warning("%s: %s It is looked for again.", short_job_id(claim.name), error.message)
        self._table.requeue(claim.name, counts=False, pause_seconds=DOUBT_PAUSE_SECONDS)

    def _under_own_name(self, claim: Claim) -> tuple[Claim, Options] | None:
        """Return a claim under the name that its result has here, and its options.

        None where it is no claim any more: it is left to a newer version, or its result is there.
        """
        unknown = find_unknown(claim.options)
        if unknown:
            logger.warning("jobs with %s are left to a newer version", ", ".join(unknown))
            self._table.leave(claim.name, unknown)
            return None
        options = Options(**claim.options)
        name = self._resources.result_name(upload_key(claim.name), options)
        mine = claim if name == claim.name else self._table.rename(claim, name)
        return (mine, options) if mine else None

    def _run_claimed(self, job: Job) -> None:
        # The request that it came with is over, and was logged with this.
        current_request_id.set(short_job_id(job.name))
        self._run(job)

    def claimed(self) -> list[OwnedJob]:
        """Return the jobs of this process that it has claimed in the table."""
        with self._lock:
            jobs: list[OwnedJob] = [
                job for job in self._jobs.values() if job.is_claimed and job.outcome is None
            ]
        fetching = self._uploads.fetching
        return jobs if fetching is None else [*jobs, fetching]

    def names(self) -> Collection[str]:
        """Return the names of all jobs of this process, claimed or about to be."""
        with self._lock:
            names = {name for name, keep in self._jobs if keep}
        fetching = self._uploads.fetching
        return names if fetching is None else {*names, fetching.name}

    def regain(self, owned: OwnedJob) -> None:
        """Go on with a job that the table says is not this process's any more.

        The database, or this process, was away for longer than a lease. What nobody has claimed
        since is claimed again. Of another's, or of a cancelled one, those who wait here get the
        result all the same; where nobody does, it stops.
        """
        if self._table.reclaim(owned.name):
            return
        with self._lock:
            job = self._jobs.get((owned.name, True))
            if job is owned and job.waiters > 0:
                job.give_up_claim()
            else:
                owned.progress.cancelled = True

    def _run(self, job: Job) -> None:
        """Compute a job's result to its end, good or bad; runs on a thread of the pool."""
        outcome = job.outcome = self._find_outcome(job)
        try:
            job.file.close()
            job.place.release()
            self._claims.record_end(job, outcome)
        finally:
            with self._lock:
                if self._jobs.get((job.name, job.keep)) is job:
                    del self._jobs[job.name, job.keep]
            job.ended.set()

    def _find_outcome(self, job: Job) -> Outcome:
        """Compute a job's result; whatever goes wrong, those who wait must hear of it."""
        try:
            self._claims.claim(job)
            return self._pipeline.compute(job)
        except ServiceError as error:
            return Failed(error.renew())
        except MemoryError:
            logger.exception("no memory for %s", job.name)
            busy = self._scheduler.busy("There is not enough memory for this picture now.")
            return Failed(busy)
        except Exception:
            logger.exception("computing %s failed", job.name)
            return Failed(ServiceError("The picture could not be computed."))
