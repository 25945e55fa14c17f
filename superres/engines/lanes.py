"""Lanes: threads that compute the tiles of all images fairly."""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from superres.errors import JobCancelled

# One tile in this many goes to the image that came first, the others to the one with the least
# work left. So a small image is slowed by a third at most, and the largest gets a quarter of the
# lanes however many small ones arrive.
OLDEST_EVERY = 4
CANCEL_POLL_SECONDS = 0.1
# Lanes yield the CPU to threads that serve requests, and to a proxy on the same machine.
LANE_NICENESS = 10


@dataclass
class Progress:
    """An image's progress; any thread may set `cancelled`, which stops it within a tile."""

    tiles_total: int = 0
    tiles_done: int = 0
    cancelled: bool = False


@dataclass(frozen=True)
class Task:
    """Something to compute: its input pixels, and the tiles it fills.

    `run` gets the number of the lane that runs it, from 0.
    """

    run: Callable[[int], None]
    pixels: int
    tiles: int = 1


@dataclass(eq=False)
class Work:
    """One image's tasks that no lane has taken, and how many are being computed."""

    tasks: deque[Task]
    progress: Progress
    remaining_pixels: int
    running: int = 0
    error: Exception | None = None
    ended: threading.Event = field(default_factory=threading.Event)


class FairOrder:
    """Least remaining work first, with a share for the oldest; not safe between threads."""

    def __init__(self) -> None:
        self._works: list[Work] = []  # in the order of arrival
        self._turn = 0

    def add(self, work: Work) -> None:
        """Add an image."""
        self._works.append(work)

    def remove(self, work: Work) -> None:
        """Remove an image that has no tasks left."""
        if work in self._works:
            self._works.remove(work)

    def __len__(self) -> int:
        """Return how many images have tasks."""
        return len(self._works)

    def pick(self) -> Work | None:
        """Return the image whose task is next."""
        if not self._works:
            return None
        self._turn += 1
        if self._turn % OLDEST_EVERY == 0:
            return self._works[0]
        return min(self._works, key=lambda work: work.remaining_pixels)


class Lanes:
    """Threads that take tasks in fair order.

    Attributes
    ----------
    busy : how many are computing now
    busy_seconds : total time they have spent computing
    """

    def __init__(self, count: int) -> None:
        self._order = FairOrder()
        self._changed = threading.Condition()
        self._closed = False
        self.busy = 0
        self.busy_seconds = 0.0
        self._threads = [
            threading.Thread(target=self._serve, args=[number], name=f"lane-{number}", daemon=True)
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def run(self, tasks: Iterable[Task], progress: Progress) -> None:
        """Compute all tasks of an image; return, or raise, once no lane is working on them.

        Raises
        ------
        JobCancelled
            `progress.cancelled` was set.
        """
        waiting = deque(tasks)
        work = Work(waiting, progress, sum(task.pixels for task in waiting))
        progress.tiles_total = sum(task.tiles for task in waiting)
        with self._changed:
            self._order.add(work)
            self._changed.notify_all()
        while not work.ended.wait(CANCEL_POLL_SECONDS):
            if progress.cancelled:
                with self._changed:
                    self._drop(work)
        if work.error is not None:
            raise work.error
        if progress.tiles_done < progress.tiles_total:
            raise JobCancelled("Nobody is waiting for this image any more.")

    def _serve(self, number: int) -> None:
        """Take tasks until the lanes are closed."""
        with suppress(OSError):  # a sandbox may forbid it
            # Linux keeps a niceness for each thread.
            os.nice(LANE_NICENESS)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._order)
                work = self._order.pick()
                if work is None:
                    return
                task = work.tasks.popleft()
                work.running += 1
                self.busy += 1
                if not work.tasks:
                    self._order.remove(work)
            started = time.perf_counter()
            try:
                task.run(number)
                fault = None
            except Exception as error:
                fault = error
            with self._changed:
                self.busy -= 1
                self.busy_seconds += time.perf_counter() - started
                work.running -= 1
                if fault is None:
                    work.remaining_pixels -= task.pixels
                    work.progress.tiles_done += task.tiles
                else:
                    work.error = fault
                if fault is not None or work.progress.cancelled:
                    self._drop(work)
                elif not work.tasks and not work.running:
                    work.ended.set()
            del work, task, fault  # they hold on to whole images

    def _drop(self, work: Work) -> None:
        """Discard the tasks that no lane has taken."""
        work.tasks.clear()
        self._order.remove(work)
        if not work.running:
            work.ended.set()

    def close(self) -> None:
        """Stop the threads once nothing is left to compute."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
