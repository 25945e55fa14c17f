"""gunicorn's thread worker, without what a slow or silent client could hold up for all others.

Behind Nginx none of this happens; on its own, gunicorn 27 lets a client that sends nothing keep a
thread for 5 s, one that never ends its headers or never reads its answer keep it for ever, and one
that does not close its side keep the thread that accepts all others for 2 s (all seen).
"""

import contextlib
import json
import selectors
import socket
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from types import FrameType
from typing import Any

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

from superres.errors import BadRequest
from superres.web.problems import problem_members
from superres.web.slow_clients import AnswerTransfer, end_slow_transfers, watch

# How long a client may take for a request's headers; shorter while many threads wait for such.
HEADER_SECONDS = 10.0
HURRIED_HEADER_SECONDS = 1.0
HURRIED_SHARE = 1 / 4
# Slow clients are looked for this often at most.
LOOK_SECONDS = 0.5
# How long the answer may find no room in the client's buffers, and how slow it may be after that.
SEND_SECONDS = 30.0
LEAST_BYTES_PER_SECOND = 8 * 1024
# Connections that wait for the client's end of them; beyond, they are closed without it.
CLOSES_AT_ONCE = 16
# Status, code and words for what gunicorn cannot read, and for all else of it.
PROBLEMS = {
    LimitRequestLine: (414, "uri_too_long", "The request line is too long."),
    ExpectationFailed: (417, "expectation_failed", "Expect nothing but 100-continue."),
    LimitRequestHeaders: (
        431,
        "headers_too_large",
        "There are too many headers, or too long ones.",
    ),
    UnsupportedTransferCoding: (501, "coding_not_implemented", "Send no coding but chunked."),
}
MALFORMED = (400, BadRequest.code, "The request line or a header is malformed or given twice.")
# Faults of the service, which gunicorn tells from those of the client.
OWN_FAULTS = (ConfigurationProblem, InvalidResponseHeader, InvalidResponseHeaderName)
# The master looks after its worker each second.
FROZEN_SECONDS = 3.0
REFUSAL = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class Log(Logger):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's log without a line for each request, which the service writes itself.

    gunicorn would make it, for nobody to read: a tenth of what Python does for a hit.
    """

    access_log_enabled = False


class Heartbeat(WorkerTmp):  # type: ignore[misc]  # gunicorn has no types
    """When a worker said last that it lives, as the master asks every second.

    A machine that was frozen, as it is moved or its container paused, has frozen both: the master,
    if it is the first to wake, must not kill a worker that had no time to say so, and those who
    wait with it.
    """

    def __init__(self, cfg: Config) -> None:
        super().__init__(cfg)
        self._asked = self._thawed = time.monotonic()

    def last_update(self) -> float:
        """Return the time, or that at which the master itself went on, where it is later."""
        now = time.monotonic()
        if now - self._asked > FROZEN_SECONDS:
            self._thawed = now
        self._asked = now
        updated: float = super().last_update()
        return max(updated, self._thawed)


class Worker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """Threads for requests, and none for connections without one."""

    tmp: WorkerTmp

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tmp.close()
        self.tmp = Heartbeat(self.cfg)
        self.wsgi: Any = None  # loaded after the fork, when signals may come already
        self._reading_headers: dict[TConn, float] = {}  # since when
        self._looked = 0.0
        self._closers = ThreadPoolExecutor(CLOSES_AT_ONCE, thread_name_prefix="close")
        self._closing = threading.BoundedSemaphore(CLOSES_AT_ONCE)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop: what has begun comes to its end, and nothing new is begun."""
        if self.wsgi is not None:  # it is loaded
            self.wsgi.extensions["runner"].begin_draining()
        super().handle_exit(sig, frame)

    def enqueue_req(self, conn: TConn) -> None:
        """Let a new connection wait for its first bytes where it takes no thread."""
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
        """Serve a request whose headers are there."""
        self._reading_headers.pop(conn, None)
        refuse_codings(req)
        if conn.sock.family not in {socket.AF_INET, socket.AF_INET6}:
            return super().handle_request(req, conn)
        with watch(AnswerTransfer(conn.sock, SEND_SECONDS, LEAST_BYTES_PER_SECOND)):
            return super().handle_request(req, conn)

    def murder_pending(self) -> None:
        """Close connections whose time is over; gunicorn calls this each second and event."""
        now = time.monotonic()
        if not self.alive:
            # As gunicorn does with idle connections that had a request: the process shall end.
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
            # Who has just got its request to the end keeps its connection.
            if now - since > seconds and self._reading_headers.pop(conn, None) is not None:
                with contextlib.suppress(OSError):
                    conn.sock.send(REFUSAL, socket.MSG_DONTWAIT)
                # Its thread, which waits in recv, sees the end.
                with contextlib.suppress(OSError):
                    conn.sock.shutdown(socket.SHUT_RDWR)

    def finish_request(self, conn: TConn, fs: Future[Any]) -> None:
        """Keep a connection or close it; waiting for the client's end of it is for a thread."""
        if fs.cancelled() or fs.exception() is not None or fs.result() is not False:
            super().finish_request(conn, fs)
        elif self._closing.acquire(blocking=False):
            self._closers.submit(self._close_gracefully, conn)
        else:
            self.nr_conns -= 1
            conn.close()

    def _close_gracefully(self, conn: TConn) -> None:
        """Close a connection, and count it as long as it takes."""
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
        """Answer a request that gunicorn cannot read with a problem; gunicorn would with HTML.

        Neither the answer nor the log has the part in question: it may hold a key.
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
    """Refuse a body in codings other than `chunked`, which gunicorn hands on undecoded.

    Raises
    ------
    UnsupportedTransferCoding
        It is (RFC 9112, section 6.1).
    """
    for name, value in req.headers:
        if name == "TRANSFER-ENCODING" and value.strip().lower() != "chunked":
            raise UnsupportedTransferCoding(value)


def make_refusal(status: int, code: str, message: str) -> bytes:
    """Return the bytes of a problem answer, after which the connection is closed."""
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
