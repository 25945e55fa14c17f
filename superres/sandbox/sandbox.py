"""Runs tasks on image files in sandboxed processes: see `sandbox_helper`."""

import json
import logging
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

from superres.errors import Busy, ClientLeft
from superres.paths import PROJECT_DIR
from superres.sandbox.confinement import Limits

HELPER = "superres.sandbox.sandbox_helper"
MAX_MESSAGE_BYTES = 64 * 1024
MAX_STANDARD_ERROR = 2000
# How soon a child is killed once nobody waits for it.
CANCEL_POLL_SECONDS = 0.1
# The longest wait for a child that neither works nor ends: this, plus its CPU limit times a factor.
PATIENCE_SECONDS, PATIENCE_FACTOR = 60, 20
HELPER_TRIES = 3
# Otherwise numpy would start a thread per CPU, glibc create a heap per thread and take pages one by
# one (2 ms of encoding a JPEG of 1536x1536), and OpenCV print what its readers find wrong, which
# the errors already say.
ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "OPENCV_LOG_LEVEL": "OFF",
}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ending:
    """How a child ended.

    Attributes
    ----------
    reply : what it sent; empty if it died first
    exit_code : 0, or minus the signal that killed it
    words : what the decoders printed, as one line
    """

    reply: dict[str, Any]
    exit_code: int
    words: str


class Sandbox:
    """Starts the helper on first use, and restarts it when it dies.

    Safe to use from any thread; must not be used before the server forks.

    Attributes
    ----------
    locks : the last child's active locks; see `confinement.Confinement`
    """

    def __init__(self) -> None:
        self.locks: list[str] = []
        self._lock = threading.Lock()
        self._is_closed = False
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None

    @property
    def helper_pid(self) -> int | None:
        """Process ID of the helper, if it is running."""
        return self._process.pid if self._process else None

    def run(
        self,
        task: dict[str, Any],
        descriptors: Sequence[int],
        limits: Limits,
        has_left: Callable[[], bool],
    ) -> Ending:
        """Run a task of `sandbox_tasks` in its own child process.

        Parameters
        ----------
        descriptors : what the child works on; they stay open here
        has_left : tells whether nobody wants the result any more; then the child is killed

        Raises
        ------
        ClientLeft
            Nobody wants the result any more.
        Busy
            No process is available.
        """
        message = json.dumps(task | {"limits": limits.as_dict()}).encode()
        patience = PATIENCE_SECONDS + PATIENCE_FACTOR * limits.cpu_seconds
        deadline = time.monotonic() + patience
        for _ in range(HELPER_TRIES):
            helper = self._reach_helper()
            with ExitStack() as stack:
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                stack.enter_context(ours)
                readable, writable = os.pipe()
                stack.callback(os.close, readable)
                with theirs, os.fdopen(writable, "wb"):
                    # Output that does not fit into the pipe is dropped: writers never block.
                    os.set_blocking(writable, False)
                    with suppress(OSError):  # if the helper has died, no reply will tell
                        socket.send_fds(
                            helper, [message], [theirs.fileno(), writable, *descriptors]
                        )
                ending = self._follow(ours, has_left, deadline)
                if ending is not None:
                    os.set_blocking(readable, False)
                    return Ending(*ending, read_words(readable))
            self._discard(helper)
            if time.monotonic() > deadline:
                break
        raise Busy("No process is available for the image now.", 5)

    def _reach_helper(self) -> socket.socket:
        """Return the connection to the helper, starting it if needed."""
        with self._lock:
            if self._is_closed:
                raise Busy("The service is stopping.", 1)
            if self._connection is None:
                self._start()
            assert self._connection is not None
            return self._connection

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603  # the same Python, and our own module
                [sys.executable, "-P", "-m", HELPER, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={"PATH": os.environ.get("PATH", ""), "PYTHONPATH": str(PROJECT_DIR)}
                | ENVIRONMENT,
            )
        self._connection = ours

    def _follow(
        self, connection: socket.socket, has_left: Callable[[], bool], deadline: float
    ) -> tuple[dict[str, Any], int] | None:
        """Wait for a child's reply or, without one, its end; None if the helper is gone."""
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        while not poll.poll(CANCEL_POLL_SECONDS * 1000):
            if has_left():
                raise ClientLeft("Nobody is waiting for this image any more.")
            if time.monotonic() > deadline:
                return None  # the helper hangs, or its child sleeps
        message = connection.recv(MAX_MESSAGE_BYTES)
        if not message:
            return None
        content = json.loads(message)
        if "ended" in content:
            return {}, content["ended"]
        self.locks = content["locks"]
        return content, 0

    def close(self) -> None:
        """Stop the helper; no more tasks are accepted."""
        self._is_closed = True
        if self._connection is not None:
            self._discard(self._connection)

    def _discard(self, connection: socket.socket) -> None:
        """Stop a helper that is no longer usable, unless another thread has done so."""
        with self._lock:
            if self._connection is not connection:
                return
            self._connection = None
            connection.close()
            process, self._process = self._process, None
            assert process is not None
            try:
                process.wait(CANCEL_POLL_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def read_words(descriptor: int) -> str:
    """Return a pipe's content as one short line."""
    try:
        text = os.read(descriptor, MAX_STANDARD_ERROR).decode("utf-8", "replace")
    except OSError:
        return ""
    return " ".join(text.split())
