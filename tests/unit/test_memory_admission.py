"""Images are admitted to memory in order: simulated with a fake clock."""

from collections import deque
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pytest

from superres.errors import Busy, JobCancelled, TooLargeForMemory
from superres.excess import Excess
from superres.service import memory_admission
from superres.service.memory_admission import MemoryAdmission
from superres.service.memory_queue import HEADROOM_SHARE, MemoryClaim, MemoryQueue

MEGABYTE = 1024**2
LIMIT = 1600 * MEGABYTE
# As for a photograph to PNG: fixed cost, and cost per pixel.
LEAST_BYTES, BYTES_PER_PIXEL = 8 * MEGABYTE, 90
PIXELS_A_SECOND = 100_000
# Share of that which an image takes until it is encoded; and the duration of encoding.
COMPUTING_SHARE = 0.4
ENCODED_A_SECOND = 2_000_000


def size_of(pixels: int) -> int:
    return LEAST_BYTES + BYTES_PER_PIXEL * pixels


def claim_of(size_bytes: int, work: int) -> MemoryClaim:
    """Return the claim of an image that needs no extra memory for encoding."""
    return MemoryClaim(size_bytes, size_bytes, work)


def always() -> bool:
    return True


def never() -> bool:
    return False


@dataclass(order=True)
class Visit:
    """An image in the simulation."""

    arrives: float
    pixels: int
    admitted: float = -1.0


class Simulation:
    """Images share one machine like the lanes: three quarters of it for the least work left, one
    quarter for the oldest. Each result is encoded as soon as there is memory for that."""

    def __init__(self, visits: list[Visit]) -> None:
        self.memory = MemoryQueue(LIMIT)
        self.visits = sorted(visits)
        self.peak_bytes = 0

    def run(self) -> list[Visit]:
        now, memory = 0.0, self.memory
        coming = deque(self.visits)
        waiting: dict[MemoryClaim, Visit] = {}
        left: dict[MemoryClaim, float] = {}  # in the order of admission
        ends: dict[MemoryClaim, float] = {}  # of encoding
        while coming or waiting or memory.held:
            speeds = dict.fromkeys(left, 0.0)
            if left:
                speeds[min(left, key=lambda claim: left[claim])] += 0.75 * PIXELS_A_SECOND
                speeds[next(iter(left))] += 0.25 * PIXELS_A_SECOND
            events = [now + left[claim] / speed for claim, speed in speeds.items() if speed]
            events += [*ends.values(), *(visit.arrives for visit in islice(coming, 1))]
            assert events, "nobody is admitted any more"
            then = min(events)
            for claim, speed in speeds.items():
                left[claim] -= (then - now) * speed
            now = then
            for claim in [claim for claim, pixels in left.items() if pixels < 0.01]:
                del left[claim]
                memory.grow(claim)
            for claim in [claim for claim, end in ends.items() if end <= now]:
                del ends[claim]
                memory.leave(claim)
            while coming and coming[0].arrives <= now:
                visit = coming.popleft()
                size = size_of(visit.pixels)
                claim = MemoryClaim(int(size * COMPUTING_SHARE), size, visit.pixels)
                waiting[claim] = visit
                memory.enter(claim)
            for claim in [claim for claim in waiting if claim in memory.held]:
                visit = waiting.pop(claim)
                visit.admitted = now
                left[claim] = visit.pixels
            for claim in memory.held:
                if claim.has_grown and claim not in ends:
                    ends[claim] = now + claim.work / ENCODED_A_SECOND
            self.peak_bytes = max(self.peak_bytes, memory.used_bytes)
        return self.visits


def largest_pixels() -> int:
    return (MemoryAdmission(lambda: LIMIT).largest_bytes - LEAST_BYTES) // BYTES_PER_PIXEL


def test_small_pictures_do_not_wait_behind_two_large_ones() -> None:
    large = [Visit(0, 14_000_000), Visit(0.1, 14_000_000)]
    small = [Visit(1 + 20 * n, 810_000) for n in range(30)]
    Simulation(large + small).run()
    assert max(visit.admitted - visit.arrives for visit in small) == 0
    assert all(visit.admitted >= 0 for visit in large)


def test_picture_with_little_work_and_much_memory_does_not_wait_behind_two_large_ones() -> None:
    """900x900 as lossless WebP, alongside two of 14 megapixels as PNG."""
    memory = MemoryQueue(LIMIT)
    first, second = (MemoryClaim(500 * MEGABYTE, 1150 * MEGABYTE, 14_000_000) for _ in range(2))
    small = MemoryClaim(45 * MEGABYTE, 480 * MEGABYTE, 810_000)
    for claim in (first, second, small):
        memory.enter(claim)
    # The lanes compute the large ones one after the other in any case.
    assert memory.held == {first, small}
    memory.grow(small)
    assert small.has_grown
    memory.leave(small)
    memory.grow(first)
    assert first.has_grown
    memory.leave(first)
    assert memory.held == {second}


def test_who_has_been_computed_first_is_encoded_first() -> None:
    memory = MemoryQueue(LIMIT)
    claims = [MemoryClaim(LIMIT // 10, LIMIT * 3 // 5, work) for work in (3, 2, 1)]
    for claim in claims:
        memory.enter(claim)
    assert memory.held == set(claims)
    for claim in claims:
        memory.grow(claim)
    assert [claim.has_grown for claim in claims] == [True, False, False]
    # A new image may not take what one being computed will need at its end.
    late = MemoryClaim(LIMIT // 4, LIMIT // 2, 0)
    memory.enter(late)
    assert memory.waiting == [late]
    memory.leave(claims[0])
    assert [claim.has_grown for claim in claims[1:]] == [True, False]
    memory.leave(claims[2])  # its client has left
    memory.leave(claims[1])
    assert memory.held == {late}


def test_small_picture_is_encoded_before_a_large_one_that_waits_for_room() -> None:
    memory = MemoryQueue(LIMIT)
    encoded, large = (MemoryClaim(LIMIT // 4, LIMIT * 3 // 5, work) for work in (100, 100))
    memory.enter(encoded)
    memory.enter(large)
    memory.grow(encoded)
    memory.grow(large)
    assert (encoded.has_grown, large.has_grown) == (True, False)

    def send_small() -> bool:
        small = MemoryClaim(LIMIT // 100, LIMIT // 50, 30)
        memory.enter(small)
        memory.grow(small)
        has_grown = small.has_grown
        memory.leave(small)
        return has_grown

    # In the end it gets its turn.
    assert [send_small() for _ in range(5)] == [True, True, True, True, False]
    memory.leave(encoded)
    assert large.has_grown


@pytest.mark.parametrize("seed", range(20))
def test_random_mixes_wait_no_longer_than_the_bound(seed: int) -> None:
    random = np.random.default_rng(seed)
    sizes = np.exp(random.uniform(0, np.log(largest_pixels()), 200)).astype(int) + 1
    arrivals = np.cumsum(random.exponential(random.choice([1, 5, 30]), sizes.size))
    visits = [
        Visit(float(arrives), int(pixels)) for arrives, pixels in zip(arrivals, sizes, strict=True)
    ]
    simulation = Simulation(visits)
    guests_pixels = LIMIT / BYTES_PER_PIXEL * HEADROOM_SHARE
    for visit in simulation.run():
        # Everything that came before it; for each of these and itself, as much again may overtake.
        # The lanes give the oldest a quarter.
        before = sum(other.pixels for other in visits if other.arrives <= visit.arrives)
        bound = 4 * 2 * (before + guests_pixels) / PIXELS_A_SECOND
        assert visit.admitted - visit.arrives <= bound
    assert simulation.peak_bytes <= LIMIT


def test_flood_of_small_ones_does_not_keep_a_large_one_out() -> None:
    large = Visit(1.0, largest_pixels())
    # More of them than the machine can compute, all the time.
    small = [Visit(2.0 * n, 800_000) for n in range(1000)]
    Simulation([large, *small]).run()
    # As much as its own work passes it, and then what has been admitted finishes.
    at_work = LIMIT / BYTES_PER_PIXEL
    assert large.admitted - large.arrives <= (large.pixels + at_work) / PIXELS_A_SECOND
    # Without its turn it would wait until the last of them has arrived.
    assert large.admitted < small[-1].arrives / 2


def test_least_work_comes_first_and_the_oldest_when_it_is_due() -> None:
    memory = MemoryQueue(LIMIT)
    blocker, oldest = claim_of(LIMIT * 3 // 5, 1), claim_of(LIMIT * 4 // 5, 100)
    memory.enter(blocker)
    memory.enter(oldest)
    filler = claim_of(LIMIT // 4, 60)
    memory.enter(filler)
    assert filler in memory.held  # it overtakes
    larger, least = claim_of(LIMIT // 4, 50), claim_of(LIMIT // 5, 40)
    memory.enter(larger)
    memory.enter(least)
    memory.leave(filler)
    assert least in memory.held  # though it came later
    memory.leave(least)
    # 100 have passed the oldest: freed memory is reserved for it.
    assert larger in memory.waiting
    guest = claim_of(LIMIT // 20, 30)
    memory.enter(guest)
    assert guest in memory.held  # into what the oldest does not need
    memory.leave(blocker)
    assert oldest in memory.held


def test_who_is_cancelled_while_waiting_leaves_the_queue() -> None:
    memory = MemoryAdmission(lambda: LIMIT)
    with memory.hold(claim_of(memory.largest_bytes, 1), never):
        with pytest.raises(JobCancelled), memory.hold(claim_of(LIMIT // 2, 1), always):
            pass
        assert not memory.is_contended
    assert memory.used_bytes == 0


def test_what_never_fits_is_refused_at_once_and_told_what_would() -> None:
    memory = MemoryAdmission(lambda: LIMIT)
    memory.check(memory.largest_bytes, 10)
    with pytest.raises(TooLargeForMemory, match="about 8 megapixels would fit") as refusal:
        memory.check(2 * memory.largest_bytes, 16_000_000)
    assert f"{memory.largest_bytes // MEGABYTE:,}" in refusal.value.message
    expected = Excess("memory_bytes", memory.largest_bytes, 2 * memory.largest_bytes)
    assert refusal.value.excess == expected


def test_what_fits_at_other_times_is_not_refused() -> None:
    limits = iter([LIMIT, LIMIT // 4])
    memory = MemoryAdmission(lambda: next(limits, LIMIT // 4))
    memory.check(LIMIT // 2, 10)
    memory.check(LIMIT // 2, 10)


def test_who_does_not_fit_any_more_keeps_nobody_waiting() -> None:
    memory = MemoryQueue(LIMIT)
    large = MemoryClaim(LIMIT // 2, LIMIT, 3)
    memory.enter(large)
    for _ in range(10):
        small = MemoryClaim(1, 2, 1)
        memory.enter(small)
        assert small in memory.held
        memory.leave(small)
    assert memory.waiting == [large]


def test_who_does_not_fit_though_nobody_holds_memory_is_told_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory_admission, "PATIENCE_SECONDS", 0.3)
    limits = iter([LIMIT])
    memory = MemoryAdmission(lambda: next(limits, LIMIT // 4))
    memory.check(LIMIT // 2, 10)
    with pytest.raises(Busy), memory.hold(claim_of(LIMIT // 2, 1), never):
        pass
    assert memory.used_bytes == 0
    assert not memory.is_contended


def test_every_picture_leaves_a_share_of_its_size_free() -> None:
    memory = MemoryAdmission(lambda: LIMIT)
    with memory.hold(claim_of(memory.largest_bytes, 1), never):
        assert LIMIT - memory.used_bytes >= memory.largest_bytes * HEADROOM_SHARE - 1


def test_who_waits_alone_comes_in_when_the_machine_has_more() -> None:
    limits = iter([LIMIT // 4])
    memory = MemoryAdmission(lambda: next(limits, LIMIT))
    with memory.hold(claim_of(LIMIT // 2, 1), never):
        assert memory.used_bytes == LIMIT // 2
