"""Statistics of this process: named numbers that only grow."""

import threading
from collections import defaultdict


class Counters:
    """Numbers by name, 0 at first; safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers: defaultdict[str, float] = defaultdict(int)

    def add(self, name: str, amount: float = 1) -> None:
        """Add to a number."""
        with self._lock:
            self._numbers[name] += amount

    def __getitem__(self, name: str) -> float:
        """Return a number."""
        with self._lock:
            return self._numbers.get(name, 0)
