"""Places for requests: so many in all, and so many of one host, which cannot take them all."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from superres.errors import Busy, ClientLeft
from superres.service.sandboxed_codec import HasLeft

# How soon the service notices that a client has left.
LEFT_POLL_SECONDS = 0.25
RETRY_SECONDS = 5


class Places:
    """Places that are taken, and given back.

    Parameters
    ----------
    number : of all
    of_one : most that one host has
    """

    def __init__(self, number: int, of_one: int) -> None:
        self._number = number
        self._of_one = of_one
        self._changed = threading.Condition()
        self._taken: Counter[str] = Counter()

    def take(self, host: str, seconds: float = 0.0, has_left: HasLeft = lambda: False) -> bool:
        """Take a place; False if none became free in time.

        Raises
        ------
        ClientLeft
            The client has not waited.
        """
        end = monotonic() + seconds
        with self._changed:
            while self._taken.total() >= self._number or self._taken[host] >= self._of_one:
                left = end - monotonic()
                if left <= 0:
                    return False
                if has_left():
                    raise ClientLeft("The client has closed the connection.")
                self._changed.wait(min(left, LEFT_POLL_SECONDS))
            self._taken[host] += 1
            return True

    def give_back(self, host: str) -> None:
        """Give back a place that was taken."""
        with self._changed:
            self._taken[host] -= 1
            if not self._taken[host]:
                del self._taken[host]
            self._changed.notify_all()

    @contextmanager
    def hold(
        self, host: str, seconds: float = 0.0, has_left: HasLeft = lambda: False
    ) -> Iterator[None]:
        """Hold a place until the block ends.

        Raises
        ------
        Busy
            None became free in time.
        ClientLeft
            The client has not waited.
        """
        if not self.take(host, seconds, has_left):
            raise Busy("Too many images are being fetched; try again soon.", RETRY_SECONDS)
        try:
            yield
        finally:
            self.give_back(host)
