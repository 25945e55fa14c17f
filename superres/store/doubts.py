"""Tracks objects that seem lost or damaged, until that has lasted long enough to be believed."""

import time

# It may be a store being restored, a missing mount, or a connection that corrupts data. This is
# enough for an operator's restart, and jobs whose uploads are lost need not wait longer.
DOUBT_SECONDS = 60.0
# An object not seen missing again for this long after the first time is fine, or another process
# has it.
FORGET_SECONDS = 10 * DOUBT_SECONDS


class Doubts:
    """Remembers since when objects have been in doubt, by name."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    def is_settled(self, name: str) -> bool:
        """Tell whether an object found lost or damaged has been so for long enough."""
        now = time.monotonic()
        self._since = {
            each: since for each, since in self._since.items() if now - since < FORGET_SECONDS
        }
        is_settled = now - self._since.setdefault(name, now) >= DOUBT_SECONDS
        if is_settled:
            self.end(name)
        return is_settled

    def end(self, name: str) -> None:
        """Forget a doubt: the object was found intact."""
        self._since.pop(name, None)
