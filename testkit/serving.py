"""Runs a server from the standard library in a thread."""

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# How long a server may take to notice that it should stop.
LOOK_SECONDS = 0.05


@contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[None]:
    """Serve until the block ends, then close the server."""
    with server:
        thread = threading.Thread(target=server.serve_forever, args=[LOOK_SECONDS], daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
