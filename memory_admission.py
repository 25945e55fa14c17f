"""Memory for pictures in work, handed out in the order in which the lanes take pictures."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from errors import JobCancelled, TooLargeForMemory
from lanes import CANCEL_POLL_SECONDS

# Each picture leaves a share of its own size free, so that smaller ones always find room: there is
# no size from which on pictures wait for large ones. Beside others it leaves more: the lanes
# compute one picture after another, so that two large ones in memory gain nothing, and 900x900 as
# lossless WebP, a third of a 14-megapixel photograph's memory, waited for both.
HEADROOM_SHARE, HEADROOM_SHARE_BESIDE_OTHERS = 1 / 6, 1 / 2
MEGABYTE = 1024**2


@dataclass(eq=False)
class Claim:
    """Memory that a picture holds or waits for.

    Attributes
    ----------
    size_bytes : how much
    work : input pixels to compute
    is_guest : it came in while the oldest picture's turn was kept, into what that one does not need
    """

    size_bytes: int
    work: int
    is_guest: bool = False


class MemoryQueue:
    """Decides who may hold memory: the picture with least work first, and the oldest in its turn.

    The oldest is overtaken until as much work as its own has gone past. From then on what others
    give back is kept for it, and only pictures that fit into its headroom still come in: none waits
    longer than for what was at work before it, and for as much again as it is itself.

    Parameters
    ----------
    limit_bytes : what all pictures may hold together

    Attributes
    ----------
    held : who holds memory
    waiting : who waits, in the order of arrival
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.held: set[Claim] = set()
        self.waiting: list[Claim] = []
        self._overtaking_work = 0

    @property
    def used_bytes(self) -> int:
        """What pictures hold now."""
        return sum(claim.size_bytes for claim in self.held)

    def enter(self, claim: Claim) -> None:
        """Let a picture wait, and hold memory where it may at once."""
        self.waiting.append(claim)
        self.admit()

    def leave(self, claim: Claim) -> None:
        """Take a picture out, whether it holds memory or waits."""
        self.held.discard(claim)
        if claim in self.waiting:
            if claim is self.waiting[0]:
                self._end_turn()
            self.waiting.remove(claim)
        self.admit()

    def admit(self) -> None:
        """Let those hold memory who may now."""
        while (claim := self._choose()) is not None:
            if claim is self.waiting[0]:
                self._end_turn()
            else:
                claim.is_guest = self._is_oldest_due()
                self._overtaking_work += claim.work
            self.waiting.remove(claim)
            self.held.add(claim)

    def _end_turn(self) -> None:
        """Count anew for whoever is the oldest next."""
        self._overtaking_work = 0
        for held in self.held:
            held.is_guest = False

    def _is_oldest_due(self) -> bool:
        return self._overtaking_work >= self.waiting[0].work

    def _choose(self) -> Claim | None:
        """Return the next that may hold memory; None: all have to wait."""
        if not self.waiting:
            return None
        oldest, *others = self.waiting
        used = self.used_bytes
        guests = sum(claim.size_bytes for claim in self.held if claim.is_guest)
        if self._fits(oldest, used - guests) and used + oldest.size_bytes <= self.limit_bytes:
            return oldest
        kept = guests + oldest.size_bytes if self._is_oldest_due() else 0
        for claim in sorted(others, key=lambda each: each.work):
            if self._fits(claim, used) and kept + claim.size_bytes <= self.limit_bytes:
                return claim
        return None

    def _fits(self, claim: Claim, used: int) -> bool:
        """Tell whether a picture fits beside what is used, and leaves its share free."""
        share = HEADROOM_SHARE_BESIDE_OTHERS if used else HEADROOM_SHARE
        return used + claim.size_bytes * (1 + share) <= self.limit_bytes


class MemoryAdmission:
    """Hands out memory to threads, in the order of `MemoryQueue`.

    Parameters
    ----------
    measure : returns what all pictures may hold together; asked while none holds anything, since
        what a machine has to spare changes
    """

    def __init__(self, measure: Callable[[], int]) -> None:
        self._measure = measure
        self._changed = threading.Condition()
        self._queue = MemoryQueue(0)

    def _measure_when_idle(self) -> None:
        if not self._queue.held:
            self._queue.limit_bytes = self._measure()

    @property
    def used_bytes(self) -> int:
        """What pictures hold now."""
        with self._changed:
            return self._queue.used_bytes

    @property
    def largest_bytes(self) -> int:
        """What a picture may need to be admitted at all."""
        with self._changed:
            self._measure_when_idle()
        return int(self._queue.limit_bytes / (1 + HEADROOM_SHARE))

    @property
    def is_contended(self) -> bool:
        """Whether pictures wait for memory."""
        return bool(self._queue.waiting)

    def check(self, size_bytes: int, pixels: int) -> None:
        """Refuse a picture that can never be admitted.

        Parameters
        ----------
        pixels : of the upload, to tell how many would do

        Raises
        ------
        TooLargeForMemory
            Alone on the machine it would not fit.
        """
        largest = self.largest_bytes
        if size_bytes > largest:
            fitting = pixels * largest // size_bytes
            raise TooLargeForMemory(
                f"Making this result takes about {size_bytes // MEGABYTE:,} MB of memory; this "
                f"service has {largest // MEGABYTE:,}. About {fitting:,} pixels would "
                "fit, or a smaller result, or another format: png and jpeg take least."
            )

    @contextmanager
    def hold(
        self, size_bytes: int, work: int, is_cancelled: Callable[[], bool] = lambda: False
    ) -> Iterator[None]:
        """Hold memory until the block ends, waiting for the picture's turn.

        Raises
        ------
        JobCancelled
            Nobody wants the picture any more.
        """
        claim = Claim(size_bytes, work)
        with self._changed:
            self._measure_when_idle()
            self._queue.enter(claim)
        try:
            with self._changed:
                while claim not in self._queue.held:
                    if is_cancelled():
                        raise JobCancelled("Nobody wants this picture any more.")
                    self._changed.wait(CANCEL_POLL_SECONDS)
                    # Where nothing is held, only the machine can have what is missing.
                    self._measure_when_idle()
                    self._queue.admit()
            yield
        finally:
            with self._changed:
                self._queue.leave(claim)
                self._changed.notify_all()
