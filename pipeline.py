"""From a job's upload to its stored result: decode, enlarge, encode, store."""

import logging

from encoders import check_result_size, encode_picture
from errors import NotStored, ResultTooLarge, ServiceError, StoreDown
from formats import FORMATS
from image_codec import ImageHeader, decode_image
from job import InMemory, Job, Outcome, Stored
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

logger = logging.getLogger(__name__)


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
    return max(total, result_pixels * FORMATS[options.format].encoder_bytes)


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

    def compute(self, job: Job) -> Outcome:
        """Make a job's result, and store it where it may be kept."""
        # Another process, or a job that ended a moment ago, may have stored it meanwhile.
        stored = self._cache.open(job.name)
        if stored is not None:
            stored.file.close()
            return Stored(stored.note)
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
            note = ResultNote.describe(payload, width, height)
            if not job.keep:
                return InMemory(note, payload)
            with job.measure("store"):
                return self._store(job.name, note, payload)

    def _store(self, name: str, note: ResultNote, payload: memoryview) -> Stored | InMemory:
        """Store a result; where that is not possible, its clients get it all the same."""
        reason: ServiceError = NotStored("The result cannot be stored now.")
        try:
            self._cache.store(name, payload, note)
            stored = self._cache.open(name)
        except ResultTooLarge as error:
            # Who waits gets it all the same; an asynchronous job has nothing to show, ever.
            return InMemory(note, payload, error.renew())
        except (OSError, StoreDown) as error:
            # The operator has to mend what is broken.
            self._counters.add("cache_write_errors")
            logger.error("cannot store a result: %s", error)
            if isinstance(error, StoreDown):
                reason = error.renew()
            return InMemory(note, payload, reason)
        if stored is None:
            # Something else is in its place, or it cannot be read.
            self._counters.add("cache_write_errors")
            return InMemory(note, payload, reason)
        stored.file.close()
        return Stored(note, payload)
