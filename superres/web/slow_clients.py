"""Finds clients that are too slow, by the kernel's byte counts of their connections.

Socket timeouts do not find them: one byte now and then keeps a connection alive forever.
"""

import contextlib
import socket
import struct
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

# From Linux's struct tcp_info (linux/tcp.h): bytes acknowledged, received, and not yet sent.
TCP_INFO = struct.Struct("=120xQQ8xI")


@dataclass(frozen=True)
class Counts:
    """Bytes transferred over a connection; `waiting` is what the client has no room for."""

    acknowledged: int
    received: int
    waiting: int

    @classmethod
    def of(cls, connection: socket.socket) -> "Counts | None":
        """Ask the kernel; None if this is not, or no longer, a TCP connection."""
        try:
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO.size)
            return cls(*TCP_INFO.unpack(info))
        except (OSError, struct.error):
            return None


class Transfer(ABC):
    """A transfer in progress.

    Parameters
    ----------
    grace_seconds : how long it may stall
    least_per_second : minimum average rate in bytes after that

    Attributes
    ----------
    is_over : whether it was ended for being too slow
    """

    def __init__(
        self, connection: socket.socket, grace_seconds: float, least_per_second: float
    ) -> None:
        self._connection = connection
        self._grace_seconds = grace_seconds
        self._least_per_second = least_per_second
        self._since: float | None = None
        self._before = 0
        self.is_over = False

    @abstractmethod
    def _progress(self, counts: Counts) -> int | None:
        """Return the bytes so far; None while nothing is expected from the client."""

    @abstractmethod
    def _end(self) -> None:
        """Shut the connection down as far as needed, which wakes the thread waiting for it."""

    def look(self) -> None:
        """End the transfer if it is too slow."""
        counts = Counts.of(self._connection)
        progress = None if counts is None else self._progress(counts)
        now = time.monotonic()
        if progress is None:
            self._since = None
        elif self._since is None:
            self._since, self._before = now, progress
        else:
            wanted = self._least_per_second * (now - self._since - self._grace_seconds)
            if progress - self._before < wanted:
                self.is_over = True
                with contextlib.suppress(OSError):
                    self._end()


class UploadTransfer(Transfer):
    """An upload while it is read."""

    def _progress(self, counts: Counts) -> int | None:
        return counts.received

    def _end(self) -> None:
        self._connection.shutdown(socket.SHUT_RD)


class AnswerTransfer(Transfer):
    """The responses on a connection."""

    def _progress(self, counts: Counts) -> int | None:
        return counts.acknowledged if counts.waiting else None

    def _end(self) -> None:
        self._connection.shutdown(socket.SHUT_RDWR)


_lock = threading.Lock()
_transfers: set[Transfer] = set()


@contextlib.contextmanager
def watch(transfer: Transfer) -> Iterator[Transfer]:
    """Let `end_slow_transfers` check a transfer until the block ends."""
    with _lock:
        _transfers.add(transfer)
    try:
        yield transfer
    finally:
        with _lock:
            _transfers.discard(transfer)


def end_slow_transfers() -> None:
    """Check all transfers; to be called about every second."""
    with _lock:
        transfers = list(_transfers)
    for transfer in transfers:
        transfer.look()
