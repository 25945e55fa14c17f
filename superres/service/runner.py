"""From an upload to its result: looks it up, or computes it once for all waiting requests."""

import logging
import time
from contextlib import suppress
from dataclasses import dataclass, field

from superres.engines.model_loader import ModelLoader
from superres.errors import ClientLeft, DatabaseDown, NotReady, StoreDown
from superres.images.options import DEFAULT_OPTIONS, RESTORE, Options
from superres.images.picture import ImageHeader
from superres.machine import most_tasks
from superres.service.charges import FREE, Charge, Reservation
from superres.service.job import Failed, InMemory, Job, Stored
from superres.service.job_keeper import JobKeeper
from superres.service.local_jobs import MAX_CLAIMED, LocalJobs
from superres.service.pipeline import Pipeline
from superres.service.places import LEFT_POLL_SECONDS
from superres.service.previews import Previews
from superres.service.resources import Resources
from superres.service.sandboxed_codec import HasLeft
from superres.service.submissions import Submissions
from superres.service.upload import Upload
from superres.settings import Settings
from superres.store.stored_result import ResultInfo, StoredResult

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """A result, as a stored file or, if it could not be stored, as bytes."""

    name: str
    info: ResultInfo
    content: StoredResult | memoryview
    hit: bool
    stage_seconds: dict[str, float] = field(default_factory=dict)


class Runner:
    """Computes results, each only once, and stores them.

    Parameters
    ----------
    settings : limits and folders
    model_loader : has the models; the first is loaded by `start` or the first upload

    Attributes
    ----------
    submissions : accepts uploads whose clients do not wait
    previews : shows uploads
    """

    def __init__(self, settings: Settings, model_loader: ModelLoader) -> None:
        self.settings = settings
        self.resources = resources = Resources(settings, model_loader)
        self.cache = resources.cache
        self.spool = resources.spool
        self.jobs = resources.table
        self.model_loader = model_loader
        self.scheduler = resources.scheduler
        self.result_name = resources.result_name
        self._counters = resources.counters
        self.spool_hold = resources.spool_hold
        self._local_jobs = LocalJobs(
            resources,
            Pipeline(resources),
            # Most, unless the system allows only few: a quarter for these, half for requests.
            threads=min(settings.max_waiting_requests + MAX_CLAIMED, max(most_tasks() // 4, 1)),
        )
        self.keeper = JobKeeper(
            self.jobs, self.spool, settings.job_ttl_seconds, executor=self._local_jobs
        )
        self.submissions = Submissions(resources, self._local_jobs, self.keeper)
        self.previews = Previews(resources)

    def start(self) -> None:
        """Load the model and start on queued jobs; must not be called before the server forks.

        Raises
        ------
        StartupError
            The model cannot be used, or uploads would be lost.
        """
        self.spool_hold.start()
        # Before the model, with which the service is ready: health says then how it is confined.
        self.resources.codec.start()
        self.model_loader.get()
        if self.settings.restore_preload:
            self.model_loader.get(RESTORE)
        self.resources.limiter.start()
        self.keeper.start()

    @property
    def is_draining(self) -> bool:
        """Whether the server is stopping."""
        return self.resources.is_draining

    def begin_draining(self) -> None:
        """Finish what has begun, and start nothing new; safe in a signal handler."""
        self.resources.is_draining = True

    def check_ready(self) -> None:
        """Raise NotReady, saying why, unless uploads can be computed now."""
        self.model_loader.check_loaded()
        if self.is_draining:
            raise NotReady("The service is stopping.", retry_after_seconds=1)

    def is_ready(self) -> bool:
        """Tell whether uploads can be computed now."""
        try:
            self.check_ready()
        except NotReady:
            return False
        return True

    def find(self, key: str, options: Options = DEFAULT_OPTIONS) -> Result | None:
        """Return an upload's result if it is stored."""
        result = self.open_result(self.result_name(key, options))
        self._counters.add("cache_misses" if result is None else "cache_hits")
        return result

    def open_result(self, name: str) -> Result | None:
        """Return a result if it is stored."""
        stored = self.cache.open(name)
        return Result(name, stored.info, stored, hit=True) if stored else None

    def enhance(
        self,
        upload: Upload,
        options: Options = DEFAULT_OPTIONS,
        keep: bool = True,
        has_left: HasLeft = lambda: False,
        charge: Charge = FREE,
    ) -> Result:
        """Return an upload's result, waiting for it if it is not stored.

        Parameters
        ----------
        upload : it is closed, or the job that computes the result takes its file
        keep : False leaves nothing behind on the server
        has_left : tells whether the client is gone; then the job ends, unless others want it
        charge : is charged if the result has to be computed, and no other request has asked for it

        Raises
        ------
        ServiceError
            The image is rejected, the queue is full, or the request timed out.
        """
        try:
            found = self.find(upload.key, options)
            if found is not None:
                return found
            self.model_loader.refuse_unsound(options.mode)
            with self.scheduler.checking_header():
                header = self.resources.read_header(upload.file, options, has_left)
            with self.scheduler.waiting_request():
                while True:
                    name = self.result_name(upload.key, options)
                    job, reservation = self._join_or_start(
                        name, upload, header, options, keep, charge
                    )
                    self._wait(job, has_left)
                    lost_engine = isinstance(job.outcome, Failed) and job.outcome.lost_engine
                    if reservation is not None and lost_engine:
                        reservation.give_back()  # and the job has given the upload back
                    elif reservation is not None:
                        if isinstance(job.outcome, Stored) and job.outcome.payload is None:
                            # Another process has computed it in the meantime.
                            reservation.give_back()
                        break
                    # The job may have been cancelled just before this request joined it.
                    if not (isinstance(job.outcome, Failed) and job.outcome.was_cancelled):
                        break
            return self._collect(job)
        finally:
            upload.close()

    def _join_or_start(
        self,
        name: str,
        upload: Upload,
        header: ImageHeader,
        options: Options,
        keep: bool,
        charge: Charge,
    ) -> tuple[Job, Reservation | None]:
        """Join or start the job for a request.

        Returns
        -------
        The job and, if it was started for this request, the reservation for it.
        """
        joined = self._local_jobs.join(name, keep)
        if joined is not None:
            return joined, None
        cost = self.resources.estimate_cost(name, header, options, upload.size_bytes)
        reservation = charge.reserve(cost)
        is_new = False
        try:
            job, is_new = self._local_jobs.start(name, upload, header, options, keep, cost)
        finally:
            if not is_new:
                reservation.give_back()
        return job, reservation if is_new else None

    def _wait(self, job: Job, has_left: HasLeft) -> None:
        """Wait until a job has ended, the client has left, or the request times out."""
        deadline = time.monotonic() + self.settings.max_sync_seconds
        left = False
        try:
            while not job.ended.wait(LEFT_POLL_SECONDS):
                if has_left():
                    left = True
                    raise ClientLeft("The client has closed the connection.")
                if time.monotonic() > deadline:
                    raise self.scheduler.busy("The result is not ready yet; send the file again.")
        finally:
            self._local_jobs.leave(job, left)

    def _collect(self, job: Job) -> Result:
        """Return an ended job's result to a request that waited for it."""
        outcome = job.outcome
        if isinstance(outcome, Failed) and not outcome.was_cancelled:
            raise outcome.error.renew()
        in_memory: Result | None = None
        if isinstance(outcome, Stored | InMemory) and outcome.payload is not None:
            content = outcome.payload
            in_memory = Result(job.name, outcome.info, content, False, job.stage_seconds)
        if in_memory is not None and isinstance(outcome, InMemory):
            return in_memory
        try:
            # Another process may have stored the result of a job that was cancelled here.
            stored = self.cache.open(job.name)
        except StoreDown:
            if in_memory is None:
                raise
            return in_memory
        if stored is not None:
            return Result(job.name, stored.info, stored, False, job.stage_seconds)
        if in_memory is not None:
            return in_memory
        if isinstance(outcome, Failed):
            raise self.scheduler.busy("The computation was interrupted; send the file again.", 0)
        raise self.scheduler.busy("The result was evicted immediately; send the file again.")

    def stop(self) -> None:
        """Release asynchronous jobs to other processes; this one is about to exit."""
        self.begin_draining()
        # In this order: the keeper may be claiming a job right now.
        self.keeper.stop()
        self.resources.limiter.stop()
        self._local_jobs.stop()
        with suppress(DatabaseDown):
            self.jobs.release_all()
        self.spool_hold.stop()
        self.jobs.database.close()
        self.resources.codec.sandbox.close()

    def statistics(self) -> dict[str, int | float]:
        """Return counters since the start, and what is in the cache now."""
        sizes = [file.size_bytes for file in self.cache.scan()]
        counts, model = self._counters, self.model_loader.model
        remote = self.resources.remote
        lookups = counts["cache_hits"] + counts["cache_misses"]
        return {
            "cache_size": len(sizes),
            "cache_bytes": sum(sizes),
            "spool_bytes": self.spool.used_bytes,
            "cache_hits": counts["cache_hits"],
            "cache_misses": counts["cache_misses"],
            "cache_hit_rate": counts["cache_hits"] / lookups if lookups else 0.0,
            "cache_write_errors": counts["cache_write_errors"],
            "cache_damaged": self.cache.damaged,
            "store_errors": remote.errors if remote else 0,
            "cache_evictions": self.resources.limiter.evictions,
            "inferences": counts["inferences"],
            "inferences_restore": counts["inferences_restore"],
            "inference_pixels": counts["inference_pixels"],
            "inference_seconds": counts["inference_seconds"],
            "lanes": model.lanes if model else 0,
            "lanes_busy": model.lanes_busy if model else 0,
            "lane_seconds": model.lane_seconds if model else 0.0,
            "queue_length": len(self._local_jobs),
            "queue_pixels": self.scheduler.queued_pixels,
            "decoded_bytes": self.resources.memory.used_bytes,
            "sandbox_deaths": self.resources.codec.deaths,
            "waiting_requests": self.scheduler.waiting_requests,
            "jobs_unavailable": counts["jobs_unavailable"],
            "job_faults": counts["job_faults"],
            "source_hits": counts["source_hits"],
            "source_stale_hits": counts["source_stale_hits"],
            "source_fetches": counts["source_fetches"],
            "source_revalidations": counts["source_revalidations"],
            "source_failures": counts["source_failures"],
        }
