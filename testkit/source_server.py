"""Little web servers with images, good and bad, for tests of what fetches them."""

import contextlib
import os
import socket
import socketserver
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from testkit.serving import serving


@dataclass
class Page:
    """What the server answers at a path; with an ETag, it confirms copies."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    before: Callable[[], object] = lambda: None


@dataclass
class SourceServer:
    """A running server: `pages` by path may change at any time."""

    port: int
    pages: dict[str, Page] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    is_down: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    def asked(self, path: str) -> list[dict[str, str]]:
        """Return the headers of the requests for a path."""
        with self.lock:
            return [headers for each, headers in self.requests if each == path]


@contextmanager
def run_source_server() -> Iterator[SourceServer]:
    """Serve pages on a free port of loopback until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            with sources.lock:
                sources.requests.append((self.path, {**self.headers}))
            page = sources.pages.get(self.path, Page(b"nothing", 404))
            page.before()
            if sources.is_down:
                self.close_connection = True
                return
            etag = page.headers.get("ETag")
            is_same = etag is not None and etag == self.headers["If-None-Match"]
            self.send_response_only(304 if is_same else page.status)
            headers = {"Content-Length": str(len(page.body)), **page.headers}
            for name, value in headers.items():
                if not (is_same and name.startswith("Content-")):
                    self.send_header(name, value)
            self.end_headers()
            if not is_same:
                self.wfile.write(page.body)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """Clients may leave in the middle of an answer."""

    server = Server(("127.0.0.1", 0), Handler)
    sources = SourceServer(server.server_address[1])
    with serving(server):
        yield sources


@dataclass
class RawServer:
    """A running server whose answers need not be HTTP; `ended` counts connections that are over."""

    port: int
    connections: int = 0
    ended: int = 0
    heads: list[bytes] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def url(self, host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}/a.png"


@contextmanager
def run_raw_server(
    answer: Callable[[socket.socket], None],
    tls: ssl.SSLContext | None = None,
    address: tuple[str, int] = ("127.0.0.1", 0),
    reads_head: bool = True,
) -> Iterator[RawServer]:
    """Answer each connection's request with a function, on loopback, until the block ends."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with raw.lock:
                raw.connections += 1
            try:
                with contextlib.suppress(OSError):
                    peer = tls.wrap_socket(self.request, server_side=True) if tls else self.request
                    if reads_head:
                        head = read_head(peer)
                        with raw.lock:
                            raw.heads.append(head)
                    answer(peer)
            finally:
                with raw.lock:
                    raw.ended += 1

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False
        allow_reuse_address = True
        request_queue_size = 128
        address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET

    server = Server(address, Handler)
    raw = RawServer(server.server_address[1])
    with serving(server):
        yield raw


def read_head(peer: socket.socket) -> bytes:
    """Read a request's line and headers."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        piece = peer.recv(1)
        if not piece:
            break
        head += piece
    return head


def stay_silent(peer: socket.socket) -> None:
    """Send nothing, until the client has left."""
    while peer.recv(65536):
        pass


def send_forever(
    piece: bytes, first: bytes = b"", pause_seconds: float = 0.0
) -> Callable[[socket.socket], None]:
    """Return an answer that ends when the client has left."""

    def answer(peer: socket.socket) -> None:
        peer.sendall(first)
        while True:
            peer.sendall(piece)
            time.sleep(pause_seconds)

    return answer


def make_certificate(
    folder: Path, name: str, subject: str, clock: str = "+0d"
) -> tuple[Path, Path]:
    """Create a certificate that is its own authority; return its file and its key's.

    Parameters
    ----------
    name : of the files
    subject : such as `DNS:a.example`
    clock : by how much the clock is off by which it is valid for two days
    """
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    (library,) = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", "/CN=test", "-addext", f"subjectAltName={subject}"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
        timeout=60,
        env={**os.environ, "LD_PRELOAD": str(library), "FAKETIME": clock},
    )
    return certificate, key
