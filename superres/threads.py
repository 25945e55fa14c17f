"""Thread pools that outlive a limit on threads: what is submitted then waits for one of theirs."""

import contextlib
from concurrent.futures import ThreadPoolExecutor


class Threads(ThreadPoolExecutor):
    """A pool that starts another thread only where the system allows it.

    With a limit such as systemd's TasksMax=, `submit` would otherwise raise after it has queued the
    task. In gunicorn's event loop, that ended the worker, and then the service (observed).
    """

    def _adjust_thread_count(self) -> None:
        with contextlib.suppress(RuntimeError):  # "can't start new thread"
            super()._adjust_thread_count()
