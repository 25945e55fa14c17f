"""Waits for other threads and processes."""

import time
from collections.abc import Callable

# Tests check what happens, not when: a loaded machine may take this long.
WAIT_SECONDS = 120
POLL_SECONDS = 0.02


def wait_until(condition: Callable[[], bool], what: str = "it has not come") -> None:
    """Wait until a condition holds; fail with `what` if it never does."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(POLL_SECONDS)
