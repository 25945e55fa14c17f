"""Sources that have just failed: a dead link is not fetched a thousand times."""

import logging
import threading
from collections.abc import Hashable
from time import monotonic

from superres.errors import ServiceError

# A source that fails is asked again after this.
FAILURE_SECONDS = 10.0
MAX_FAILURES = 4096

logger = logging.getLogger(__name__)


class RecentFailures:
    """Errors of sources, or of their results, remembered for a while."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failures: dict[Hashable, tuple[ServiceError, float]] = {}

    def note(self, what: Hashable, host: str, error: ServiceError) -> None:
        """Remember a failure, and log it: clients with an old image, or the source, do not see it.

        Parameters
        ----------
        host : of the source
        """
        logger.info("no image of %s: %s: %s", host, error.code, error.message)
        now = monotonic()
        with self._lock:
            self._failures.pop(what, None)
            self._failures[what] = (error.renew(), now + FAILURE_SECONDS)
            # The first are the oldest.
            while len(self._failures) > MAX_FAILURES or self._first_end() <= now:
                del self._failures[next(iter(self._failures))]

    def _first_end(self) -> float:
        return next(iter(self._failures.values()))[1]

    def find(self, what: Hashable) -> ServiceError | None:
        """Return the error of what has just failed."""
        with self._lock:
            error, until = self._failures.get(what, (None, 0.0))
        return error.renew() if error is not None and monotonic() < until else None
