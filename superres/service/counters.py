"""Statistics of this process: named counters."""

import threading
from collections import defaultdict


class Counters:
    """Counters by name, initially 0; safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers: defaultdict[str, float] = defaultdict(int)

    def add(self, name: str, amount: float = 1) -> None:
        """Increase a counter."""
        with self._lock:
            self._numbers[name] += amount

    def __getitem__(self, name: str) -> float:
        """Return a counter's value."""
        with self._lock:
            return self._numbers.get(name, 0)
