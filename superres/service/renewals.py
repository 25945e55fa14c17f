"""Renewals: results that are made in the background, while clients have old ones."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from superres.errors import ServiceError
from superres.service.places import Places

# One host's share suffices for a page with thirty images.
RENEWALS_AT_ONCE, RENEWALS_OF_ONE = 48, 36

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Renewal:
    """A result that is being made.

    Attributes
    ----------
    ended : set when it is stored or queued, or cannot be
    error : why it cannot be
    """

    ended: threading.Event = field(default_factory=threading.Event)
    error: ServiceError | None = None


class Renewals:
    """Those that are running, each in a thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[object, Renewal] = {}
        self._places = Places(RENEWALS_AT_ONCE, RENEWALS_OF_ONE)

    def start(self, result: object, host: str, make: Callable[[], None]) -> Renewal | None:
        """Start a renewal, or join it; None if too many are running.

        Parameters
        ----------
        result : identifies what is made
        host : of its source
        make : makes it; raises ServiceError
        """
        with self._lock:
            renewal = self._running.get(result)
            if renewal is not None:
                return renewal
            if not self._places.take(host):
                return None
            renewal = self._running[result] = Renewal()

        def run() -> None:
            try:
                make()
            except ServiceError as error:
                renewal.error = error
            except Exception:  # a fault of ours: its clients would take it for a result
                logger.exception("an image by address cannot be renewed")
                renewal.error = ServiceError("The service failed; the operator's log says why.")
            finally:
                end()

        def end() -> None:
            with self._lock:
                del self._running[result]
            self._places.give_back(host)
            renewal.ended.set()

        try:
            threading.Thread(target=run, name="renew-source", daemon=True).start()
        except RuntimeError:  # the system has no more threads
            end()
            raise
        return renewal
