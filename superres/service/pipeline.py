"""From a job's upload to its stored result: decode, upscale, encode, store."""

import logging
import os
from dataclasses import replace

from superres.errors import (
    ClientLeft,
    JobCancelled,
    NoRoom,
    NotStored,
    ResultTooLarge,
    ServiceError,
    StoreDown,
    UndecodableImage,
)
from superres.images.encoders import check_result_size
from superres.images.image_codec import ImageHeader
from superres.images.options import MODEL_SCALE, RESTORE, Options
from superres.service.job import InMemory, Job, Outcome, Stored
from superres.service.memory_admission import Claim
from superres.service.memory_estimate import computing_bytes, peak_bytes
from superres.service.resources import Resources
from superres.service.sandboxed_codec import share_picture
from superres.service.upload import SPOOL_BYTES
from superres.store.stored_result import ResultInfo
from superres.temporary_files import move_to_disk

# No honest file has as many. The slowest of `make hostile` take 0.2 microseconds a byte to decode,
# and the network takes 4 a pixel.
BYTES_A_PIXEL = 16

logger = logging.getLogger(__name__)


def estimate_cost(header: ImageHeader, options: Options, file_bytes: int) -> int:
    """Return what an image costs, in input pixels of the network.

    A result that is large for its input is charged by its own pixels: it is resampled and encoded.
    A file that is large for its image is charged by its bytes: it may take seconds to decode.
    """
    width, height = options.result_size(header.width, header.height)
    of_result = width * height // MODEL_SCALE**2
    return max(header.cost_pixels, of_result, file_bytes // BYTES_A_PIXEL)


class Pipeline:
    """Computes results."""

    def __init__(self, resources: Resources) -> None:
        self._settings = resources.settings
        self._model_loader = resources.model_loader
        self._cache = resources.cache
        self._codec = resources.codec
        self._memory = resources.memory
        self._counters = resources.counters

    def compute(self, job: Job) -> Outcome:
        """Make a job's result, and store it if allowed."""
        # Another process, or a job that has just ended, may have stored it meanwhile.
        try:
            stored = self._cache.open(job.name)
        except StoreDown:
            # Waiting requests can get the result without the store; tickets cannot.
            if job.is_asynchronous:
                raise
            stored = None
        if stored is not None:
            stored.file.close()
            return Stored(stored.info)
        try:
            return self._make(job)
        except ClientLeft:
            raise JobCancelled("Nobody is waiting for this image any more.") from None

    def _make(self, job: Job) -> Outcome:
        def is_cancelled() -> bool:
            return job.progress.cancelled

        need = job.header, job.options, job.file.seek(0, os.SEEK_END)
        claim = Claim(computing_bytes(*need), peak_bytes(*need), job.place.pixels)
        with self._memory.hold(claim, is_cancelled):
            with job.measure("decode"):
                picture = self._codec.decode(job.file, job.header, is_cancelled)
            actual = ImageHeader(*picture.size, picture.alpha is not None, picture.deep is not None)
            # A file can have metadata after its pixels that the header check does not see, such as
            # an orientation; with a given width, that can make a result 1,600 times as large.
            if (
                computing_bytes(actual, job.options, 0) > claim.computing_bytes
                or peak_bytes(actual, job.options, 0) > claim.peak_bytes
                or estimate_cost(actual, job.options, 0) > job.place.pixels
            ):
                raise UndecodableImage("The image's header does not match its content.")
            with job.measure("upscale"):
                size = job.options.result_size(*picture.size)
                check_result_size(*size, job.options, self._settings.max_output_pixels)
                model = self._model_loader.get(job.options.mode)
                enlarged = model.enlarge(picture, job.options, job.progress)
            self._counters.add("inferences")
            self._counters.add("inferences_restore", job.options.mode == RESTORE)
            self._counters.add("inference_pixels", job.header.pixels)
            self._counters.add("inference_seconds", job.stage_seconds["upscale"])
            width, height = enlarged.size
            self._memory.grow(claim, is_cancelled)
            with job.measure("encode"), share_picture(enlarged, job.options) as shared:
                del picture, enlarged
                payload = self._codec.encode(shared, job.options, is_cancelled)
            info = ResultInfo.describe(payload, width, height)
            outcome: Stored | InMemory = InMemory(info, payload)
            if job.keep:
                with job.measure("store"):
                    outcome = self._store(job.name, info, payload)
            if isinstance(outcome, InMemory) and len(payload) > SPOOL_BYTES:
                # It is held until the slowest client has fetched it, which takes minutes.
                outcome = replace(outcome, payload=move_to_disk(payload))
            return outcome

    def _store(self, name: str, info: ResultInfo, payload: memoryview) -> Stored | InMemory:
        """Store a result; if that fails, waiting clients still get it."""
        reason: ServiceError = NotStored("The result cannot be stored now.")
        try:
            self._cache.store(name, payload, info)
            stored = self._cache.open(name)
        except ResultTooLarge as error:
            # Waiting requests still get it; an asynchronous job can never succeed.
            return InMemory(info, payload, error.renew())
        except (OSError, StoreDown) as error:
            # The operator has to fix this.
            self._counters.add("cache_write_errors")
            logger.error("cannot store a result: %s", error)
            if isinstance(error, StoreDown):
                reason = error.renew()
            else:
                reason = NoRoom("There is no room for the result now.")
            return InMemory(info, payload, reason)
        if stored is None:
            # Something else is at its path, or it cannot be read.
            self._counters.add("cache_write_errors")
            return InMemory(info, payload, reason)
        stored.file.close()
        return Stored(info, payload)
