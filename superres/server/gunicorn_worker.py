"""gunicorn's thread worker, hardened against slow and silent clients that hold up all others.

Behind Nginx none of this happens; on its own, gunicorn 27 lets a client that sends nothing hold a
thread for 5 s, one that never finishes its headers or never reads its response hold it forever, and
one that does not close its side hold the thread that accepts connections for 2 s (all observed).
"""

import contextlib
import json
import selectors
import socket
import sys
import threading
import time
from concurrent.futures import Future
from functools import partial
from types import FrameType
from typing import Any

from gunicorn.arbiter import Arbiter
from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.http.errors import (
    ConfigurationProblem,
    ExpectationFailed,
    InvalidResponseHeader,
    InvalidResponseHeaderName,
    LimitRequestHeaders,
    LimitRequestLine,
    ParseException,
    UnsupportedTransferCoding,
)
from gunicorn.http.message import Request
from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, TConn, ThreadWorker
from gunicorn.workers.workertmp import WorkerTmp

from superres.errors import BadRequest, StartupError
from superres.threads import Threads
from superres.web.problems import problem_members
from superres.web.slow_clients import AnswerTransfer, end_slow_transfers, watch

# How long a client may take to send a request's headers; shorter while many threads wait for them.
HEADER_SECONDS = 10.0
HURRIED_HEADER_SECONDS = 1.0
HURRIED_SHARE = 1 / 4
# Minimum interval between checks for slow clients.
LOOK_SECONDS = 0.5
# How long a response may be blocked by full buffers of the client, and its lowest speed after that.
SEND_SECONDS = 30.0
LEAST_BYTES_PER_SECOND = 8 * 1024
# How long a thread waits for the rest of a body that nobody reads; gunicorn's 5 s are too long.
REST_SECONDS = 0.1
# Connections that wait for the client to close its side; beyond this, they are closed at once.
CLOSES_AT_ONCE = 16
# Status, code and message for what gunicorn cannot parse; `MALFORMED` is for everything else.
PROBLEMS = {
    LimitRequestLine: (414, "uri_too_long", "The request line has more than 4,094 bytes."),
    ExpectationFailed: (417, "expectation_failed", "Only Expect: 100-continue is supported."),
    LimitRequestHeaders: (
        431,
        "headers_too_large",
        "The request has more than 100 headers, or one of more than 8,190 bytes.",
    ),
    UnsupportedTransferCoding: (
        501,
        "coding_not_implemented",
        "The only supported transfer coding is chunked.",
    ),
}
MALFORMED = (400, BadRequest.code, "The request line or a header is malformed or given twice.")
# The service's own faults, as opposed to the client's.
OWN_FAULTS = (ConfigurationProblem, InvalidResponseHeader, InvalidResponseHeaderName)
# The master checks its worker every second.
FROZEN_SECONDS = 3.0
REFUSAL = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class Log(Logger):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's log without a line for each request, which the service writes itself.

    gunicorn would format it only to discard it: a tenth of the Python time for a cache hit.
    """

    access_log_enabled = False


class Heartbeat(WorkerTmp):  # type: ignore[misc]  # gunicorn has no types
    """A worker's last heartbeat, which the master checks every second.

    If the machine freezes, for a live migration or because its container is paused, both freeze: if
    the master wakes first, it must not kill a worker that had no chance to send a heartbeat, and
    the requests that wait in it.
    """

    def __init__(self, cfg: Config) -> None:
        super().__init__(cfg)
        self._asked = self._thawed = time.monotonic()

    def last_update(self) -> float:
        """Return the time of the last heartbeat or, if later, that of the master's own thaw."""
        now = time.monotonic()
        if now - self._asked > FROZEN_SECONDS:
            self._thawed = now
        self._asked = now
        updated: float = super().last_update()
        return max(updated, self._thawed)


class Worker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """Uses threads for requests, and none for connections without a request."""

    tmp: WorkerTmp

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tmp.close()
        self.tmp = Heartbeat(self.cfg)
        self.wsgi: Any = None  # loaded after the fork, when signals may come already
        self._reading_headers: dict[TConn, float] = {}  # since when
        self._looked = 0.0
        self._closers = Threads(CLOSES_AT_ONCE, thread_name_prefix="close")
        self._closing = threading.BoundedSemaphore(CLOSES_AT_ONCE)

    def load_wsgi(self) -> None:
        """Load the application; report what is wrong with a setting without a traceback."""
        try:
            super().load_wsgi()
        except StartupError as fault:
            self.log.error("%s", fault)
            sys.exit(Arbiter.WORKER_BOOT_ERROR)

    def get_thread_pool(self) -> Threads:
        """Return the threads that serve requests."""
        return Threads(self.cfg.threads)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop: finish what has begun, and start nothing new."""
        if self.wsgi is not None:  # it is loaded
            self.wsgi.extensions["runner"].begin_draining()
        super().handle_exit(sig, frame)

    def set_accept_enabled(self, enabled: bool) -> None:
        """Accept connections, or stop; for good if this process ends.

        gunicorn would leave the socket open until then: clients that connect meanwhile would wait
        for minutes in its queue, and be reset. Refused, a proxy asks another machine at once. A
        socket of systemd's stays open, for the next process.
        """
        super().set_accept_enabled(enabled)
        if not enabled and not self.alive:
            for listener in self.sockets:
                listener.close()

    def enqueue_req(self, conn: TConn) -> None:
        """Make a new connection wait for its first bytes without taking a thread."""
        if conn.initialized or conn.data_ready:
            super().enqueue_req(conn)
            return
        conn.sock.setblocking(False)
        conn.timeout = time.monotonic() + HEADER_SECONDS
        self.pending_conns.append(conn)
        readable = partial(self.on_pending_socket_readable, conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, readable)

    def handle(self, conn: TConn) -> Any:
        """Serve a request, in one of the threads."""
        self._reading_headers[conn] = time.monotonic()
        try:
            return super().handle(conn)
        finally:
            self._reading_headers.pop(conn, None)

    def handle_request(self, req: Request, conn: TConn) -> Any:
        """Serve a request whose headers have been read."""
        self._reading_headers.pop(conn, None)
        refuse_codings(req)
        if conn.sock.family not in {socket.AF_INET, socket.AF_INET6}:
            return super().handle_request(req, conn)
        with watch(AnswerTransfer(conn.sock, SEND_SECONDS, LEAST_BYTES_PER_SECOND)):
            return super().handle_request(req, conn)

    def _keepalive_after(self, conn: TConn, keepalive: bool) -> bool:
        """Say whether a connection can have another request: not if its body is still coming."""
        until = time.monotonic() + REST_SECONDS
        return keepalive and bool(conn.parser.finish_body(deadline=until))

    def murder_pending(self) -> None:
        """Close connections that timed out; gunicorn calls this every second and on events."""
        now = time.monotonic()
        if not self.alive:
            # As gunicorn does with idle keep-alive connections: the process should end.
            for conn in self.pending_conns:
                conn.timeout = min(conn.timeout, now + STOP_KEEPALIVE_LINGER)
        super().murder_pending()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        end_slow_transfers()
        is_pressed = len(self._reading_headers) > self.cfg.threads * HURRIED_SHARE
        seconds = HURRIED_HEADER_SECONDS if is_pressed else HEADER_SECONDS
        for conn, since in self._reading_headers.copy().items():
            # A client that has just finished its headers keeps its connection.
            if now - since > seconds and self._reading_headers.pop(conn, None) is not None:
                with contextlib.suppress(OSError):
                    conn.sock.send(REFUSAL, socket.MSG_DONTWAIT)
                # Its thread, blocked in recv, sees the end.
                with contextlib.suppress(OSError):
                    conn.sock.shutdown(socket.SHUT_RDWR)

    def finish_request(self, conn: TConn, fs: Future[Any]) -> None:
        """Keep a connection or close it; a thread waits for the client to close its side."""
        if fs.cancelled() or fs.exception() is not None or fs.result() is not False:
            super().finish_request(conn, fs)
        elif self._closing.acquire(blocking=False):
            self._closers.submit(self._close_gracefully, conn)
        else:
            self.nr_conns -= 1
            conn.close()

    def _close_gracefully(self, conn: TConn) -> None:
        """Close a connection, and count it as open until that is done."""
        try:
            conn.close(graceful=True)
        finally:
            self._closing.release()
            self.method_queue.defer(self._forget_connection)

    def _forget_connection(self) -> None:
        self.nr_conns -= 1

    def handle_error(
        self, req: Request | None, client: socket.socket, addr: Any, exc: Exception
    ) -> None:
        """Respond to an unparsable request with problem JSON instead of gunicorn's HTML.

        Neither the response nor the log includes the offending part: it may contain a key.
        """
        if isinstance(exc, ParseException):
            for name, value in vars(exc).items():
                if isinstance(value, str | bytes):
                    setattr(exc, name, "...")
        if not isinstance(exc, ParseException) or isinstance(exc, OWN_FAULTS):
            super().handle_error(req, client, addr, exc)
            return
        self.log.warning("Invalid request from ip=%s: %s", addr[0] if addr else "", exc)
        with contextlib.suppress(OSError):
            client.send(make_refusal(*PROBLEMS.get(type(exc), MALFORMED)), socket.MSG_DONTWAIT)


def refuse_codings(req: Request) -> None:
    """Reject a body in transfer codings other than `chunked`, which gunicorn passes on undecoded.

    Raises
    ------
    UnsupportedTransferCoding
        The body has such a coding (RFC 9112, section 6.1).
    """
    for name, value in req.headers:
        if name == "TRANSFER-ENCODING" and value.strip().lower() != "chunked":
            raise UnsupportedTransferCoding(value)


def make_refusal(status: int, code: str, message: str) -> bytes:
    """Return the bytes of a problem response that closes the connection."""
    members = problem_members(status, code, message)
    body = json.dumps(members).encode()
    head = [
        f"HTTP/1.1 {status} {members['title']}",
        "Connection: close",
        "Content-Type: application/problem+json",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store, must-revalidate",
        "X-Content-Type-Options: nosniff",
    ]
    return "\r\n".join([*head, "", ""]).encode() + body
