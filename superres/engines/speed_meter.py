"""Measures how fast tiles are computed."""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Speed:
    """How long an input pixel takes, in seconds, with all lanes busy.

    Attributes
    ----------
    now : beside whatever else the machine does, as measured last
    alone : on a machine that does nothing else
    """

    now: float
    alone: float


class SpeedMeter:
    """The average time per pixel, in which recent tiles count most; safe between threads.

    Parameters
    ----------
    memory_seconds : after this time, tiles count 1/e of what they did
    clock : returns the time in seconds
    """

    def __init__(self, memory_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._memory_seconds = memory_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._recorded = clock()
        self._seconds = self._pixels = 0.0

    def record(self, seconds: float, pixels: int) -> None:
        """Count a tile that has just been computed."""
        with self._lock:
            now = self._clock()
            kept = math.exp((self._recorded - now) / self._memory_seconds)
            self._recorded = now
            self._seconds = self._seconds * kept + seconds
            self._pixels = self._pixels * kept + pixels

    @property
    def seconds_per_pixel(self) -> float:
        """The average, in seconds; needs at least one tile."""
        with self._lock:
            return self._seconds / self._pixels
