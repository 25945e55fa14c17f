"""Sources on their way here: each is fetched once for all who ask for it meanwhile."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from superres.errors import Busy, ClientLeft, ServiceError
from superres.service.sandboxed_codec import HasLeft
from superres.sources.fetcher import FETCH_SECONDS
from superres.sources.source_records import SourceRecord

FETCHES_AT_ONCE = 16
LEFT_POLL_SECONDS = 0.25


@dataclass(eq=False)
class Arrival:
    """A source that is being fetched, or has been.

    Attributes
    ----------
    ended : set when it has arrived, or failed
    record : what is known of it then
    file : its bytes; None if its server has confirmed those that were here before
    error : why it has failed
    """

    ended: threading.Event = field(default_factory=threading.Event)
    record: SourceRecord | None = None
    file: BinaryIO | None = None
    error: ServiceError | None = None
    users: int = 0

    def open_file(self) -> BinaryIO:
        """Open the file once more, with a position of its own."""
        assert self.file is not None
        return Path(f"/proc/self/fd/{self.file.fileno()}").open("rb")

    def wait(self, has_left: HasLeft) -> SourceRecord:
        """Wait until it has ended; return the record.

        Raises
        ------
        ClientLeft
            The client is gone.
        ServiceError
            It has failed.
        """
        while not self.ended.wait(LEFT_POLL_SECONDS):
            if has_left():
                raise ClientLeft("The client has closed the connection.")
        if self.record is None:
            assert self.error is not None
            raise self.error.renew()
        return self.record


class Arrivals:
    """Arrivals by address; each stays as long as somebody uses it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._arrivals: dict[tuple[str, bool], Arrival] = {}
        self._fetching = threading.BoundedSemaphore(FETCHES_AT_ONCE)

    @contextmanager
    def join(self, source: str, needs_file: bool) -> Iterator[tuple[Arrival, bool]]:
        """Use a source's arrival until the block ends.

        Parameters
        ----------
        needs_file : whether the server's confirmation of a former file is not enough

        Yields
        ------
        The arrival, and whether the caller is to fetch it.
        """
        place = (source, needs_file)
        with self._lock:
            arrival = self._arrivals.get(place)
            is_new = arrival is None or is_outdated(arrival)
            if arrival is None or is_new:
                arrival = self._arrivals[place] = Arrival()
            arrival.users += 1
        try:
            yield arrival, is_new
        finally:
            with self._lock:
                arrival.users -= 1
                if not arrival.users:
                    if self._arrivals.get(place) is arrival:
                        del self._arrivals[place]
                    if arrival.file is not None:
                        arrival.file.close()

    @contextmanager
    def fetching(self) -> Iterator[None]:
        """Wait for a place among those who fetch, and hold it until the block ends.

        Raises
        ------
        Busy
            None was free for as long as a fetch may take.
        """
        if not self._fetching.acquire(timeout=FETCH_SECONDS):
            raise Busy(
                "Too many sources are being fetched; try again in some seconds.", int(FETCH_SECONDS)
            )
        try:
            yield
        finally:
            self._fetching.release()


def is_outdated(arrival: Arrival) -> bool:
    """Tell whether an arrival has ended so that those who ask now need another."""
    if not arrival.ended.is_set():
        return False
    return arrival.record is None or not arrival.record.freshness.is_fresh(time.time())
