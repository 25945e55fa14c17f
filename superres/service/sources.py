"""From a source's address to its result: fetches what is not here, or no longer fresh."""

import time
from collections.abc import Hashable
from contextlib import suppress
from dataclasses import dataclass, replace
from http import HTTPStatus

from superres.errors import (
    Busy,
    ClientLeft,
    DatabaseDown,
    NotStored,
    ResultTooLarge,
    ServiceError,
    SourceNotFound,
    SourceRefused,
    TooCostly,
)
from superres.images.options import Options
from superres.service.arrivals import Arrival, Arrivals
from superres.service.charges import FREE, Charge
from superres.service.places import Places
from superres.service.recent_failures import RecentFailures
from superres.service.renewals import Renewal, Renewals
from superres.service.runner import Result, Runner
from superres.service.sandboxed_codec import HasLeft
from superres.service.upload import Upload
from superres.settings import SOURCE_REQUESTS_AT_ONCE
from superres.sources.fetcher import Fetcher
from superres.sources.freshness import Freshness
from superres.sources.signed_address import ImageRequest
from superres.sources.source_records import SourceRecord, SourceRecords
from superres.store.stored_result import StoredResult

# How long a client waits for a new image while there is an old one, or the source itself.
PATIENCE_SECONDS = 2.0
# Most requests for one host: others go on while it hangs. Many sites have all images on one.
REQUESTS_OF_ONE = SOURCE_REQUESTS_AT_ONCE * 3 // 4
CLIENT = "images by address"


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


class Sources:
    """Finds or makes results of images at other servers.

    Parameters
    ----------
    charge : is charged for what is computed
    """

    def __init__(self, runner: Runner, fetcher: Fetcher, charge: Charge = FREE) -> None:
        self._runner = runner
        self._charge = charge
        self._records = SourceRecords(runner.jobs.database)
        self._counters = runner.resources.counters
        self._arrivals = Arrivals(runner.resources, fetcher, self._records)
        self._refused = RecentFailures()
        self._renewals = Renewals()
        self._requests = Places(SOURCE_REQUESTS_AT_ONCE, REQUESTS_OF_ONE)
        # The other half waits for uploads.
        computations = max(runner.settings.max_waiting_requests // 2, 1)
        self._computing = Places(computations, computations)
        # For a place; the computation may take as long again, and more.
        self._computing_seconds = runner.settings.max_sync_seconds / 2

    def get(
        self,
        request: ImageRequest,
        has_left: HasLeft = lambda: False,
    ) -> SourcedResult | None:
        """Return a request's result; None if the client is to go to the source meanwhile.

        Parameters
        ----------
        has_left : tells whether the client is gone

        Raises
        ------
        ServiceError
            There is no result, and why.
        """
        record = self._records.find(request.source)
        current = self._open(record, request)
        if current is not None and not current.is_outdated:
            self._counters.add("source_hits")
            return current
        old = self._choose_old(record, current, request)
        if old is None and not request.falls_back:
            with self._requests.hold(request.host):
                return self._make(request, record, has_left)
        return self._renew(request, record, old)

    def _choose_old(
        self,
        record: SourceRecord | None,
        current: SourcedResult | None,
        request: ImageRequest,
    ) -> SourcedResult | None:
        """Return what may be sent while there is nothing better, and close what may not."""
        old = current
        if old is None and record is not None and record.previous is not None:
            old = self._open_key(record.previous, record, request)
        if old is not None and not old.freshness.may_be_used(time.time()):
            close(old)
            return None
        return old

    def _open(self, record: SourceRecord | None, request: ImageRequest) -> SourcedResult | None:
        """Return the result of what a source had last, if it is stored."""
        if record is None:
            return None
        return self._open_key(record.key, record, request)

    def _open_key(
        self, key: str, record: SourceRecord, request: ImageRequest
    ) -> SourcedResult | None:
        options = request.options(record.has_alpha)
        result = self._runner.open_result(self._runner.result_name(key, options))
        if result is None:
            return None
        freshness = record.freshness
        if key != record.key:
            freshness = replace(freshness, lifetime=0.0)
        return SourcedResult(result, freshness, not freshness.is_fresh(time.time()))

    def _make(
        self,
        request: ImageRequest,
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
        what = (may_queue, *identify(request))
        failure = self._arrivals.find_failure(request.source) or self._refused.find(what)
        if failure is not None:
            raise failure
        while True:
            stored = self._open(record, request)
            if stored is not None and not stored.is_outdated:
                return stored
            close(stored)
            known = record if stored is not None else None
            with self._arrivals.join(request.source, known, has_left) as arrival:
                try:
                    record = arrival.wait(has_left)
                except ClientLeft:
                    if has_left():
                        raise
                    continue  # whoever was to fetch it has left just now
                stored = self._open(record, request)
                if stored is not None:  # though perhaps stale already, if it is never fresh
                    return SourcedResult(stored.result, record.freshness)
                if arrival.file is not None:
                    options = request.options(record.has_alpha)
                    try:
                        return self._compute(arrival, options, has_left, may_queue)
                    except ServiceError as error:
                        # Nor is a source fetched for each request for what cannot be computed.
                        is_refused = error.status < HTTPStatus.INTERNAL_SERVER_ERROR
                        if is_refused and not isinstance(error, ClientLeft):
                            self._refused.note(what, request.host, error)
                        raise
            # The result of what is still the same was evicted meanwhile: its file is needed.

    def _compute(
        self, arrival: Arrival, options: Options, has_left: HasLeft, may_queue: bool
    ) -> SourcedResult | None:
        """Compute the result of a source that has arrived."""
        record = arrival.record
        assert record is not None
        computed = enlarged = Options(mode=options.mode)
        try:
            with self._computing.hold(CLIENT, self._computing_seconds, has_left):
                if options != enlarged:
                    # All widths and formats are made from this PNG: the network runs once.
                    with suppress(NotStored, ResultTooLarge):
                        close(self._enhance(arrival, enlarged, has_left))
                computed = options
                return self._enhance(arrival, options, has_left)
        # Their own messages advise what an <img> cannot do.
        except Busy as error:
            raise Busy(
                "Too many images are being computed; ask for this one again later.",
                error.retry_after_seconds,
            ) from None
        except TooCostly as error:
            if not may_queue:
                raise TooCostly(
                    "Computing this image takes longer than a request may wait. Sign its address "
                    "with fallback:source: then it is computed in the background, and clients are "
                    "sent to the source meanwhile.",
                    excess=error.excess,
                ) from None
            upload = Upload(arrival.open_file(), record.key, "")
            self._runner.submissions.submit(upload, computed, self._charge, CLIENT)
            return None

    def _enhance(self, arrival: Arrival, options: Options, has_left: HasLeft) -> SourcedResult:
        """Return one result of a source that has arrived, as an upload's."""
        record = arrival.record
        assert record is not None
        upload = Upload(arrival.open_file(), record.key, "")
        result = self._runner.enhance(upload, options, True, has_left, self._charge)
        return SourcedResult(result, record.freshness)

    # --- while there is an old result, or the source itself

    def _renew(
        self,
        request: ImageRequest,
        record: SourceRecord | None,
        old: SourcedResult | None,
    ) -> SourcedResult | None:
        """Make the result in a thread; wait for it a little, and else return the old one.

        Raises
        ------
        SourceNotFound, SourceRefused
            The source is no longer what anybody should get.
        """
        failure = self._arrivals.find_failure(request.source)
        renewal = None if failure else self._start(request, record)
        if renewal is not None and self._has_ended(renewal, request):
            failure = renewal.error
            if failure is None:
                found = self._records.find(request.source)
                new = self._open(found, request)
                if new is not None and found is not None:
                    close(old)
                    return SourcedResult(new.result, found.freshness)
        if isinstance(failure, SourceNotFound | SourceRefused):
            close(old)
            raise failure.renew()
        if old is not None:
            self._counters.add("source_stale_hits")
        return old

    def _has_ended(self, renewal: Renewal, request: ImageRequest) -> bool:
        """Wait a little for a renewal, if there is a place for those who wait."""
        if not self._requests.take(request.host):
            return renewal.ended.is_set()
        try:
            return renewal.ended.wait(PATIENCE_SECONDS)
        finally:
            self._requests.give_back(request.host)

    def _start(self, request: ImageRequest, record: SourceRecord | None) -> Renewal | None:
        """Start a renewal, or join it; None if too many are running, or the service stops."""
        if self._runner.is_draining:
            return None
        return self._renewals.start(
            identify(request),
            request.host,
            lambda: close(self._make_or_queue(request, record)),
        )

    def _make_or_queue(
        self, request: ImageRequest, record: SourceRecord | None
    ) -> SourcedResult | None:
        """Make a result; one that no request could wait for is queued as a job."""
        runner = self._runner
        if record is not None and record.freshness.is_fresh(time.time()):
            options = request.options(record.has_alpha)
            name = runner.result_name(record.key, options)
            # Without the jobs table, what does not take long can be made all the same.
            with suppress(DatabaseDown):
                for each in (name, runner.resources.name_enlarged(name, options)):
                    if runner.jobs.backlog(each).has_it:
                        return None
        return self._make(request, record, may_queue=True)


def identify(request: ImageRequest) -> tuple[Hashable, ...]:
    """Return what requests for the same result have in common."""
    return request.source, request.format, *request.texts.items(), *request.media_types


def close(found: SourcedResult | None) -> None:
    """Close the file of a result that is not sent."""
    content = None if found is None else found.result.content
    if isinstance(content, StoredResult):
        content.file.close()
