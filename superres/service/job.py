"""One result in the making in this process, and how that ended."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from superres.engines.lanes import Progress
from superres.errors import JobCancelled, ServiceError
from superres.images.image_codec import ImageHeader
from superres.images.options import Options
from superres.service.scheduler import Place
from superres.store.result_cache import ResultInfo


@dataclass(frozen=True)
class Stored:
    """The result is in the cache.

    Attributes
    ----------
    payload : its bytes, in case that the file is removed at once; None where it was found there
    error : None
    """

    info: ResultInfo
    payload: memoryview | None = None
    error = None


@dataclass(frozen=True)
class InMemory:
    """The result goes to those who wait for it, and to nobody else.

    Attributes
    ----------
    error : why it is not stored; None where it was not to be
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
        """Whether this process only stopped: the next one to ask may have the result."""
        return isinstance(self.error, JobCancelled)


Outcome = Stored | InMemory | Failed


class Job:
    """One result in the making in this process; everybody here who wants it waits for it.

    Attributes
    ----------
    place : in the queue, until the job has ended; knows what the image costs
    keep : False leaves nothing behind on the server, the jobs table included
    is_asynchronous : its upload is spooled, and it goes on when nobody waits
    is_claimed : the jobs table says that this process makes it
    waiters : requests that wait
    outcome : how it ended; None until then
    ended : set when the outcome is there
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
        self.progress = Progress()
        self.outcome: Outcome | None = None
        self.ended = threading.Event()
        self.stage_seconds: dict[str, float] = {}

    def take_over_claim(self) -> None:
        """Make what the keeper has claimed: it goes on without anybody who waits."""
        self.is_asynchronous = self.is_claimed = True

    def give_up_claim(self) -> None:
        """Make it for those who wait here alone: the table has it elsewhere, or not any more."""
        self.is_asynchronous = self.is_claimed = False

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Note how long a stage takes."""
        started = time.perf_counter()
        yield
        self.stage_seconds[stage] = time.perf_counter() - started
