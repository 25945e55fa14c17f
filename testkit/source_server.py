"""A little web server with images, for tests of what fetches them."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

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
