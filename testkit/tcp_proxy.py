"""A proxy in front of a server that drops or delays traffic, as networks and firewalls do."""

import contextlib
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from testkit.serving import serving

PIECE_BYTES = 65536


class TcpProxy(socketserver.ThreadingTCPServer):
    """Forwards bytes.

    Attributes
    ----------
    swallows : silently drop all traffic, of new connections too
    delay_seconds : delay of the server's responses
    """

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, target_port: int) -> None:
        super().__init__(("127.0.0.1", 0), Connection)
        self.target_port = target_port
        self.swallows = False
        self.delay_seconds = 0.0

    @property
    def port(self) -> int:
        """The port for clients."""
        port: int = self.server_address[1]
        return port

    def handle_error(self, *_: object) -> None:
        """Ignore clients that hang up."""


class Connection(socketserver.BaseRequestHandler):
    """One client's connection."""

    server: TcpProxy
    request: socket.socket

    def handle(self) -> None:
        """Forward bytes in both directions until either side closes."""
        with socket.create_connection(("127.0.0.1", self.server.target_port)) as server:
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            back = threading.Thread(target=self.pass_on, args=[server, self.request, True])
            back.start()
            self.pass_on(self.request, server, False)
            back.join()

    def pass_on(self, source: socket.socket, sink: socket.socket, is_answer: bool) -> None:
        """Forward bytes in one direction."""
        with contextlib.suppress(OSError):
            while piece := source.recv(PIECE_BYTES):
                if is_answer and self.server.delay_seconds:
                    time.sleep(self.server.delay_seconds)
                if not self.server.swallows:
                    sink.sendall(piece)
        if not self.server.swallows:
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_RDWR)


@contextmanager
def run_tcp_proxy(target_port: int) -> Iterator[TcpProxy]:
    """Run a proxy in front of a server on loopback until the block ends."""
    proxy = TcpProxy(target_port)
    with serving(proxy):
        try:
            yield proxy
        finally:
            proxy.swallows = False
