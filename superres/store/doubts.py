"""What seems lost or damaged, and may be neither in a moment."""

import time

# A store that has been restored, a mount, or a line that damages what it carries: minutes are
# enough for an operator's restart, and whoever waits for something lost need not wait for longer.
DOUBT_SECONDS = 60.0
# What nobody has doubted again so long after its first doubt is over, or another process has it.
FORGET_SECONDS = 10 * DOUBT_SECONDS


class Doubts:
    """Remembers since when something is in doubt, by its name."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    def is_settled(self, name: str) -> bool:
        """Tell whether what was just found lost or damaged has been so for long."""
        now = time.monotonic()
        self._since = {
            each: since for each, since in self._since.items() if now - since < FORGET_SECONDS
        }
        is_settled = now - self._since.setdefault(name, now) >= DOUBT_SECONDS
        if is_settled:
            self.end(name)
        return is_settled

    def end(self, name: str) -> None:
        """Forget a doubt: it was found whole."""
        self._since.pop(name, None)
