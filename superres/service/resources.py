"""What the parts of the service share: stores, jobs table, model, admission."""

import os
from contextlib import suppress
from typing import BinaryIO

from superres import machine
from superres.engines.model_loader import ModelLoader
from superres.errors import StoreDown
from superres.images.encoders import check_result_size
from superres.images.image_codec import CODEC_VERSION
from superres.images.libraries import list_libraries
from superres.images.options import DEFAULT_OPTIONS, MODEL_SCALE, Options
from superres.images.picture import ImageHeader
from superres.jobs.databases import open_database
from superres.jobs.jobs import Jobs
from superres.jobs.jobs_schema import SCHEMA, make_owner
from superres.service.cost_estimate import estimate_cost
from superres.service.counters import Counters
from superres.service.memory_admission import MemoryAdmission
from superres.service.memory_estimate import peak_bytes
from superres.service.sandboxed_codec import HasLeft, SandboxedCodec
from superres.service.scheduler import Scheduler
from superres.service.spool_hold import SpoolHold
from superres.settings import Settings
from superres.store.cache_limiter import CacheLimiter
from superres.store.remote_store import RemoteStore
from superres.store.result_name import ResultName, upload_key
from superres.store.tiers import open_tiers

# For requests, results being sent, and everything else that is not an image.
SPARE_MEMORY_SHARE = 1 / 16


class Resources:
    """Owns what the parts of the service share, without knowing any of them.

    Parameters
    ----------
    settings : limits and folders
    model_loader : has the models

    Attributes
    ----------
    table : the jobs of all processes
    cache, spool : results, and uploads of accepted jobs
    remote : the shared store, if there is one
    spool_hold : whether the uploads of the table's jobs are in this process's spool
    codec : decodes and encodes images
    memory : admits images to memory
    counters : statistics since the start
    is_draining : the server is stopping: nothing new is started
    """

    def __init__(self, settings: Settings, model_loader: ModelLoader) -> None:
        self.settings = settings
        self.counters = Counters()
        self.limiter = CacheLimiter(
            settings.cache_dir,
            settings.cache_max_mb,
            settings.cache_min_free_mb,
            settings.cache_max_age_days,
        )
        self.remote = None
        if settings.store_url:
            # It has uploads only if the machines share their jobs.
            self.remote = RemoteStore(settings.store_url, is_marked=bool(settings.database_url))
        self.cache, self.spool = open_tiers(settings, self.remote, self.limiter)
        self.model_loader = model_loader
        self.scheduler = Scheduler(settings, lambda: model_loader.get().speed)
        self.codec = SandboxedCodec(settings.keep_metadata, settings.max_upload_bytes)
        self.memory = MemoryAdmission(self._measure_memory)
        self.table = Jobs(open_database(settings, SCHEMA), make_owner())
        self.spool_hold = SpoolHold(self.table, self.spool)
        self.is_draining = False

    @property
    def can_finish_jobs(self) -> bool:
        """Whether this process could finish a job now."""
        can_store = self.cache.can_write() and (self.remote is None or self.remote.can_write())
        is_able = self.spool_hold.is_held and self.model_loader.is_sound
        return can_store and is_able and not self.is_draining

    def _measure_memory(self) -> int:
        """Return how much of this machine's memory images may take, in bytes."""
        # Load the model first: its memory is not available for images.
        self.model_loader.get()
        available = machine.available_memory_bytes() * (1 - SPARE_MEMORY_SHARE)
        kept = self.codec.headers_bytes + self.model_loader.missing_bytes
        for_pictures = max(int(available) - kept, 0)
        return min(self.settings.max_decoded_bytes or for_pictures, for_pictures)

    @property
    def max_input_pixels(self) -> int:
        """Most pixels of an upload: whatever a result's size, the network upscales x3."""
        settings = self.settings
        return min(settings.max_input_pixels, settings.max_output_pixels // MODEL_SCALE**2)

    def read_header(
        self, file: BinaryIO, options: Options, has_left: HasLeft = lambda: False
    ) -> ImageHeader:
        """Check an image's size, its result's size and the memory for both, before decoding.

        Raises
        ------
        ServiceError
            The image is rejected.
        """
        header = self.codec.read_header(file, self.max_input_pixels, has_left)
        size = options.result_size(header.width, header.height)
        check_result_size(*size, options, self.settings.max_output_pixels)
        self.memory.check(peak_bytes(header, options, file.seek(0, os.SEEK_END)), header.pixels)
        return header

    def result_name(self, key: str, options: Options = DEFAULT_OPTIONS) -> str:
        """Return the name of an upload's result: see `ResultName`."""
        ingredients = (
            self.model_loader.get(options.mode).fingerprint,
            f"codec {CODEC_VERSION}",
            *list_libraries(),
            *(f"{name} {value}" for name, value in sorted(options.as_dict().items())),
            f"metadata {self.settings.keep_metadata}",
        )
        return str(ResultName.make(key, ingredients, options.format))

    def name_enlarged(self, name: str, options: Options) -> str:
        """Return the name of the PNG that has the network's output for the upload of a result."""
        return self.result_name(upload_key(name), Options(mode=options.mode))

    def estimate_cost(
        self, name: str, header: ImageHeader, options: Options, file_bytes: int
    ) -> int:
        """Return what a result costs now: see `cost_estimate.estimate_cost`."""
        enlarged = self.name_enlarged(name, options)
        needs_network = True
        if enlarged != name:
            with suppress(StoreDown):
                needs_network = not self.cache.contains(enlarged)
        return estimate_cost(header, options, file_bytes, needs_network)
