"""Admission: which requests may wait, and which images may be queued."""

import itertools
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from superres.engines.lanes import OLDEST_EVERY
from superres.engines.speed_meter import Speed
from superres.errors import Busy, TooCostly
from superres.excess import Excess, compare
from superres.settings import DRAINS_AT_ONCE, Settings

UPLOADS_RETRY_SECONDS = 5
ASYNCHRONOUS = "Prefer: respond-async"


@dataclass(eq=False)
class Place:
    """An image's place in this process's queue; its holder must release it.

    Attributes
    ----------
    pixels : what the image costs, in input pixels
    arrival : its number in the order of arrival
    is_waited_for : False for an asynchronous job's image
    """

    pixels: int
    arrival: int
    is_waited_for: bool
    _scheduler: "Scheduler"

    def release(self) -> None:
        """Remove the image from the queue; safe to call again."""
        self._scheduler.forget(self)


class Scheduler:
    """Keeps the queue within the settings' limits; all methods are safe to call from any thread.

    Parameters
    ----------
    settings : the limits
    measure_speed : returns how fast images are computed
    """

    def __init__(self, settings: Settings, measure_speed: Callable[[], Speed]) -> None:
        self._settings = settings
        self._measure_speed = measure_speed
        self._state = threading.RLock()
        # Long polls have separate slots: they must not keep uploads from waiting.
        self._polling = threading.BoundedSemaphore(settings.max_long_polls)
        self._reading = threading.BoundedSemaphore(settings.max_uploads_at_once)
        self._checking = threading.BoundedSemaphore(settings.max_uploads_at_once)
        self._draining = threading.BoundedSemaphore(DRAINS_AT_ONCE)
        self._places: set[Place] = set()
        self._arrivals = itertools.count()
        self.waiting_requests = 0

    def reading_upload(self) -> AbstractContextManager[None]:
        """Count an upload while it is read, so that slow clients cannot take every thread.

        Raises
        ------
        Busy
            Too many uploads are being read.
        """
        return self._take_upload_slot(self._reading)

    def checking_header(self) -> AbstractContextManager[None]:
        """Count an upload whose header is checked; crafted ones could take every thread.

        Raises
        ------
        Busy
            Too many are being checked.
        """
        return self._take_upload_slot(self._checking)

    @contextmanager
    def _take_upload_slot(self, slots: threading.BoundedSemaphore) -> Iterator[None]:
        """Hold a slot until the block ends; raise Busy if there is none."""
        with take_slot(slots) as has_slot:
            if not has_slot:
                most = self._settings.max_uploads_at_once
                raise Busy(
                    f"Too many uploads are in progress: {most}, as many as may. Send the image "
                    "again in some seconds.",
                    UPLOADS_RETRY_SECONDS,
                )
            yield

    def draining(self) -> AbstractContextManager[bool]:
        """Count a rejected upload that is drained; yields False if it must not be."""
        return take_slot(self._draining)

    def long_poll(self) -> AbstractContextManager[bool]:
        """Count a request that waits for a job's status; yields False if it must not wait."""
        return take_slot(self._polling)

    @contextmanager
    def waiting_request(self) -> Iterator[None]:
        """Count a request while it waits for a result.

        Raises
        ------
        Busy
            Too many requests are waiting.
        """
        with self._state:
            most = self._settings.max_waiting_requests
            if self.waiting_requests >= most:
                raise self.busy(
                    f"Too many requests are waiting: {most}, as many as may. Send the image again "
                    f"later, or with the header '{ASYNCHRONOUS}'."
                )
            self.waiting_requests += 1
        try:
            yield
        finally:
            with self._state:
                self.waiting_requests -= 1

    @property
    def queued_pixels(self) -> int:
        """Input pixels of all images that are waiting or being computed here."""
        with self._state:
            return sum(place.pixels for place in self._places)

    def admit(self, pixels: int) -> Place:
        """Add an image that a request waits for to the queue, until its place is released.

        Raises
        ------
        TooCostly
            Even alone on the machine, this image would take longer than a request may wait.
        Busy
            There is no room, or not enough time, until later.
        """
        max_seconds = self._settings.max_sync_seconds
        # As on an idle machine: its load is no reason to call an image too costly for ever.
        seconds_alone = math.ceil(pixels * self._measure_speed().alone)
        if seconds_alone > max_seconds:
            raise TooCostly(
                f"Computing this image takes about {seconds_alone} seconds; a request may take "
                f"{max_seconds}. Send it with the header '{ASYNCHRONOUS}'.",
                excess=Excess("sync_seconds", max_seconds, seconds_alone),
            )
        with self._state:
            # An empty queue accepts any image that may be computed at all.
            waited_for = sum(place.pixels for place in self._places if place.is_waited_for)
            if waited_for:
                self._check_queue("The queue", waited_for + pixels)
            seconds = math.ceil(self._predict_seconds(pixels))
            if seconds > max_seconds:
                raise Busy(
                    "The queue is too long for this image: it would be ready in about "
                    f"{seconds} seconds; a request may take {max_seconds}. Send it again later, "
                    f"or with the header '{ASYNCHRONOUS}'.",
                    seconds - max_seconds,
                )
            return self._add(pixels, is_waited_for=True)

    def _predict_seconds(self, pixels: int) -> float:
        """Return how long an image that arrives now will take, given the lanes' fair order.

        Smaller ones go first; larger ones take no more than the oldest's share.
        """
        speed = self._measure_speed()
        others = [place.pixels for place in self._places]
        if not others:
            # Measured long ago, perhaps: if it were refused, nothing would be measured again.
            return pixels * speed.alone
        ahead = sum(other for other in others if other <= pixels)
        share = 1 - 1 / OLDEST_EVERY if any(other > pixels for other in others) else 1
        return (pixels + ahead) * speed.now / share

    def check_room(self, pixels: int, open_pixels: int, open_jobs: int = 0) -> None:
        """Raise Busy unless an image fits into the queue of asynchronous jobs.

        Parameters
        ----------
        open_pixels : input pixels of all queued and running jobs, here or elsewhere
        open_jobs : their number
        """
        most = self._settings.max_queue_jobs
        if open_jobs >= most:
            raise self.busy(
                f"The queue of asynchronous jobs is full: it has {open_jobs:,}; at most {most:,} "
                "are allowed. Send the image again later.",
                open_pixels // open_jobs,
            )
        if open_pixels > 0:
            self._check_queue("The queue of asynchronous jobs", open_pixels + pixels)

    def _check_queue(self, name: str, pixels: int) -> None:
        """Raise Busy if a queue with another image would have too many pixels."""
        most = self._settings.max_queue_pixels
        if pixels > most:
            found, allowed = compare(pixels, most, "pixels")
            raise self.busy(
                f"{name} is full: with this image it would have {found}; at most {allowed} are "
                "allowed. Send the image again later.",
                pixels - most,
            )

    def enter(self, pixels: int) -> Place:
        """Add an asynchronous job's image to the queue here, until its place is released."""
        with self._state:
            return self._add(pixels, is_waited_for=False)

    def _add(self, pixels: int, is_waited_for: bool) -> Place:
        place = Place(pixels, next(self._arrivals), is_waited_for, self)
        self._places.add(place)
        return place

    def forget(self, place: Place) -> None:
        """Remove an image from the queue."""
        with self._state:
            self._places.discard(place)

    def busy(self, message: str, pixels_to_wait_for: int | None = None) -> Busy:
        """Make the error for a client that should retry once so many pixels, or all, are done."""
        pixels = self.queued_pixels if pixels_to_wait_for is None else pixels_to_wait_for
        seconds = math.ceil(pixels * self._measure_speed().now)
        return Busy(message, retry_after_seconds=max(seconds, 1))


@contextmanager
def take_slot(slots: threading.BoundedSemaphore) -> Iterator[bool]:
    """Hold a slot until the block ends; yield whether there was one."""
    has_slot = slots.acquire(blocking=False)
    try:
        yield has_slot
    finally:
        if has_slot:
            slots.release()
