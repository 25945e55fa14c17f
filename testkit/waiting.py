"""Waits for other threads and processes."""

import time
from collections.abc import Callable

# Tests check what happens, not when: a loaded machine may take this long.
WAIT_SECONDS = 120
# A server, a browser: it may be many.
START_SECONDS = 180
# A question to a service costs some 10 ms of CPU time.
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.005, 0.05


def wait_until(condition: Callable[[], bool], what: str = "it has not come") -> None:
    """Wait until a condition holds; fail with `what` if it never does."""
    deadline = time.monotonic() + WAIT_SECONDS
    pause = FIRST_PAUSE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(pause)
        pause = min(1.5 * pause, LONGEST_PAUSE_SECONDS)
