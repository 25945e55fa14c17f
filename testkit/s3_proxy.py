"""A proxy in front of the S3 server that injects faults on demand."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from testkit.serving import serving

BODY_SECONDS = 60
# Pieces arrive often enough that no reader times out.
TRICKLE_PIECES, TRICKLE_SECONDS = 100, 1.0
REFUSAL = '<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code></Error>'
# The responses of Amazon S3 and of this server.
REFUSALS = {
    "no bucket": (404, "NoSuchBucket"),
    "expired": (400, "ExpiredToken"),
    "forbidden": (403, "AccessDenied"),
    "slow down": (503, "SlowDown"),
}


class S3Proxy(ThreadingHTTPServer):
    """Forwards requests, and injects the fault named by `fault`, if any.

    Attributes
    ----------
    fault : "no bucket", "expired", "forbidden" or "slow down" (the response to everything), "no
        listing" (missing keys are forbidden, as without s3:ListBucket), "cut off", "frozen" (until
        the fault changes), "truncated", "corrupted", "trickling" (for reads), "corrupted writes"
    spoiled : number of requests with the fault
    """

    daemon_threads = True
    block_on_close = False
    # A client that is kept waiting hangs up.
    request_queue_size = 128

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.target = urlsplit(target).netloc
        self.fault = ""
        self.spoiled = 0

    @property
    def url(self) -> str:
        """The endpoint for clients."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    @contextmanager
    def spoil(self, fault: str) -> Iterator[None]:
        """Inject a fault until the block ends."""
        self.fault, self.spoiled = fault, 0
        try:
            yield
        finally:
            self.fault = ""

    def handle_error(self, *_: object) -> None:
        """Ignore clients that hang up."""


class Handler(BaseHTTPRequestHandler):
    """One client's connection."""

    protocol_version = "HTTP/1.1"
    server: S3Proxy
    thawed = threading.Event()

    def pass_on(self) -> None:
        """Respond to a request like the server, apart from the fault."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.server.fault
        self.server.spoiled += bool(fault)
        while self.server.fault == "frozen":
            self.thawed.wait(0.1)
        if fault in {"cut off", "frozen"}:
            self.close_connection = True
            return
        if fault in REFUSALS:
            self.refuse(*REFUSALS[fault])
            return
        if fault == "corrupted writes" and self.command == "PUT":
            body = flip(body)
        status, headers, answer = self.ask(body)
        if fault == "no listing" and (status == 404 or "list-type" in self.path):
            self.refuse(403, "AccessDenied")
            return
        if self.command == "GET" and status == 200 and "list-type" not in self.path:
            if fault == "truncated":
                answer = answer[: len(answer) // 2]
            if fault == "corrupted":
                answer = flip(answer)
        self.answer(status, headers, answer)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = pass_on

    def ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        """Return the server's response."""
        connection = HTTPConnection(self.server.target, timeout=BODY_SECONDS)
        try:
            connection.putrequest(
                self.command, self.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in self.headers.items():
                connection.putheader(name, value)
            connection.endheaders(body or None)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def refuse(self, status: int, code: str) -> None:
        """Respond with one of S3's errors."""
        self.answer(status, [("Content-Type", "text/xml")], REFUSAL.format(code=code).encode())

    def answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        """Send a response; to HEAD, with the length of the body that is not sent."""
        self.send_response(status)
        length = str(len(body))
        for name, value in headers:
            if name.lower() == "content-length":
                length = value if self.command == "HEAD" else length
            elif name.lower() not in {"transfer-encoding", "connection", "date", "server"}:
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.server.fault == "trickling" and self.command == "GET":
            self.trickle(body)
        else:
            self.wfile.write(body)

    def trickle(self, body: bytes) -> None:
        """Send a body in pieces, pausing between them while the fault lasts."""
        size = len(body) // TRICKLE_PIECES + 1
        for start in range(0, len(body), size):
            self.wfile.write(body[start : start + size])
            self.wfile.flush()
            if self.server.fault == "trickling":
                self.thawed.wait(TRICKLE_SECONDS)

    def log_message(self, *_: object) -> None:
        """Write no log."""


def flip(content: bytes) -> bytes:
    """Change one bit in the middle."""
    spoiled = bytearray(content)
    if spoiled:
        spoiled[len(spoiled) // 2] ^= 1
    return bytes(spoiled)


@contextmanager
def run_s3_proxy(target: str) -> Iterator[S3Proxy]:
    """Run a proxy in front of a server until the block ends."""
    proxy = S3Proxy(target)
    with serving(proxy):
        try:
            yield proxy
        finally:
            proxy.fault = ""
