"""From a job's upload to its stored result: decode, enlarge, encode, store."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from encoders import check_result_size, encode_picture
from errors import ServiceError, StoreDown
from image_codec import ImageHeader, decode_image
from lanes import Progress
from options import MODEL_SCALE, Options
from resources import Resources
from result_cache import ResultNote

# Peak for each input pixel of the upright picture: 3 bytes of input, 27 of result, and what the
# encoder makes of them; with transparency another 9, and 36 for the encoder's interleaved copy.
BYTES_PER_PIXEL = 48
BYTES_PER_PIXEL_WITH_ALPHA = 96
# For each pixel of a result: resampled to its size, or of 16 bits.
BYTES_PER_RESIZED_PIXEL = 10
BYTES_PER_DEEP_PIXEL = 18
# What the encoders take for each pixel of the result, its own pixels included (measured at 4 and 16
# megapixels: AVIF 30, with transparency 39; WebP without loss 25 to 36, with loss 14).
ENCODER_BYTES = {"png": 5, "webp": 36, "jpeg": 8, "avif": 40}

logger = logging.getLogger(__name__)


class Job:
    """One result in the making in this process; everybody here who wants it waits for it.

    Attributes
    ----------
    keep : False leaves nothing behind on the server, the jobs table included
    is_asynchronous : its upload is spooled, and it goes on when nobody waits
    began_asynchronous : no request waited for it when it began
    is_claimed : the jobs table says that this process makes it
    waiters : requests that wait
    """

    def __init__(
        self,
        name: str,
        file: BinaryIO,
        header: ImageHeader,
        options: Options,
        keep: bool = True,
        is_asynchronous: bool = False,
    ) -> None:
        self.name = name
        self.file = file
        self.header = header
        self.options = options
        self.cost_pixels = estimate_cost(header, options)
        self.keep = keep
        self.is_asynchronous = self.is_claimed = self.began_asynchronous = is_asynchronous
        self.waiters = 0
        self.progress = Progress()
        self.ended = threading.Event()
        self.error: ServiceError | None = None
        self.note: ResultNote | None = None
        # Until everybody has it, for the case that its file is not stored, or removed at once.
        self.payload: memoryview | None = None
        self.is_stored = False
        self.stage_seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Note how long a stage takes."""
        started = time.perf_counter()
        yield
        self.stage_seconds[stage] = time.perf_counter() - started


def estimate_bytes(header: ImageHeader, options: Options) -> int:
    """Return the memory that a picture takes at its peak, in bytes."""
    per_pixel = BYTES_PER_PIXEL_WITH_ALPHA if header.has_alpha else BYTES_PER_PIXEL
    total = header.pixels * per_pixel
    width, height = options.result_size(header.width, header.height)
    result_pixels = width * height
    if options.scale != MODEL_SCALE:
        total += result_pixels * BYTES_PER_RESIZED_PIXEL
    if header.is_deep:
        total += result_pixels * BYTES_PER_DEEP_PIXEL
    return max(total, result_pixels * ENCODER_BYTES[options.format])


def estimate_cost(header: ImageHeader, options: Options) -> int:
    """Return what a picture costs, in input pixels of the network.

    A result that is large for its input costs its own pixels' share: it is resampled and encoded.
    """
    width, height = options.result_size(header.width, header.height)
    return max(header.cost_pixels, width * height // MODEL_SCALE**2)


class Pipeline:
    """Computes results."""

    def __init__(self, resources: Resources) -> None:
        self._settings = resources.settings
        self._model_loader = resources.model_loader
        self._cache = resources.cache
        self._scheduler = resources.scheduler
        self._counters = resources.counters

    def compute(self, job: Job) -> None:
        """Make a job's result, and store it where it may be kept."""
        # Another process, or a job that ended a moment ago, may have stored it meanwhile.
        stored = self._cache.open(job.name)
        if stored is not None:
            stored.file.close()
            job.note = stored.note
            job.is_stored = True
            return
        size_bytes = estimate_bytes(job.header, job.options)
        with self._scheduler.decoded_picture(size_bytes, lambda: job.progress.cancelled):
            with job.measure("decode"):
                picture = decode_image(job.file, self._settings.keep_metadata)
            with job.measure("upscale"):
                # The orientation may stand behind the pixels, unseen by the header check.
                size = job.options.result_size(*picture.size)
                check_result_size(*size, job.options, self._settings.max_output_pixels)
                enlarged = self._model_loader.get().enlarge(picture, job.options, job.progress)
            self._counters.add("inferences")
            self._counters.add("inference_pixels", job.header.pixels)
            self._counters.add("inference_seconds", job.stage_seconds["upscale"])
            width, height = enlarged.size
            with job.measure("encode"):
                payload = encode_picture(enlarged, job.options)
            del picture, enlarged
            job.note = ResultNote.describe(payload, width, height)
            job.payload = payload
            if job.keep:
                with job.measure("store"):
                    self._store(job, payload, job.note)

    def _store(self, job: Job, payload: memoryview, note: ResultNote) -> None:
        """Store a result; where that is not possible, its clients get it all the same."""
        try:
            self._cache.store(job.name, payload, note)
            stored = self._cache.open(job.name)
        except (OSError, StoreDown) as error:
            # The operator has to mend what is broken.
            self._counters.add("cache_write_errors")
            logger.error("cannot store a result: %s", error)
            if isinstance(error, StoreDown):
                job.error = error.renew()
            return
        if stored is None:
            # Something else is in its place, or it cannot be read.
            self._counters.add("cache_write_errors")
            return
        stored.file.close()
        job.is_stored = True
