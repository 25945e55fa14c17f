"""From a source's address to its result: fetches what is not here, or no longer fresh."""

import hmac
import logging
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic

from superres.errors import (
    Busy,
    ClientLeft,
    DatabaseDown,
    ServiceError,
    SourceNotFound,
    SourceRefused,
    TooCostly,
)
from superres.images.options import Options
from superres.service.arrivals import Arrival, Arrivals
from superres.service.charges import FREE, Charge
from superres.service.runner import Result, Runner
from superres.service.sandboxed_codec import HasLeft
from superres.service.upload import Upload
from superres.settings import SOURCE_REQUESTS_AT_ONCE
from superres.sources.fetcher import Fetched, Fetcher
from superres.sources.freshness import Freshness, read_freshness
from superres.sources.signed_address import ImageRequest
from superres.sources.source_records import SourceRecord, SourceRecords
from superres.store.stored_result import StoredResult

# How long a client waits for a new image while there is an old one, or the source itself.
PATIENCE_SECONDS = 2.0
# A source that fails is asked again after this.
FAILURE_SECONDS = 10.0
MAX_FAILURES = 4096
RENEWALS_AT_ONCE = 16
BUSY_SECONDS = 5
PURGE_SECONDS = 3600.0
DAY_SECONDS = 86400
CLIENT = "images by address"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SourcedResult:
    """A result, and how long it stands for what its source has.

    Attributes
    ----------
    is_outdated : whether the source may have, or has, another image by now
    """

    result: Result
    freshness: Freshness
    is_outdated: bool = False


@dataclass(eq=False)
class Renewal:
    """A result that is made while its clients have an old one.

    Attributes
    ----------
    ended : set when it is stored, or cannot be
    error : why it cannot be
    """

    ended: threading.Event = field(default_factory=threading.Event)
    error: ServiceError | None = None


def make_loop_id(key: str) -> str:
    """Return what identifies the services that share a key in `CDN-Loop` (RFC 8586)."""
    return f"superres-{hmac.digest(key.encode(), b'CDN-Loop', 'sha256').hex()[:16]}"


class Sources:
    """Finds or makes results of images at other servers.

    Parameters
    ----------
    charge : is charged for what is computed
    """

    def __init__(self, runner: Runner, fetcher: Fetcher, charge: Charge = FREE) -> None:
        self._runner = runner
        self._fetcher = fetcher
        self._charge = charge
        self._records = SourceRecords(runner.jobs.database)
        self._counters = runner.resources.counters
        self._arrivals = Arrivals()
        self._lock = threading.Lock()
        self._failures: dict[str, tuple[ServiceError, float]] = {}
        self._renewals: dict[object, Renewal] = {}
        self._renewing = threading.BoundedSemaphore(RENEWALS_AT_ONCE)
        self._waiting = threading.BoundedSemaphore(SOURCE_REQUESTS_AT_ONCE)
        self._purge_due = 0.0

    def get(
        self,
        request: ImageRequest,
        media_types: Collection[str] = (),
        has_left: HasLeft = lambda: False,
    ) -> SourcedResult | None:
        """Return a request's result; None if the client is to go to the source meanwhile.

        Parameters
        ----------
        media_types : what the client accepts, for requests that leave the format open
        has_left : tells whether the client is gone

        Raises
        ------
        ServiceError
            There is no result, and why.
        """
        record = self._records.find(request.source)
        current = self._open(record, request, media_types)
        if current is not None and not current.is_outdated:
            self._counters.add("source_hits")
            return current
        old = current
        if record is not None and record.freshness.is_strict:
            close(old)
            old = None
        elif old is None and record is not None and record.previous is not None:
            old = self._open_key(record.previous, record, request, media_types)
        if old is None and not request.falls_back:
            if not self._waiting.acquire(blocking=False):
                raise Busy("Too many images are being fetched; try again soon.", BUSY_SECONDS)
            try:
                return self._make(request, media_types, record, has_left)
            finally:
                self._waiting.release()
        return self._renew(request, media_types, record, old)

    def _open(
        self, record: SourceRecord | None, request: ImageRequest, media_types: Collection[str]
    ) -> SourcedResult | None:
        """Return the result of what a source had last, if it is stored."""
        if record is None:
            return None
        return self._open_key(record.key, record, request, media_types)

    def _open_key(
        self, key: str, record: SourceRecord, request: ImageRequest, media_types: Collection[str]
    ) -> SourcedResult | None:
        options = request.options(record.has_alpha, media_types)
        is_outdated = key != record.key or not record.freshness.is_fresh(time.time())
        result = self._runner.open_result(self._runner.result_name(key, options))
        return None if result is None else SourcedResult(result, record.freshness, is_outdated)

    def _make(
        self,
        request: ImageRequest,
        media_types: Collection[str],
        record: SourceRecord | None,
        has_left: HasLeft = lambda: False,
        may_queue: bool = False,
    ) -> SourcedResult | None:
        """Fetch a source unless it is fresh, and return its result, computed if need be.

        Parameters
        ----------
        may_queue : whether a result that no request could wait for is queued as a job; then
            nothing is returned
        """
        self._refuse_failed(request.source)
        while True:
            stored = self._open(record, request, media_types)
            if stored is not None and not stored.is_outdated:
                return stored
            close(stored)
            needs_file = stored is None
            with self._arrivals.join(request.source, needs_file) as (arrival, is_mine):
                if is_mine:
                    self._fetch(arrival, request.source, None if needs_file else record)
                record = arrival.wait(has_left)
                stored = self._open(record, request, media_types)
                if stored is not None:  # though perhaps stale already, if it is never fresh
                    return SourcedResult(stored.result, record.freshness)
                if arrival.file is not None:
                    options = request.options(record.has_alpha, media_types)
                    return self._compute(arrival, options, has_left, may_queue)
            # The result of what is still the same was evicted meanwhile: its file is needed.

    def _compute(
        self, arrival: Arrival, options: Options, has_left: HasLeft, may_queue: bool
    ) -> SourcedResult | None:
        """Compute the result of a source that has arrived."""
        record = arrival.record
        assert record is not None
        upload = Upload(arrival.open_file(), record.key, "")
        try:
            result = self._runner.enhance(upload, options, True, has_left, self._charge)
        except TooCostly:
            if not may_queue:
                raise
            upload = Upload(arrival.open_file(), record.key, "")
            self._runner.submissions.submit(upload, options, self._charge, CLIENT)
            return None
        return SourcedResult(result, record.freshness)

    def _fetch(self, arrival: Arrival, source: str, known: SourceRecord | None) -> None:
        """Fetch a source for all who wait for its arrival.

        Parameters
        ----------
        known : what its server may confirm; None: the file is needed
        """
        try:
            with self._arrivals.fetching():
                self._counters.add("source_revalidations" if known else "source_fetches")
                answer = self._fetcher.fetch(source, known.conditions if known else {})
            default = self._runner.settings.source_max_age
            if isinstance(answer, Fetched):
                arrival.file = answer.file
                record = self._describe(answer, source, read_freshness(answer.headers, default))
            else:
                assert known is not None
                headers = {"cache-control": known.freshness.directives, **answer.headers}
                freshness = read_freshness(headers, default)
                etag = answer.headers.get("etag", known.etag)
                record = SourceRecord(
                    known.key, known.previous, known.has_alpha, etag, known.last_modified, freshness
                )
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

    def _describe(self, fetched: Fetched, source: str, freshness: Freshness) -> SourceRecord:
        """Check a file's header; return what is known of its source."""
        former = self._records.find(source)
        previous = former.previous if former else None
        if former is not None and former.key != fetched.key:
            previous = former.key
        resources = self._runner.resources
        with resources.scheduler.checking_header():
            header = resources.codec.read_header(fetched.file, resources.max_input_pixels)
        etag, modified = fetched.headers.get("etag", ""), fetched.headers.get("last-modified", "")
        return SourceRecord(fetched.key, previous, header.has_alpha, etag, modified, freshness)

    def _note_failure(self, source: str, error: ServiceError) -> None:
        """Remember a failure for a while, so that a dead link is not fetched a thousand times."""
        if isinstance(error, Busy | ClientLeft):
            return
        self._counters.add("source_failures")
        self._counters.add(f"source_failures_{error.code}")
        if isinstance(error, SourceNotFound):
            self._records.remove(source)
        now = monotonic()
        with self._lock:
            self._failures.pop(source, None)
            self._failures[source] = (error.renew(), now + FAILURE_SECONDS)
            while len(self._failures) > MAX_FAILURES or self._oldest_failure_ends() <= now:
                del self._failures[next(iter(self._failures))]

    def _oldest_failure_ends(self) -> float:
        return next(iter(self._failures.values()))[1]

    def _refuse_failed(self, source: str) -> None:
        """Raise the error of a source that has just failed."""
        with self._lock:
            error, until = self._failures.get(source, (None, 0.0))
        if error is not None and monotonic() < until:
            raise error.renew()

    def _purge(self) -> None:
        """Forget sources that nobody has asked for in a long time."""
        if monotonic() < self._purge_due:
            return
        self._purge_due = monotonic() + PURGE_SECONDS
        with suppress(DatabaseDown):
            self._records.purge(
                time.time() - self._runner.settings.cache_max_age_days * DAY_SECONDS
            )

    # --- while there is an old result, or the source itself

    def _renew(
        self,
        request: ImageRequest,
        media_types: Collection[str],
        record: SourceRecord | None,
        old: SourcedResult | None,
    ) -> SourcedResult | None:
        """Make the result in a thread; wait for it a little, and else return the old one.

        Raises
        ------
        SourceNotFound, SourceRefused
            The source is no longer what anybody should get.
        """
        renewal = self._start(request, media_types, record)
        if renewal is not None and renewal.ended.wait(PATIENCE_SECONDS):
            if isinstance(renewal.error, SourceNotFound | SourceRefused):
                close(old)
                raise renewal.error.renew()
            if renewal.error is None:
                found = self._records.find(request.source)
                new = self._open(found, request, media_types)
                if new is not None and found is not None:
                    close(old)
                    return SourcedResult(new.result, found.freshness)
        if old is not None:
            self._counters.add("source_stale_hits")
        return old

    def _start(
        self, request: ImageRequest, media_types: Collection[str], record: SourceRecord | None
    ) -> Renewal | None:
        """Start a renewal, or join it; None if too many are running."""
        place = (request.source, request.format, *request.texts.items(), *sorted(media_types))
        with self._lock:
            renewal = self._renewals.get(place)
            if renewal is not None:
                return renewal
            if not self._renewing.acquire(blocking=False):
                return None
            renewal = self._renewals[place] = Renewal()

        def run() -> None:
            try:
                close(self._make_or_queue(request, media_types, record))
            except ServiceError as error:
                renewal.error = error
            except Exception:
                logger.exception("an image by address cannot be renewed")
                renewal.error = ServiceError("The service failed; the operator's log says why.")
            finally:
                with self._lock:
                    del self._renewals[place]
                self._renewing.release()
                renewal.ended.set()

        threading.Thread(target=run, name="renew-source", daemon=True).start()
        return renewal

    def _make_or_queue(
        self, request: ImageRequest, media_types: Collection[str], record: SourceRecord | None
    ) -> SourcedResult | None:
        """Make a result; one that no request could wait for is queued as a job."""
        runner = self._runner
        if record is not None and record.freshness.is_fresh(time.time()):
            options = request.options(record.has_alpha, media_types)
            if runner.jobs.backlog(runner.result_name(record.key, options)).has_it:
                return None
        return self._make(request, media_types, record, may_queue=True)


def close(found: SourcedResult | None) -> None:
    """Close the file of a result that is not sent."""
    content = None if found is None else found.result.content
    if isinstance(content, StoredResult):
        content.file.close()
