"""Runs tasks on images' bytes in processes that may die: see `sandbox_helper`."""

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
# How soon a child is killed that nobody waits for any more.
CANCEL_POLL_SECONDS = 0.1
# A child that neither works nor ends is not waited for longer than this, times its processor time.
PATIENCE_SECONDS, PATIENCE_FACTOR = 60, 20
HELPER_TRIES = 3
# numpy would start a thread for each processor, glibc make a heap for each thread, and OpenCV print
# what its readers find wrong, which errors say too.
ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
    "OPENCV_LOG_LEVEL": "OFF",
}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ending:
    """How a child ended.

    Attributes
    ----------
    reply : what it has sent; empty where it died before
    exit_code : 0, or minus the signal that killed it
    words : what decoders have printed, in one line
    """

    reply: dict[str, Any]
    exit_code: int
    words: str


class Sandbox:
    """Starts the helper when it is first needed, and again when it has died.

    Safe to use from any thread; must not be used before the server forks.

    Attributes
    ----------
    locks : what the last child was confined by; see `confinement.confine`
    """

    def __init__(self) -> None:
        self.locks: list[str] = []
        self._lock = threading.Lock()
        self._is_closed = False
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None

    @property
    def helper_pid(self) -> int | None:
        """Process id of the helper, where it runs."""
        return self._process.pid if self._process else None

    def run(
        self,
        task: dict[str, Any],
        descriptors: Sequence[int],
        limits: Limits,
        has_left: Callable[[], bool],
    ) -> Ending:
        """Do a task of `sandbox_tasks` in a child of its own.

        Parameters
        ----------
        descriptors : what the child works on; they stay open here
        has_left : tells whether nobody wants the result any more; then the child is killed

        Raises
        ------
        ClientLeft
            Nobody wants the result any more.
        Busy
            No process can be had.
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
                    # What does not fit into the pipe is lost, and nobody waits for room in it.
                    os.set_blocking(writable, False)
                    with suppress(OSError):  # where the helper has died, nobody answers either
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
        raise Busy("No process can be had for the picture now.", 5)

    def _reach_helper(self) -> socket.socket:
        """Return the connection to the helper, which is started unless it runs."""
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
            self._process = subprocess.Popen(  # noqa: S603  # this very Python, and our own file
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
        """Wait for a child's answer or, without one, its end; None: the helper is gone."""
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        while not poll.poll(CANCEL_POLL_SECONDS * 1000):
            if has_left():
                raise ClientLeft("Nobody wants this picture any more.")
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
        """Let the helper end; no task is taken from now on."""
        self._is_closed = True
        if self._connection is not None:
            self._discard(self._connection)

    def _discard(self, connection: socket.socket) -> None:
        """End a helper that is of no use any more, unless another thread has done so."""
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
    """Return what is in a pipe as one short line."""
    try:
        text = os.read(descriptor, MAX_STANDARD_ERROR).decode("utf-8", "replace")
    except OSError:
        return ""
    return " ".join(text.split())
