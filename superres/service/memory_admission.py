"""Memory for images in work, handed out in the order in which the lanes take images."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from superres.engines.lanes import CANCEL_POLL_SECONDS
from superres.errors import JobCancelled, TooLargeForMemory

# Each image leaves this share of its own size free, so that smaller ones always find room: there
# is no size from which on images wait for large ones.
HEADROOM_SHARE = 1 / 6
MEGABYTE = 1024**2


@dataclass(eq=False)
class Claim:
    """Memory that an image holds or waits for.

    Attributes
    ----------
    computing_bytes : how much until its result is computed
    peak_bytes : how much at most, while that is encoded
    work : input pixels to compute
    is_guest : it came in while the oldest image's turn was kept, into what that one does not need
    has_grown : it holds as much as it takes at most
    """

    computing_bytes: int
    peak_bytes: int
    work: int
    is_guest: bool = False
    has_grown: bool = False

    @property
    def size_bytes(self) -> int:
        """What it holds, once it does."""
        return self.peak_bytes if self.has_grown else self.computing_bytes

    @property
    def growth_bytes(self) -> int:
        """How much more encoding takes."""
        return self.peak_bytes - self.computing_bytes


class Room:
    """What images need together so that one after the other can be encoded."""

    def __init__(self, claims: Iterable[Claim]) -> None:
        self._computing_bytes = self._growth_bytes = 0
        for claim in claims:
            self._computing_bytes += claim.computing_bytes
            self._growth_bytes = max(self._growth_bytes, claim.growth_bytes)

    def beside(self, claim: Claim) -> int:
        """Return how much it is with another image."""
        growth_bytes = max(self._growth_bytes, claim.growth_bytes)
        return self._computing_bytes + claim.computing_bytes + growth_bytes


class MemoryQueue:
    """Decides who may hold memory: the image with least work first, and the oldest in its turn.

    The oldest is overtaken until as much work as its own has gone past. From then on what others
    give back is kept for it, and only images that fit beside it still come in: none waits longer
    than for what was at work before it, and for as much again as it is itself.

    Encoding takes more than computing, but for seconds instead of minutes: an image of 14
    megapixels holds half a gigabyte while it is computed, and grows to the double at its end. There
    is always room for one to grow; who has asked first is overtaken by smaller ones likewise.

    Parameters
    ----------
    limit_bytes : what all images may hold together

    Attributes
    ----------
    held : who holds memory
    waiting : who waits, in the order of arrival
    growing : who holds memory and waits for the rest
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.held: set[Claim] = set()
        self.waiting: list[Claim] = []
        self.growing: list[Claim] = []
        self._overtaking_work = self._growing_past = 0

    @property
    def used_bytes(self) -> int:
        """What images hold now."""
        return sum(claim.size_bytes for claim in self.held)

    def enter(self, claim: Claim) -> None:
        """Let an image wait, and hold memory where it may at once."""
        self.waiting.append(claim)
        self.admit()

    def grow(self, claim: Claim) -> None:
        """Let an image that holds memory wait for what encoding takes."""
        self.growing.append(claim)
        self.admit()

    def leave(self, claim: Claim) -> None:
        """Take an image out, whether it holds memory or waits."""
        self.held.discard(claim)
        if claim in self.growing:
            if claim is self.growing[0]:
                self._growing_past = 0
            self.growing.remove(claim)
        if claim in self.waiting:
            if claim is self.waiting[0]:
                self._end_turn()
            self.waiting.remove(claim)
        self.admit()

    def admit(self) -> None:
        """Let those hold memory, or more of it, who may now."""
        while (grown := self._choose_grown()) is not None:
            if grown is self.growing[0]:
                self._growing_past = 0
            else:
                self._growing_past += grown.work
            self.growing.remove(grown)
            grown.has_grown = True
        while (claim := self._choose()) is not None:
            if claim is self.waiting[0]:
                self._end_turn()
            else:
                claim.is_guest = self._is_oldest_due()
                self._overtaking_work += claim.work
            self.waiting.remove(claim)
            self.held.add(claim)

    def _choose_grown(self) -> Claim | None:
        """Return the next that may have the rest of its memory; None: all have to wait.

        Here, too, the first is overtaken until as much work as its own has gone past.
        """
        room = self.limit_bytes - self.used_bytes
        for claim in self.growing[:1] + sorted(self.growing[1:], key=lambda each: each.work):
            is_turn = claim is self.growing[0] or self._growing_past < self.growing[0].work
            if is_turn and claim.growth_bytes <= room:
                return claim
        return None

    def _end_turn(self) -> None:
        """Count anew for whoever is the oldest next."""
        self._overtaking_work = 0
        for held in self.held:
            held.is_guest = False

    def _is_oldest_due(self) -> bool:
        # Who does not fit at all now, since the machine has less than it had, keeps nobody waiting.
        oldest = self.waiting[0]
        can_fit = oldest.peak_bytes * (1 + HEADROOM_SHARE) <= self.limit_bytes
        return can_fit and self._overtaking_work >= oldest.work

    def _choose(self) -> Claim | None:
        """Return the next that may hold memory; None: all have to wait."""
        if not self.waiting:
            return None
        oldest, *others = self.waiting
        guests = {claim for claim in self.held if claim.is_guest}
        used, held = self.used_bytes, Room(self.held)

        def fits(claim: Claim, kept: Room) -> bool:
            """Tell whether there is room now, at each one's end, and beside what is kept."""
            needed = max(used + claim.computing_bytes, held.beside(claim))
            headroom = claim.peak_bytes * HEADROOM_SHARE
            return max(needed, kept.beside(claim) + headroom) <= self.limit_bytes

        if fits(oldest, Room(self.held - guests)):
            return oldest
        kept = Room([*guests, oldest]) if self._is_oldest_due() else held
        by_work = sorted(others, key=lambda each: each.work)
        return next((claim for claim in by_work if fits(claim, kept)), None)


class MemoryAdmission:
    """Hands out memory to threads, in the order of `MemoryQueue`.

    Parameters
    ----------
    measure : returns what all images may hold together; asked while none holds anything, since
        what a machine has to spare changes
    """

    def __init__(self, measure: Callable[[], int]) -> None:
        self._measure = measure
        self._changed = threading.Condition()
        self._queue = MemoryQueue(0)
        self._most_bytes = 0

    def _measure_when_idle(self) -> None:
        if not self._queue.held:
            self._queue.limit_bytes = self._measure()
            self._most_bytes = max(self._most_bytes, self._queue.limit_bytes)

    @property
    def used_bytes(self) -> int:
        """What images hold now."""
        with self._changed:
            return self._queue.used_bytes

    @property
    def largest_bytes(self) -> int:
        """What an image may need to be admitted at all.

        By the most that there ever was: what others hold for a moment is no reason to refuse.
        """
        with self._changed:
            self._measure_when_idle()
        return int(self._most_bytes / (1 + HEADROOM_SHARE))

    @property
    def is_contended(self) -> bool:
        """Whether images wait for memory."""
        return bool(self._queue.waiting)

    def check(self, size_bytes: int, pixels: int) -> None:
        """Refuse an image that can never be admitted.

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
    def hold(self, claim: Claim, is_cancelled: Callable[[], bool]) -> Iterator[None]:
        """Hold what computing takes until the block ends, waiting for the image's turn.

        Raises
        ------
        JobCancelled
            Nobody wants the image any more.
        """
        with self._changed:
            self._measure_when_idle()
            self._queue.enter(claim)
        try:
            self._wait(lambda: claim in self._queue.held, is_cancelled)
            yield
        finally:
            with self._changed:
                self._queue.leave(claim)
                self._changed.notify_all()

    def grow(self, claim: Claim, is_cancelled: Callable[[], bool]) -> None:
        """Hold what encoding takes from now on, waiting until it is there.

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
                    raise JobCancelled("Nobody wants this picture any more.")
                self._changed.wait(CANCEL_POLL_SECONDS)
                # Where nothing is held, only the machine can have what is missing.
                self._measure_when_idle()
                self._queue.admit()
