"""Sources that have just failed: a dead link is not fetched a thousand times."""

import threading
from time import monotonic

from superres.errors import ServiceError

# A source that fails is asked again after this.
FAILURE_SECONDS = 10.0
MAX_FAILURES = 4096


class RecentFailures:
    """Errors of sources, remembered for a while."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failures: dict[str, tuple[ServiceError, float]] = {}

    def note(self, source: str, error: ServiceError) -> None:
        """Remember a failure."""
        now = monotonic()
        with self._lock:
            self._failures.pop(source, None)
            self._failures[source] = (error.renew(), now + FAILURE_SECONDS)
            # The first are the oldest.
            while len(self._failures) > MAX_FAILURES or self._first_end() <= now:
                del self._failures[next(iter(self._failures))]

    def _first_end(self) -> float:
        return next(iter(self._failures.values()))[1]

    def find(self, source: str) -> ServiceError | None:
        """Return the error of a source that has just failed."""
        with self._lock:
            error, until = self._failures.get(source, (None, 0.0))
        return error.renew() if error is not None and monotonic() < until else None
