"""Admission: which requests may wait, which pictures may be queued, and which decoded now."""

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from errors import Busy, TooCostly
from settings import Settings

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
        self._reading = threading.BoundedSemaphore(settings.max_uploads_at_once)
        self.queued_pixels = 0
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

    def admit(self, pixels: int) -> None:
        """Add a picture's input pixels to the queue, until `finish`.

        Raises
        ------
        TooCostly
            Alone on the machine, this picture would take longer than a request may wait.
        Busy
            Later there will be room, or time enough.
        """
        seconds_per_pixel = self._seconds_per_pixel()
        affordable = int(self._settings.max_sync_seconds / seconds_per_pixel)
        if pixels > affordable:
            raise TooCostly(
                f"Computing this picture would take about {pixels * seconds_per_pixel:.0f} "
                f"seconds; a request may take {self._settings.max_sync_seconds}. "
                f"Send a picture of at most {affordable:,} pixels."
            )
        limit = min(self._settings.max_queue_pixels, affordable)
        with self._state:
            excess = self.queued_pixels + pixels - limit
            # An empty queue takes any picture that may be computed at all.
            if excess > 0 and self.queued_pixels > 0:
                raise self.busy("The queue is full.", excess)
            self.queued_pixels += pixels

    def finish(self, pixels: int) -> None:
        """Take a picture that `admit` accepted out of the queue."""
        with self._state:
            self.queued_pixels -= pixels

    def busy(self, message: str, pixels_to_wait_for: int | None = None) -> Busy:
        """Make the error for a client who had better return when so much is computed, or all."""
        pixels = self.queued_pixels if pixels_to_wait_for is None else pixels_to_wait_for
        seconds = math.ceil(pixels * self._seconds_per_pixel())
        return Busy(message, retry_after_seconds=max(seconds, 1))

    @property
    def decoded_bytes(self) -> int:
        """Memory that decoded pictures and their results hold now."""
        return self._small.used_bytes + self._large.used_bytes

    def decoded_picture(self, size_bytes: int) -> AbstractContextManager[None]:
        """Hold memory for a picture's pixels, waiting until it is free.

        A quarter of the memory is for small pictures alone, so that they never wait for large ones.
        """
        is_small = size_bytes <= self._settings.max_decoded_bytes * SMALL_PICTURE_SHARE
        return (self._small if is_small else self._large).hold(size_bytes)


class ByteBudget:
    """Memory that is handed out up to a limit."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self._turn = threading.Lock()
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, size_bytes: int) -> Iterator[None]:
        """Hold so many bytes, waiting until they are free; more than the limit, until all are.

        One waits at a time, the others behind it: a large picture is not overtaken for ever.
        """
        with self._turn, self._changed:
            self._changed.wait_for(
                lambda: self.used_bytes == 0 or self.used_bytes + size_bytes <= self.limit_bytes
            )
            self.used_bytes += size_bytes
        try:
            yield
        finally:
            with self._changed:
                self.used_bytes -= size_bytes
                self._changed.notify_all()
