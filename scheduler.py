"""Admission: which requests may wait, which pictures may be queued, and which decoded now."""

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from errors import Busy, JobCancelled, TooCostly
from lanes import CANCEL_POLL_SECONDS, OLDEST_EVERY
from settings import DRAINS_AT_ONCE, Settings

# Small pictures have this share of the memory to themselves; each of them takes at most the other.
SMALL_PICTURES_SHARE = 1 / 4
SMALL_PICTURE_SHARE = 1 / 16
UPLOADS_RETRY_SECONDS = 5


class Scheduler:
    """Keeps the queue within the settings' limits; all methods are safe to call from any thread.

    Parameters
    ----------
    settings : the limits
    seconds_per_pixel : returns the measured time per input pixel, in seconds
    """

    def __init__(self, settings: Settings, seconds_per_pixel: Callable[[], float]) -> None:
        self._settings = settings
        self._seconds_per_pixel = seconds_per_pixel
        self._state = threading.Lock()
        small_bytes = int(settings.max_decoded_bytes * SMALL_PICTURES_SHARE)
        self._small = ByteBudget(small_bytes)
        self._large = ByteBudget(settings.max_decoded_bytes - small_bytes)
        # Long polls have slots of their own: they must not keep uploads from waiting.
        self._polling = threading.BoundedSemaphore(settings.max_long_polls)
        self._reading = threading.BoundedSemaphore(settings.max_uploads_at_once)
        self._draining = threading.BoundedSemaphore(DRAINS_AT_ONCE)
        self._waited_for: list[int] = []  # input pixels of each picture that requests wait for
        self._asynchronous: list[int] = []
        self.waiting_requests = 0

    @contextmanager
    def reading_upload(self) -> Iterator[None]:
        """Count an upload while it is read, so that slow clients cannot take every thread.

        Raises
        ------
        Busy
            As many uploads are being read as may.
        """
        if not self._reading.acquire(blocking=False):
            raise Busy("Too many uploads are under way.", UPLOADS_RETRY_SECONDS)
        try:
            yield
        finally:
            self._reading.release()

    def draining(self) -> AbstractContextManager[bool]:
        """Count a refused upload that is read away; False: it must not be."""
        return take_slot(self._draining)

    def long_poll(self) -> AbstractContextManager[bool]:
        """Count a request that waits for a job's status to change; False: it must not wait."""
        return take_slot(self._polling)

    @contextmanager
    def waiting_request(self) -> Iterator[None]:
        """Count a request while it waits for a result.

        Raises
        ------
        Busy
            As many requests wait as may.
        """
        with self._state:
            if self.waiting_requests >= self._settings.max_waiting_requests:
                raise self.busy("Too many requests are waiting.")
            self.waiting_requests += 1
        try:
            yield
        finally:
            with self._state:
                self.waiting_requests -= 1

    @property
    def queued_pixels(self) -> int:
        """Input pixels of all pictures that wait or are computed here."""
        return sum(self._waited_for) + sum(self._asynchronous)

    def admit(self, pixels: int) -> None:
        """Add a picture that a request waits for to the queue, until `finish`.

        Raises
        ------
        TooCostly
            Alone on the machine, this picture would take longer than a request may wait.
        Busy
            Later there will be room, or time enough.
        """
        max_seconds = self._settings.max_sync_seconds
        seconds_alone = pixels * self._seconds_per_pixel()
        if seconds_alone > max_seconds:
            raise TooCostly(
                f"Computing this picture takes about {seconds_alone:.0f} seconds; a request may "
                f"take {max_seconds}. Send it with the header 'Prefer: respond-async'."
            )
        with self._state:
            # An empty queue takes any picture that may be computed at all.
            excess = sum(self._waited_for) + pixels - self._settings.max_queue_pixels
            if excess > 0 and self._waited_for:
                raise self.busy("The queue is full.", excess)
            late_seconds = self._predict_seconds(pixels) - max_seconds
            if late_seconds > 0:
                raise Busy("The queue is too long for this picture.", math.ceil(late_seconds))
            self._waited_for.append(pixels)

    def _predict_seconds(self, pixels: int) -> float:
        """Return how long a picture that comes now takes, as the lanes' fair order has it.

        Smaller ones go first; larger ones take no more than the share of the oldest.
        """
        others = [*self._waited_for, *self._asynchronous]
        ahead = sum(other for other in others if other <= pixels)
        share = 1 - 1 / OLDEST_EVERY if any(other > pixels for other in others) else 1
        return (pixels + ahead) * self._seconds_per_pixel() / share

    def check_room(self, pixels: int, open_pixels: int, open_jobs: int = 0) -> None:
        """Raise Busy unless a picture fits into the queue of asynchronous jobs.

        Parameters
        ----------
        open_pixels : input pixels of all jobs that are queued or running, here or elsewhere
        open_jobs : their number
        """
        if open_jobs >= self._settings.max_queue_jobs:
            raise self.busy("The queue of asynchronous jobs is full.", open_pixels // open_jobs)
        excess = open_pixels + pixels - self._settings.max_queue_pixels
        if excess > 0 and open_pixels > 0:
            raise self.busy("The queue of asynchronous jobs is full.", excess)

    def enter(self, pixels: int) -> None:
        """Add an asynchronous job's picture to what is computed here, until `finish`."""
        with self._state:
            self._asynchronous.append(pixels)

    def finish(self, pixels: int, asynchronous: bool = False) -> None:
        """Take a picture out of the queue."""
        with self._state:
            (self._asynchronous if asynchronous else self._waited_for).remove(pixels)

    def busy(self, message: str, pixels_to_wait_for: int | None = None) -> Busy:
        """Make the error for a client who had better return when so much is computed, or all."""
        pixels = self.queued_pixels if pixels_to_wait_for is None else pixels_to_wait_for
        seconds = math.ceil(pixels * self._seconds_per_pixel())
        return Busy(message, retry_after_seconds=max(seconds, 1))

    @property
    def decoded_bytes(self) -> int:
        """Memory that decoded pictures and their results hold now."""
        return self._small.used_bytes + self._large.used_bytes

    def decoded_picture(
        self, size_bytes: int, is_cancelled: Callable[[], bool] = lambda: False
    ) -> AbstractContextManager[None]:
        """Hold memory for a picture's pixels, waiting until it is free.

        A quarter of the memory is for small pictures alone, so that they never wait for large ones.

        Raises
        ------
        JobCancelled
            Nobody wants the picture any more.
        """
        is_small = size_bytes <= self._settings.max_decoded_bytes * SMALL_PICTURE_SHARE
        return (self._small if is_small else self._large).hold(size_bytes, is_cancelled)


@contextmanager
def take_slot(slots: threading.BoundedSemaphore) -> Iterator[bool]:
    """Hold a slot until the block ends; yield whether there was one."""
    has_slot = slots.acquire(blocking=False)
    try:
        yield has_slot
    finally:
        if has_slot:
            slots.release()


class ByteBudget:
    """Memory that is handed out up to a limit."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self._queue: list[object] = []  # who waits, in the order of arrival
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, size_bytes: int, is_cancelled: Callable[[], bool]) -> Iterator[None]:
        """Hold so many bytes, waiting until they are free; more than the limit, until all are.

        The first who waits is served first: a large picture is not overtaken for ever.
        """
        turn = object()
        with self._changed:
            self._queue.append(turn)
            try:
                while self._queue[0] is not turn or not self._fits(size_bytes):
                    if is_cancelled():
                        raise JobCancelled("Nobody wants this picture any more.")
                    self._changed.wait(CANCEL_POLL_SECONDS)
            finally:
                self._queue.remove(turn)
                self._changed.notify_all()
            self.used_bytes += size_bytes
        try:
            yield
        finally:
            with self._changed:
                self.used_bytes -= size_bytes
                self._changed.notify_all()

    def _fits(self, size_bytes: int) -> bool:
        return self.used_bytes == 0 or self.used_bytes + size_bytes <= self.limit_bytes
