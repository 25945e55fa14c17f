"""A job: one result being made in this process, and its outcome."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from superres.engines.lanes import Progress
from superres.errors import EngineLost, JobCancelled, ServiceError
from superres.images.options import Options
from superres.images.picture import ImageHeader
from superres.service.scheduler import Place
from superres.service.upload import Upload
from superres.store.stored_result import ResultInfo


@dataclass(frozen=True)
class Stored:
    """The result is in the cache.

    Attributes
    ----------
    payload : its bytes, in case the file is evicted immediately; None if it was already stored
    error : None
    """

    info: ResultInfo
    payload: memoryview | None = None
    error = None


@dataclass(frozen=True)
class InMemory:
    """The result goes only to the requests that wait for it.

    Attributes
    ----------
    error : why it is not stored; None if it was not meant to be
    """

    info: ResultInfo
    payload: memoryview
    error: ServiceError | None = None


@dataclass(frozen=True)
class Failed:
    """There is no result."""

    error: ServiceError

    @property
    def was_cancelled(self) -> bool:
        """Whether the job was only cancelled here: another attempt may succeed."""
        return isinstance(self.error, JobCancelled)

    @property
    def lost_engine(self) -> bool:
        """Whether its engine failed: another will compute it, under the name that goes with it."""
        return isinstance(self.error, EngineLost)


Outcome = Stored | InMemory | Failed


def short_job_id(name: str) -> str:
    """Return an asynchronous job's name for the log; its result's name is a secret."""
    return f"job-{name[:12]}"


class Job:
    """One result being made in this process; all requests here that want it wait for it.

    Attributes
    ----------
    place : in the queue, until the job has ended; knows what the image costs
    keep : False leaves nothing behind on the server, not even in the jobs table
    is_asynchronous : whether its upload is spooled, so that it continues when nobody waits
    is_claimed : whether this process owns it in the jobs table
    waiters : number of waiting requests
    upload : that of the request which has started it, if one has
    outcome : how it ended; None until then
    ended : set once there is an outcome
    """

    def __init__(
        self,
        name: str,
        file: BinaryIO,
        header: ImageHeader,
        options: Options,
        place: Place,
        keep: bool = True,
    ) -> None:
        self.name = name
        self.file = file
        self.header = header
        self.options = options
        self.place = place
        self.keep = keep
        self.is_asynchronous = self.is_claimed = False
        self.waiters = 0
        self.upload: Upload | None = None
        self.progress = Progress()
        self.outcome: Outcome | None = None
        self.ended = threading.Event()
        self.stage_seconds: dict[str, float] = {}

    def is_cancelled(self) -> bool:
        """Tell whether nobody wants the result any more."""
        return self.progress.cancelled

    def take_over_claim(self) -> None:
        """Adopt the keeper's claim: the job now continues even when nobody waits."""
        self.is_asynchronous = self.is_claimed = True

    def give_up_claim(self) -> None:
        """Continue only for the requests waiting here: the table has another owner, or none."""
        self.is_asynchronous = self.is_claimed = False

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Record how long a stage takes."""
        started = time.perf_counter()
        yield
        self.stage_seconds[stage] = time.perf_counter() - started
