"""Admission: which requests may wait, which pictures may be queued, and which decoded now."""

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from errors import Busy, TooCostly
from settings import Settings


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
        self._state = threading.Condition()
        self._turn = threading.Lock()
        self.queued_pixels = 0
        self.waiting_requests = 0
        self.decoded_bytes = 0

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
                raise self._busy("Too many requests are waiting.", self.queued_pixels)
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
                raise self._busy("The queue is full.", excess)
            self.queued_pixels += pixels

    def finish(self, pixels: int) -> None:
        """Take a picture that `admit` accepted out of the queue."""
        with self._state:
            self.queued_pixels -= pixels

    def busy(self, message: str) -> Busy:
        """Make the error for a client who had better return when today's queue is done."""
        return self._busy(message, self.queued_pixels)

    def _busy(self, message: str, pixels_to_wait_for: int) -> Busy:
        seconds = math.ceil(pixels_to_wait_for * self._seconds_per_pixel())
        return Busy(message, retry_after_seconds=max(seconds, 1))

    @contextmanager
    def decoded_picture(self, size_bytes: int) -> Iterator[None]:
        """Hold memory for a picture's pixels; waits until it is free, first come first served.

        A picture larger than the whole budget waits until it is alone.
        """
        with self._turn, self._state:
            self._state.wait_for(
                lambda: (
                    self.decoded_bytes == 0
                    or self.decoded_bytes + size_bytes <= self._settings.max_decoded_bytes
                )
            )
            self.decoded_bytes += size_bytes
        try:
            yield
        finally:
            with self._state:
                self.decoded_bytes -= size_bytes
                self._state.notify_all()
