"""From a job's upload to its stored result: decode, upscale, encode, store.

The network's output is what a PNG of three times the size holds. While that is stored, results of
other formats and sizes are made from it, in milliseconds and with the same bytes.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from superres.errors import (
    ClientLeft,
    EngineLost,
    JobCancelled,
    NoRoom,
    NotStored,
    ResultTooLarge,
    ServiceError,
    StoreDown,
    UndecodableImage,
)
from superres.images.encoders import check_result_size
from superres.images.enlargement import resample_picture
from superres.images.options import MODEL_SCALE, RESTORE
from superres.images.picture import ImageHeader, Picture
from superres.service.cost_estimate import estimate_cost
from superres.service.job import InMemory, Job, Outcome, Stored
from superres.service.memory_estimate import (
    computing_bytes,
    deriving_bytes,
    peak_bytes,
    result_bytes,
)
from superres.service.memory_queue import MemoryClaim
from superres.service.resources import Resources
from superres.service.sandboxed_codec import share_picture
from superres.service.upload import SPOOL_BYTES
from superres.store.result_name import upload_key
from superres.store.stored_result import ResultInfo, StoredResult
from superres.temporary_files import move_to_disk

logger = logging.getLogger(__name__)


class UnusableResult(Exception):
    """A stored result that others cannot be made from."""


class Pipeline:
    """Computes results: from their uploads, or from the PNG of the same upload and mode."""

    def __init__(self, resources: Resources) -> None:
        self._settings = resources.settings
        self._model_loader = resources.model_loader
        self._cache = resources.cache
        self._codec = resources.codec
        self._memory = resources.memory
        self._name_enlarged = resources.name_enlarged
        self._result_name = resources.result_name
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
        with self._open_enlarged(job) as stored:
            self._check_name(job)
            if stored is not None:
                with suppress(UnusableResult):
                    return self._make_from(job, stored)
        return self._make_from(job, None)

    def _check_name(self, job: Job) -> None:
        """Raise EngineLost if another engine computes since the job was given its name.

        To be called after the engine was chosen: no change is ever undone.
        """
        if self._result_name(upload_key(job.name), job.options) != job.name:
            raise EngineLost("The engine was replaced.")

    @contextmanager
    def _open_enlarged(self, job: Job) -> Iterator[StoredResult | None]:
        """Open the PNG that has the network's output for a job's upload, if one is stored."""
        name = self._name_enlarged(job.name, job.options)
        stored = None
        if name != job.name:
            with suppress(StoreDown):
                stored = self._cache.open(name)
        try:
            yield stored
        finally:
            if stored is not None:
                stored.file.close()

    def _make_from(self, job: Job, stored: StoredResult | None) -> Outcome:
        """Make a result from a stored one, or from the upload.

        Raises
        ------
        UnusableResult
            The stored one is damaged, or reading it takes too much memory.
        """
        claim = self._choose_claim(job, stored)
        with self._memory.hold(claim, job.is_cancelled):
            if stored is None:
                enlarged = self._upscale(job, claim)
            else:
                enlarged = self._derive(job, claim, stored)
            width, height = enlarged.size
            self._memory.grow(claim, job.is_cancelled)
            with job.measure("encode"):
                shared = share_picture(enlarged, job.options)
                del enlarged  # what was copied, and 16 bits that are not encoded
                payload = self._codec.encode(shared, job.options, job.is_cancelled)
                del shared
            info = ResultInfo.describe(payload, width, height)
            outcome: Stored | InMemory = InMemory(info, payload)
            if job.keep:
                with job.measure("store"):
                    outcome = self._store(job.name, info, payload)
            if isinstance(outcome, InMemory) and len(payload) > SPOOL_BYTES:
                # It is held until the slowest client has fetched it, which takes minutes.
                outcome = replace(outcome, payload=move_to_disk(payload))
            return outcome

    def _choose_claim(self, job: Job, stored: StoredResult | None) -> MemoryClaim:
        need = job.header, job.options
        if stored is None:
            file_bytes = job.file.seek(0, os.SEEK_END)
            computing = computing_bytes(*need, file_bytes)
            return MemoryClaim(computing, peak_bytes(*need, file_bytes), job.place.pixels)
        computing = deriving_bytes(*need, stored.info.length)
        peak = max(computing, result_bytes(*need, stored.info.length))
        claim = MemoryClaim(computing, peak, job.place.pixels)
        if claim.peak_bytes > self._memory.largest_bytes:
            raise UnusableResult
        return claim

    def _upscale(self, job: Job, claim: MemoryClaim) -> Picture:
        """Decode a job's upload and upscale it."""
        with job.measure("decode"):
            picture = self._codec.decode(job.file, job.header, job.is_cancelled)
        need = job.header, job.options, job.file.seek(0, os.SEEK_END)
        actual = ImageHeader(*picture.size, picture.alpha is not None, picture.deep is not None)
        # A file can have metadata after its pixels that the header check does not see, such as
        # an orientation; with a given width, that can make a result 1,600 times as large.
        if (
            computing_bytes(actual, job.options, 0) > claim.computing_bytes
            or peak_bytes(actual, job.options, 0) > claim.peak_bytes
            or estimate_cost(actual, job.options, 0) > estimate_cost(*need)
        ):
            raise UndecodableImage("The image's header does not match its content.")
        with job.measure("upscale"):
            size = job.options.result_size(*picture.size)
            check_result_size(*size, job.options, self._settings.max_output_pixels)
            model = self._model_loader.get(job.options.mode)
            self._check_name(job)
            enlarged = model.enlarge(picture, job.options, job.progress)
        self._counters.add("inferences")
        self._counters.add("inferences_restore", job.options.mode == RESTORE)
        self._counters.add("inference_pixels", job.header.pixels)
        self._counters.add("inference_seconds", job.stage_seconds["upscale"])
        return enlarged

    def _derive(self, job: Job, claim: MemoryClaim, stored: StoredResult) -> Picture:
        """Decode a stored result and resample it.

        Raises
        ------
        UnusableResult
        """
        width, height = job.header.width, job.header.height
        with job.measure("decode"):
            try:
                memory_bytes = claim.computing_bytes
                enlarged = self._codec.decode_result(stored, memory_bytes, job.is_cancelled)
            except UndecodableImage:
                raise UnusableResult from None
        if enlarged.size != (width * MODEL_SCALE, height * MODEL_SCALE):
            raise UnusableResult
        with job.measure("resize"):
            return resample_picture(enlarged, *job.options.result_size(width, height))

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
