"""From an upload to its result: look it up, or compute it once for everybody who waits for it."""

import hashlib
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from charges import FREE, Charge
from cleanup_cache import CacheLimiter
from databases import open_database
from encoders import check_result_size
from errors import (
    Busy,
    ClientLeft,
    DatabaseDown,
    JobCancelled,
    NotReady,
    NotStored,
    RateLimited,
    StoreDown,
)
from image_codec import CODEC_VERSION, ImageHeader, read_header
from job_keeper import CLAIMS_AT_ONCE, JobKeeper
from jobs import Jobs
from jobs_schema import SCHEMA, make_owner
from local_jobs import LocalJobs
from model_loader import ModelLoader
from options import Options
from pipeline import Job, Pipeline, estimate_cost
from remote_store import RemoteStore
from result_cache import ResultNote, StoredResult
from scheduler import Scheduler
from settings import Settings
from spool_hold import SpoolHold
from super_resolution import DEFAULT_OPTIONS, SCALE, SuperResolution
from tiers import open_tiers
from uploads import Upload

# A client that has left is noticed within this.
LEFT_POLL_SECONDS = 0.25

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """A result, as a stored file or, where it could not be stored, as bytes."""

    name: str
    note: ResultNote
    content: StoredResult | memoryview
    hit: bool
    stage_seconds: dict[str, float] = field(default_factory=dict)


class Runner:
    """Computes results, each once, and keeps them.

    Parameters
    ----------
    settings : limits and folders
    load : makes the model; called once, by `start` or the first upload

    Attributes
    ----------
    is_draining : tells whether the server is stopping
    """

    def __init__(self, settings: Settings, load: Callable[[], SuperResolution]) -> None:
        self.settings = settings
        self.limiter = CacheLimiter(
            settings.cache_dir, settings.cache_max_mb, settings.cache_min_free_mb
        )
        self._remote = RemoteStore(settings.store_url) if settings.store_url else None
        self.cache, self.spool = open_tiers(
            settings.cache_dir,
            self._remote,
            bool(settings.database_url),
            self.limiter.note_stored,
        )
        self.model_loader = ModelLoader(load)
        self.scheduler = Scheduler(settings, lambda: self.model_loader.get().seconds_per_pixel)
        self.is_draining: Callable[[], bool] = lambda: False
        self._lock = threading.Lock()
        self._counts: defaultdict[str, float] = defaultdict(int)
        self.jobs = Jobs(open_database(settings, SCHEMA), make_owner())
        self.spool_hold = SpoolHold(self.jobs, self.spool)
        self._local_jobs = LocalJobs(
            *(self.jobs, self.spool, self.cache, self.limiter, self.scheduler),
            Pipeline(settings, self.model_loader, self.cache, self.scheduler, self._count),
            settings.max_input_pixels,
            settings.max_sync_seconds,
            settings.max_waiting_requests + CLAIMS_AT_ONCE,
            self.result_name,
            self._count,
        )
        self.keeper = JobKeeper(
            *(self.jobs, self.spool, settings.job_ttl_seconds),
            owned=self._local_jobs.claimed,
            run=self._local_jobs.run_claimed,
            may_claim=self._may_claim,
        )

    def _may_claim(self) -> bool:
        """Tell whether this process could bring a job to its end now."""
        can_store = self.cache.can_write() and (self._remote is None or self._remote.can_write())
        is_able = self.spool_hold.is_held and self.model_loader.is_sound
        return can_store and is_able and not self.is_draining()

    def start(self) -> None:
        """Load the model and begin with queued jobs; must not be called before the server forks.

        Raises
        ------
        StartupError
            The model cannot be used, or uploads would be lost.
        """
        self.spool_hold.start()
        self.model_loader.get()
        self.cache.remove_leftovers()
        self.keeper.start()

    def check_ready(self) -> None:
        """Raise NotReady, which says why, unless uploads can be computed now."""
        self.model_loader.check_loaded()
        if self.is_draining():
            raise NotReady("The service is stopping.", retry_after_seconds=1)

    def is_ready(self) -> bool:
        """Tell whether uploads can be computed now."""
        try:
            self.check_ready()
        except NotReady:
            return False
        return True

    def result_name(self, key: str, options: Options = DEFAULT_OPTIONS) -> str:
        """Return the name of an upload's result: content hash, then variant.

        The variant stands for everything else that changes the result's bytes, so that what is
        cached under a name stays right for good.
        """
        ingredients = (
            self.model_loader.get().fingerprint,
            f"codec {CODEC_VERSION}",
            *(f"{name} {value}" for name, value in sorted(options.as_dict().items())),
            f"metadata {self.settings.keep_metadata}",
        )
        variant = hashlib.sha256("; ".join(ingredients).encode()).hexdigest()[:12]
        return f"{key}.{variant}.{options.format}"

    def find(self, key: str, options: Options = DEFAULT_OPTIONS) -> Result | None:
        """Return an upload's result if it is stored."""
        result = self.open_result(self.result_name(key, options))
        self._count("cache_misses" if result is None else "cache_hits")
        return result

    def open_result(self, name: str) -> Result | None:
        """Return a result if it is stored."""
        stored = self.cache.open(name)
        return Result(name, stored.note, stored, hit=True) if stored else None

    def enhance(
        self,
        upload: Upload,
        options: Options = DEFAULT_OPTIONS,
        keep: bool = True,
        has_left: Callable[[], bool] = lambda: False,
        charge: Charge = FREE,
    ) -> Result:
        """Return an upload's result, waiting for it where it is not stored.

        Parameters
        ----------
        upload : its file is closed, here or by the job that computes the result
        keep : False leaves nothing behind on the server
        has_left : tells whether the client is gone; then the job ends, unless others want it
        charge : pays where the result has to be computed, and nobody else has asked for it

        Raises
        ------
        ServiceError
            The picture is refused, the queue is full, or time ran out.
        """
        job: Job | None = None
        try:
            found = self.find(upload.key, options)
            if found is not None:
                return found
            self.model_loader.refuse_unsound()
            header = self._read_header(upload, options)
            name = self.result_name(upload.key, options)
            if not self._local_jobs.has(name, keep):
                charge.check(estimate_cost(header, options))
            with self.scheduler.waiting_request():
                while True:
                    job = self._local_jobs.join(name, upload, header, options, keep)
                    if job.file is upload.file:
                        # Another request of the same client may have been faster than the check.
                        with suppress(RateLimited):
                            charge.spend(job.cost_pixels)
                    self._wait(job, has_left)
                    # Somebody may have cancelled the job just before this request joined it.
                    if not isinstance(job.error, JobCancelled) or job.file is upload.file:
                        break
            return self._collect(job)
        finally:
            if job is None or job.file is not upload.file:
                upload.file.close()

    def _read_header(self, upload: Upload, options: Options) -> ImageHeader:
        """Check a picture's size, and its result's, before anything is decoded."""
        max_output = self.settings.max_output_pixels
        # Whatever the final size, the network makes a picture three times larger.
        max_input = min(self.settings.max_input_pixels, max_output // SCALE**2)
        header = read_header(upload.file, max_input)
        size = options.result_size(header.width, header.height)
        check_result_size(*size, options, max_output)
        return header

    def _wait(self, job: Job, has_left: Callable[[], bool]) -> None:
        """Wait until a job has ended, the client has left, or time is over."""
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
        content: StoredResult | memoryview | None = None
        if job.keep and (job.is_stored or job.payload is None):
            try:
                content = self.cache.open(job.name)
            except StoreDown:
                if job.payload is None:
                    raise
        content = content or job.payload
        if content is None and isinstance(job.error, JobCancelled):
            raise self.scheduler.busy("The computation was interrupted; send the file again.", 0)
        if content is None and job.error is not None:
            raise job.error.renew()
        note = content.note if isinstance(content, StoredResult) else job.note
        if content is None or note is None:
            raise self.scheduler.busy("The result was removed at once; send the file again.")
        return Result(job.name, note, content, False, job.stage_seconds)

    def _count(self, name: str, amount: float = 1, /) -> None:
        with self._lock:
            self._counts[name] += amount

    # --- asynchronous jobs

    def submit(self, upload: Upload, options: Options, charge: Charge = FREE) -> str:
        """Accept a job that survives this process, and return a ticket for it.

        Parameters
        ----------
        charge : pays where nobody else has asked for the result

        Raises
        ------
        ServiceError
            The picture is refused, the queue is full, or nothing can be kept now.
        """
        try:
            self.model_loader.refuse_unsound()
            header = self._read_header(upload, options)
            name = self.result_name(upload.key, options)
            cost = estimate_cost(header, options)
            backlog = self.jobs.backlog(name)
            self.spool_hold.check()
            if not backlog.has_it:
                self.scheduler.check_room(cost, backlog.pixels, backlog.jobs)
                charge.check(cost)
            try:
                spool = self.spool.store(upload.file, backlog.table_id)
            except OSError as error:
                logger.error("cannot spool an upload: %s", error.strerror)
                raise NotStored("The upload cannot be kept now.") from None
            # Where the answer is lost, the job may be there all the same: its upload stays until
            # the keeper finds that nobody wants it.
            try:
                ticket, kept = self.jobs.submit(name, options.as_dict(), cost, spool)
            except Busy:
                self.spool.remove(spool)
                raise
            if kept == spool:
                with suppress(RateLimited):
                    charge.spend(cost)
            else:
                self.spool.remove(spool)
        finally:
            upload.file.close()
        self.keeper.wake()
        return ticket

    def withdraw(self, ticket: str) -> bool:
        """Take back a ticket, and cancel its job where nobody else wants it; False: unknown."""
        name = self.jobs.withdraw(ticket)
        if name is None:
            return False
        cancelled = self.jobs.cancel_unless_wanted(name)
        if cancelled is not None:
            self.spool.remove(cancelled.spool)
            self._local_jobs.cancel(name)
        return True

    def stop(self) -> None:
        """Hand asynchronous jobs over to whoever comes next; the process is about to end."""
        # In this order: the keeper may be claiming a job at this moment.
        self.keeper.stop()
        self._local_jobs.stop()
        with suppress(DatabaseDown):
            self.jobs.hand_over()
        self.spool_hold.stop()
        self.jobs.database.close()

    def statistics(self) -> dict[str, int | float]:
        """Return counters since the start, and what is in the cache now."""
        sizes = [file.size_bytes for file in self.cache.scan()]
        counts, model = self._counts, self.model_loader.model
        lookups = counts["cache_hits"] + counts["cache_misses"]
        return {
            "cache_size": len(sizes),
            "cache_bytes": sum(sizes),
            "cache_hits": counts["cache_hits"],
            "cache_misses": counts["cache_misses"],
            "cache_hit_rate": counts["cache_hits"] / lookups if lookups else 0.0,
            "cache_write_errors": counts["cache_write_errors"],
            "cache_damaged": self.cache.damaged,
            "store_errors": self._remote.errors if self._remote else 0,
            "cache_evictions": self.limiter.evictions,
            "inferences": counts["inferences"],
            "inference_pixels": counts["inference_pixels"],
            "inference_seconds": counts["inference_seconds"],
            "lanes": model.lanes if model else 0,
            "lanes_busy": model.lanes_busy if model else 0,
            "lane_seconds": model.lane_seconds if model else 0.0,
            "queue_length": len(self._local_jobs),
            "queue_pixels": self.scheduler.queued_pixels,
            "decoded_bytes": self.scheduler.decoded_bytes,
            "waiting_requests": self.scheduler.waiting_requests,
            "jobs_unavailable": counts["jobs_unavailable"],
            "job_faults": counts["job_faults"],
        }
