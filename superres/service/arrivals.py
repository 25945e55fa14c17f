"""Sources on their way here: each is fetched once for all who ask for it meanwhile."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import BinaryIO

from superres.errors import Busy, ClientLeft, DatabaseDown, ServiceError, SourceNotFound
from superres.service.places import LEFT_POLL_SECONDS, Places
from superres.service.recent_failures import RecentFailures
from superres.service.resources import Resources
from superres.service.sandboxed_codec import HasLeft
from superres.sources.fetcher import FETCH_SECONDS, Fetched, Fetcher
from superres.sources.freshness import read_freshness
from superres.sources.source_records import SourceRecord, SourceRecords
from superres.sources.source_url import parse_source
from superres.store.eviction import SECONDS_A_DAY

# Of all fetches, one host has a share: others go on while it hangs.
FETCHES_AT_ONCE, FETCHES_OF_ONE = 32, 6
PURGE_SECONDS = 3600.0


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

    @property
    def is_outdated(self) -> bool:
        """Whether it has ended so that those who ask now need another."""
        if not self.ended.is_set():
            return False
        return self.record is None or not self.record.freshness.is_fresh(time.time())


class Arrivals:
    """Fetches sources; each arrival stays as long as somebody uses it."""

    def __init__(self, resources: Resources, fetcher: Fetcher, records: SourceRecords) -> None:
        self._resources = resources
        self._fetcher = fetcher
        self._records = records
        self._lock = threading.Lock()
        self._arrivals: dict[tuple[str, bool], Arrival] = {}
        self._places = Places(FETCHES_AT_ONCE, FETCHES_OF_ONE)
        self._failures = RecentFailures()
        self._purge_due = 0.0

    @contextmanager
    def join(self, source: str, known: SourceRecord | None, has_left: HasLeft) -> Iterator[Arrival]:
        """Use a source's arrival until the block ends; fetch it, if nobody else does.

        Parameters
        ----------
        known : what its server may confirm; None: the file is needed
        has_left : tells whether the client is gone; then nothing is fetched, unless others wait
        """
        place = (source, known is None)
        with self._lock:
            arrival = self._arrivals.get(place)
            is_new = arrival is None or arrival.is_outdated
            if arrival is None or is_new:
                arrival = self._arrivals[place] = Arrival()
            arrival.users += 1
        try:
            if is_new:
                self._fetch(arrival, source, known, lambda: arrival.users == 1 and has_left())
            yield arrival
        finally:
            with self._lock:
                arrival.users -= 1
                if not arrival.users:
                    if self._arrivals.get(place) is arrival:
                        del self._arrivals[place]
                    if arrival.file is not None:
                        arrival.file.close()

    def _fetch(
        self, arrival: Arrival, source: str, known: SourceRecord | None, has_left: HasLeft
    ) -> None:
        """Fetch a source for all who wait for its arrival."""
        try:
            with self._places.hold(parse_source(source).host, FETCH_SECONDS, has_left):
                record = self._ask(arrival, source, known)
            self._records.save(source, record)
            arrival.record = record
            self._purge()
        except ServiceError as error:
            arrival.error = error
            self._note_failure(source, error)
        finally:
            if arrival.record is None and arrival.error is None:
                arrival.error = ServiceError("The service failed; the operator's log says why.")
            arrival.ended.set()

    def _ask(self, arrival: Arrival, source: str, known: SourceRecord | None) -> SourceRecord:
        """Fetch a source, and check the file's header; return what is known of it then."""
        resources, default = self._resources, self._resources.settings.source_max_age
        resources.counters.add("source_revalidations" if known else "source_fetches")
        asked = time.time()
        answer = self._fetcher.fetch(source, known.validators if known else None)
        if not isinstance(answer, Fetched):
            assert known is not None
            *redirects, confirmation = answer.answers
            # It may leave out what has not changed.
            merged = {"cache-control": known.freshness.directives, **confirmation}
            freshness = read_freshness([*redirects, merged], default, asked)
            return replace(known, validators=answer.validators, freshness=freshness)
        arrival.file = answer.file
        former = self._records.find(source)
        previous = former.previous if former else None
        if former is not None and former.key != answer.key:
            previous = former.key
        header = resources.codec.read_header(answer.file, resources.max_input_pixels)
        freshness = read_freshness(answer.answers, default, asked)
        return SourceRecord(answer.key, previous, header.has_alpha, answer.validators, freshness)

    def find_failure(self, source: str) -> ServiceError | None:
        """Return the error of a source that has just failed."""
        return self._failures.find(source)

    def _note_failure(self, source: str, error: ServiceError) -> None:
        """Count a source's failure, and remember it; those of the service are not its."""
        if isinstance(error, Busy | ClientLeft):
            return
        counters = self._resources.counters
        counters.add("source_failures")
        counters.add(f"source_failures_{error.code}")
        if isinstance(error, SourceNotFound):
            self._records.remove(source)
        self._failures.note(source, parse_source(source).host, error)

    def _purge(self) -> None:
        """Forget sources that nobody has asked for in a long time."""
        if monotonic() < self._purge_due:
            return
        self._purge_due = monotonic() + PURGE_SECONDS
        days = self._resources.settings.cache_max_age_days
        with suppress(DatabaseDown):
            self._records.purge(days * SECONDS_A_DAY)
