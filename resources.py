"""What all who make results in this process share: stores, jobs table, model, admission."""

import hashlib
from collections.abc import Callable

from cache_limiter import CacheLimiter
from counters import Counters
from databases import open_database
from image_codec import CODEC_VERSION
from jobs import Jobs
from jobs_schema import SCHEMA, make_owner
from model_loader import ModelLoader
from options import Options
from remote_store import RemoteStore
from scheduler import Scheduler
from settings import Settings
from super_resolution import DEFAULT_OPTIONS, SuperResolution
from tiers import open_tiers


class Resources:
    """Owns what the parts of the service share; knows none of them.

    Parameters
    ----------
    settings : limits and folders
    load : makes the model; called once

    Attributes
    ----------
    table : the jobs of all processes
    cache, spool : results, and uploads of accepted jobs
    remote : the store that machines share, if they do
    counters : statistics since the start
    is_draining : the server is stopping: nothing new is begun
    """

    def __init__(self, settings: Settings, load: Callable[[], SuperResolution]) -> None:
        self.settings = settings
        self.counters = Counters()
        self.limiter = CacheLimiter(
            settings.cache_dir,
            settings.cache_max_mb,
            settings.cache_min_free_mb,
            settings.cache_max_age_days,
        )
        self.remote = RemoteStore(settings.store_url) if settings.store_url else None
        self.cache, self.spool = open_tiers(settings, self.remote, self.limiter)
        self.model_loader = ModelLoader(load)
        self.scheduler = Scheduler(settings, lambda: self.model_loader.get().seconds_per_pixel)
        self.table = Jobs(open_database(settings, SCHEMA), make_owner())
        self.is_draining = False

    @property
    def can_finish_jobs(self) -> bool:
        """Whether this process could bring a job to its end now."""
        can_store = self.cache.can_write() and (self.remote is None or self.remote.can_write())
        return can_store and self.model_loader.is_sound and not self.is_draining

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
