"""From an upload to its result: look it up, or compute it once for everybody who waits for it."""

import hashlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from cleanup_cache import CacheLimiter
from errors import NotReady, ServiceError
from image_codec import CODEC_VERSION, ImageHeader, decode_image, encode_png, read_header
from result_cache import ResultCache, ResultNote, StoredResult
from scheduler import Scheduler
from settings import Settings
from super_resolution import SCALE, SuperResolution
from uploads import Upload

# Pictures in work at once; most of them wait for memory, while small ones pass them.
PICTURES_AT_ONCE = 32
# Peak for each input pixel of the upright picture: 3 bytes of input, 27 of result, and what the
# encoder makes of them; with transparency another 9, and 36 for the encoder's interleaved copy.
BYTES_PER_PIXEL = 48
BYTES_PER_PIXEL_WITH_ALPHA = 96
UNSOUND_RETRY_SECONDS = 60

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """A result, as a stored file or, where it could not be stored, as bytes."""

    name: str
    note: ResultNote
    content: StoredResult | memoryview
    hit: bool
    stage_seconds: dict[str, float] = field(default_factory=dict)


class Job:
    """One result in the making; everybody who wants it waits for the same job."""

    def __init__(self, name: str, upload: Upload, header: ImageHeader, keep: bool) -> None:
        self.name = name
        self.upload = upload
        self.header = header
        self.keep = keep
        self.ended = threading.Event()
        self.error: ServiceError | None = None
        self.note: ResultNote | None = None
        self.payload: memoryview | None = None  # of a result that is not stored
        self.stage_seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Note how long a stage takes."""
        started = time.perf_counter()
        yield
        self.stage_seconds[stage] = time.perf_counter() - started


class Runner:
    """Computes results, each once, and keeps them.

    Parameters
    ----------
    settings : limits and folders
    load : makes the model; called once, by `start`

    Attributes
    ----------
    model : None until `start` has loaded it
    is_draining : tells whether the server is stopping
    """

    def __init__(self, settings: Settings, load: Callable[[], SuperResolution]) -> None:
        self.settings = settings
        self.cache = ResultCache(settings.cache_dir)
        self.limiter = CacheLimiter(
            settings.cache_dir, settings.cache_max_mb, settings.cache_min_free_mb
        )
        self.scheduler = Scheduler(settings, lambda: self.start().seconds_per_pixel)
        self.is_draining: Callable[[], bool] = lambda: False
        self._load = load
        self._start_lock = threading.Lock()
        self.model: SuperResolution | None = None
        self._is_sound = False
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._jobs: dict[tuple[str, bool], Job] = {}
        self._pool = ThreadPoolExecutor(PICTURES_AT_ONCE, thread_name_prefix="picture")

    def start(self) -> SuperResolution:
        """Load the model unless that is done; must not be called before the server forks."""
        if self.model is not None:
            return self.model
        with self._start_lock:
            if self.model is None:
                model = self._load()
                self._is_sound = model.matches_golden_tile()
                if not self._is_sound:
                    logger.error("the model computes its golden tile wrongly on this machine")
                self.cache.remove_leftovers()
                self.model = model
                logger.info(
                    "model %s with %d lanes, %.1f microseconds a pixel",
                    model.model_path.name,
                    model.lanes,
                    model.seconds_per_pixel * 1e6,
                )
            return self.model

    def check_ready(self) -> None:
        """Raise NotReady, which says why, unless uploads can be computed now."""
        if self.model is None:
            raise NotReady("The model is loading.", retry_after_seconds=1)
        self._refuse_unsound_model()
        if self.is_draining():
            raise NotReady("The service is stopping.", retry_after_seconds=1)

    def _refuse_unsound_model(self) -> None:
        if not self._is_sound:
            raise NotReady("The model computes wrongly on this machine.", UNSOUND_RETRY_SECONDS)

    def result_name(self, key: str) -> str:
        """Return the name of an upload's result: content hash, then variant.

        The variant stands for everything else that changes the result's bytes, so that what is
        cached under a name stays right for good.
        """
        ingredients = f"{self.start().fingerprint} png codec {CODEC_VERSION}"
        variant = hashlib.sha256(ingredients.encode()).hexdigest()[:12]
        return f"{key}.{variant}.png"

    def enhance(self, upload: Upload, keep: bool = True) -> Result:
        """Return an upload's result, waiting for it where it is not stored.

        Parameters
        ----------
        upload : its file is closed, here or by the job that computes the result
        keep : False leaves nothing behind on the server

        Raises
        ------
        ServiceError
            The picture is refused, the queue is full, or time ran out.
        """
        job: Job | None = None
        try:
            name = self.result_name(upload.key)
            stored = self.cache.open(name)
            if stored is not None:
                self._count("cache_hits")
                return Result(name, stored.note, stored, hit=True)
            self._count("cache_misses")
            self._refuse_unsound_model()
            with self.scheduler.waiting_request():
                job = self._create_or_join(name, upload, keep)
                if not job.ended.wait(self.settings.max_sync_seconds):
                    raise self.scheduler.busy("The result is not ready yet; send the file again.")
            return self._collect(job)
        finally:
            if job is None or job.upload is not upload:
                upload.file.close()

    def _create_or_join(self, name: str, upload: Upload, keep: bool) -> Job:
        """Return the job that makes a result; a new one takes the upload's file."""
        max_pixels = self.settings.max_output_pixels // SCALE**2
        header = read_header(upload.file, min(self.settings.max_input_pixels, max_pixels))
        with self._lock:
            job = self._jobs.get((name, keep))
            if job is None:
                self.scheduler.admit(header.pixels)
                job = self._jobs[name, keep] = Job(name, upload, header, keep)
                self._pool.submit(self._run, job)
            return job

    def _collect(self, job: Job) -> Result:
        if job.error is not None:
            raise job.error.renew()
        content = job.payload or self.cache.open(job.name)
        if content is None or job.note is None:
            raise self.scheduler.busy("The result was removed at once; send the file again.")
        return Result(job.name, job.note, content, False, job.stage_seconds)

    def _count(self, event: str) -> None:
        with self._lock:
            self._counts[event] += 1

    def _run(self, job: Job) -> None:
        """Compute a job's result to its end, good or bad; runs on a thread of the pool."""
        try:
            self._compute(job)
        except ServiceError as error:
            job.error = error.renew()
        except MemoryError:
            logger.exception("no memory for %s", job.name)
            job.error = self.scheduler.busy("There is not enough memory for this picture now.")
        except Exception:
            # Whatever went wrong, those who wait must hear of it and the queue must move on.
            logger.exception("computing %s failed", job.name)
            job.error = ServiceError("The picture could not be computed.")
        finally:
            job.upload.file.close()
            self.scheduler.finish(job.header.pixels)
            with self._lock:
                del self._jobs[job.name, job.keep]
            job.ended.set()
        if job.keep and job.note is not None:
            self.limiter.note_stored(job.note.length)

    def _compute(self, job: Job) -> None:
        # Another process, or a job that ended a moment ago, may have stored it meanwhile.
        stored = self.cache.open(job.name)
        if stored is not None:
            stored.file.close()
            job.note = stored.note
            return
        bytes_per_pixel = BYTES_PER_PIXEL_WITH_ALPHA if job.header.has_alpha else BYTES_PER_PIXEL
        with self.scheduler.decoded_picture(job.header.pixels * bytes_per_pixel):
            with job.measure("decode"):
                picture = decode_image(job.upload.file)
            with job.measure("upscale"):
                enlarged = self.start().upscale_picture(picture)
            self._count("inferences")
            height, width = enlarged.bgr.shape[:2]
            with job.measure("encode"):
                payload = encode_png(enlarged)
            del picture, enlarged
            job.note = ResultNote.describe(payload, width, height)
            if not job.keep:
                job.payload = payload
                return
            with job.measure("store"):
                self._store(job, payload)

    def _store(self, job: Job, payload: memoryview) -> None:
        assert job.note is not None
        try:
            self.cache.store(job.name, payload, job.note)
        except OSError as error:
            # The client still gets its picture; the operator has to mend the folder.
            self._count("cache_write_errors")
            logger.error("cannot store a result in %s: %s", self.cache.folder, error.strerror)
            job.payload = payload
            return
        stored = self.cache.open(job.name)
        if stored is None:
            # Something else is in its place, or it cannot be read: still no reason to lose it.
            self._count("cache_write_errors")
            job.payload = payload
        else:
            stored.file.close()

    def statistics(self) -> dict[str, int | float]:
        """Return counters since the start, and what is in the cache now."""
        sizes = [file.size_bytes for file in self.cache.scan()]
        counts = self._counts
        lookups = counts["cache_hits"] + counts["cache_misses"]
        return {
            "cache_size": len(sizes),
            "cache_bytes": sum(sizes),
            "cache_hits": counts["cache_hits"],
            "cache_misses": counts["cache_misses"],
            "cache_hit_rate": counts["cache_hits"] / lookups if lookups else 0.0,
            "cache_write_errors": counts["cache_write_errors"],
            "cache_damaged": self.cache.damaged,
            "cache_evictions": self.limiter.evictions,
            "inferences": counts["inferences"],
            "queue_length": len(self._jobs),
            "queue_pixels": self.scheduler.queued_pixels,
            "waiting_requests": self.scheduler.waiting_requests,
        }
