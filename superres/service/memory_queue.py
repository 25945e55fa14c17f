"""Decides which images may hold memory: in the order in which the lanes compute them."""

from collections.abc import Iterable
from dataclasses import dataclass

# Each image leaves this share of its own size free, so that there is always room for smaller ones:
# no image is so large that all smaller ones must wait for it.
HEADROOM_SHARE = 1 / 6


@dataclass(eq=False)
class MemoryClaim:
    """Memory that an image holds or waits for.

    Attributes
    ----------
    computing_bytes : needed until its result is computed
    peak_bytes : needed at the peak, while the result is encoded
    work : input pixels to compute
    is_guest : admitted while memory was reserved for the oldest image, into what that one leaves
    has_grown : whether it holds its peak
    """

    computing_bytes: int
    peak_bytes: int
    work: int
    is_guest: bool = False
    has_grown: bool = False

    @property
    def size_bytes(self) -> int:
        """Bytes that it holds, once admitted."""
        return self.peak_bytes if self.has_grown else self.computing_bytes

    @property
    def growth_bytes(self) -> int:
        """Additional bytes for encoding."""
        return self.peak_bytes - self.computing_bytes


class Room:
    """Memory that some images need together so that they can be encoded one at a time."""

    def __init__(self, claims: Iterable[MemoryClaim]) -> None:
        self._computing_bytes = self._growth_bytes = 0
        for claim in claims:
            self._computing_bytes += claim.computing_bytes
            self._growth_bytes = max(self._growth_bytes, claim.growth_bytes)

    def beside(self, claim: MemoryClaim) -> int:
        """Return the memory needed with another image added."""
        growth_bytes = max(self._growth_bytes, claim.growth_bytes)
        return self._computing_bytes + claim.computing_bytes + growth_bytes


class MemoryQueue:
    """Decides which images may hold memory: least work first, but the oldest gets its turn.

    The oldest is overtaken until as much work as its own has passed it. From then on freed memory
    is reserved for it, and only images that fit next to it are admitted: no image waits longer than
    for what was admitted before it, plus as much work as its own.

    Most formats take more memory to encode than computing does, but for seconds instead of
    minutes: an image of 14 megapixels holds half a gigabyte while it is computed, and eight times
    that while it becomes a WebP. There is always room for one image to grow; here, too, smaller
    ones overtake the first for a while.

    Parameters
    ----------
    limit_bytes : what all images may hold together

    Attributes
    ----------
    held : images that hold memory
    waiting : images that wait, in order of arrival
    growing : images that hold memory and wait for the rest
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.held: set[MemoryClaim] = set()
        self.waiting: list[MemoryClaim] = []
        self.growing: list[MemoryClaim] = []
        self._overtaking_work = self._growing_past = 0

    @property
    def used_bytes(self) -> int:
        """Bytes that images hold now."""
        return sum(claim.size_bytes for claim in self.held)

    def enter(self, claim: MemoryClaim) -> None:
        """Add an image to the queue; it may be admitted immediately."""
        self.waiting.append(claim)
        self.admit()

    def grow(self, claim: MemoryClaim) -> None:
        """Queue an image that holds memory for the additional bytes of encoding."""
        self.growing.append(claim)
        self.admit()

    def leave(self, claim: MemoryClaim) -> None:
        """Remove an image, whether it holds memory or waits."""
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
        """Admit, or let grow, all images that may now."""
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

    def _choose_grown(self) -> MemoryClaim | None:
        """Return the next image that may have the rest of its memory; None if all must wait.

        Here, too, the first is overtaken until as much work as its own has passed it.
        """
        room = self.limit_bytes - self.used_bytes
        for claim in self.growing[:1] + sorted(self.growing[1:], key=lambda each: each.work):
            is_turn = claim is self.growing[0] or self._growing_past < self.growing[0].work
            if is_turn and claim.growth_bytes <= room:
                return claim
        return None

    def _end_turn(self) -> None:
        """Restart the count of overtaking work for the next oldest."""
        self._overtaking_work = 0
        for held in self.held:
            held.is_guest = False

    def _is_oldest_due(self) -> bool:
        # An image that does not fit at all, since the machine now has less memory, blocks no other.
        oldest = self.waiting[0]
        can_fit = oldest.peak_bytes * (1 + HEADROOM_SHARE) <= self.limit_bytes
        return can_fit and self._overtaking_work >= oldest.work

    def _choose(self) -> MemoryClaim | None:
        """Return the next image that may hold memory; None if all must wait."""
        if not self.waiting:
            return None
        oldest, *others = self.waiting
        guests = {claim for claim in self.held if claim.is_guest}
        used, held = self.used_bytes, Room(self.held)

        def fits(claim: MemoryClaim, kept: Room) -> bool:
            """Tell whether there is room now, while each is encoded, and next to reservations."""
            needed = max(used + claim.computing_bytes, held.beside(claim))
            headroom = claim.peak_bytes * HEADROOM_SHARE
            return max(needed, kept.beside(claim) + headroom) <= self.limit_bytes

        if fits(oldest, Room(self.held - guests)):
            return oldest
        kept = Room([*guests, oldest]) if self._is_oldest_due() else held
        by_work = sorted(others, key=lambda each: each.work)
        return next((claim for claim in by_work if fits(claim, kept)), None)
