"""Hands out memory for images to threads, in the order of `MemoryQueue`."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from superres.disk import MEGABYTE
from superres.engines.lanes import CANCEL_POLL_SECONDS
from superres.errors import Busy, JobCancelled, TooLargeForMemory
from superres.excess import Excess, show_amount
from superres.service.memory_queue import HEADROOM_SHARE, MemoryClaim, MemoryQueue

# An image that does not fit although no other holds memory is given up after this.
PATIENCE_SECONDS, RETRY_SECONDS = 10.0, 60
RECENT_SECONDS = 60.0


class MemoryAdmission:
    """Hands out memory to threads, in the order of `MemoryQueue`.

    Parameters
    ----------
    measure : returns what all images may hold together; called while none holds any, since a
        machine's free memory changes
    """

    def __init__(self, measure: Callable[[], int]) -> None:
        self._measure = measure
        self._changed = threading.Condition()
        self._queue = MemoryQueue(0)
        self._measured: list[tuple[float, int]] = []  # when, and the limit
        self._idle_since = 0.0  # since when no image has held memory, though some wait

    def _measure_when_idle(self) -> None:
        if not self._queue.held:
            now, limit = time.monotonic(), self._measure()
            self._queue.limit_bytes = limit
            recent = [each for each in self._measured if now - each[0] < RECENT_SECONDS]
            self._measured = [*recent, (now, limit)]

    @property
    def used_bytes(self) -> int:
        """Bytes that images hold now."""
        with self._changed:
            return self._queue.used_bytes

    @property
    def largest_bytes(self) -> int:
        """Most memory that an image may need to be admitted at all.

        Based on the most that was free in the last minute: a moment's use by others is no reason to
        reject one, but a worker that has grown may never have as much again.
        """
        with self._changed:
            self._measure_when_idle()
            most = max((limit for _, limit in self._measured), default=0)
        return int(most / (1 + HEADROOM_SHARE))

    @property
    def is_contended(self) -> bool:
        """Whether images wait for memory."""
        return bool(self._queue.waiting)

    def check(self, size_bytes: int, pixels: int) -> None:
        """Reject an image that can never be admitted.

        Parameters
        ----------
        pixels : of the upload, to estimate how many would fit

        Raises
        ------
        TooLargeForMemory
            It would not fit even alone on the machine.
        """
        largest = self.largest_bytes
        if size_bytes > largest:
            # An estimate, of which decimals would say nothing.
            needed, available = -(-size_bytes // MEGABYTE), largest // MEGABYTE
            fitting = show_amount(pixels * largest // size_bytes, "pixels")
            raise TooLargeForMemory(
                f"This result needs about {needed:,} MB of memory; this service has {available:,}. "
                f"An image of about {fitting} would fit; of the formats, png and jpeg need the "
                "least.",
                excess=Excess("memory_bytes", largest, size_bytes),
            )

    @contextmanager
    def hold(self, claim: MemoryClaim, is_cancelled: Callable[[], bool]) -> Iterator[None]:
        """Wait for an image's turn, then hold memory for computing until the block ends.

        Raises
        ------
        JobCancelled
            Nobody wants the image any more.
        Busy
            The machine no longer has as much memory as when the image was accepted.
        """
        with self._changed:
            self._measure_when_idle()
            self._queue.enter(claim)
            self._idle_since = time.monotonic()
        try:
            self._wait(lambda: claim in self._queue.held, is_cancelled)
            yield
        finally:
            with self._changed:
                self._queue.leave(claim)
                self._changed.notify_all()

    def grow(self, claim: MemoryClaim, is_cancelled: Callable[[], bool]) -> None:
        """Wait for memory for encoding, then hold it too.

        Raises
        ------
        JobCancelled
            Nobody wants the image any more.
        """
        with self._changed:
            self._queue.grow(claim)
        self._wait(lambda: claim.has_grown, is_cancelled)

    def _wait(self, has_come: Callable[[], bool], is_cancelled: Callable[[], bool]) -> None:
        with self._changed:
            while not has_come():
                if is_cancelled():
                    raise JobCancelled("Nobody is waiting for this image any more.")
                if self._queue.held:
                    self._idle_since = time.monotonic()
                elif time.monotonic() - self._idle_since > PATIENCE_SECONDS:
                    raise Busy("There is not enough memory for this image now.", RETRY_SECONDS)
                self._changed.wait(CANCEL_POLL_SECONDS)
                # If no image holds memory, only the machine can free more.
                self._measure_when_idle()
                self._queue.admit()
