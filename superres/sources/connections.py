"""Connections to sources: to allowed addresses only, and all of a fetch within one deadline.

The name is resolved once for each connection, what it resolves to is checked, and that address is
connected to: there is no second lookup that could have another answer (DNS rebinding). TLS still
verifies the name.
"""

import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import httpcore

from superres.errors import SourceRefused, SourceTimeout, SourceUnavailable
from superres.sources.public_networks import Address, Network, is_allowed

CONNECT_SECONDS = 5.0
MAX_ADDRESSES_TRIED = 4
# Names or addresses, and a port, to IP addresses; raises OSError.
Resolve = Callable[[str, int], Sequence[Address]]


def resolve_name(host: str, port: int) -> list[Address]:
    """Resolve a name, or an address in any spelling, as the system does.

    Raises
    ------
    OSError
        It has no address.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    # Without the scope of link-local addresses, which are not allowed anyway.
    texts = dict.fromkeys(str(sockaddr[0]).partition("%")[0] for *_, sockaddr in found)
    return [ipaddress.ip_address(text) for text in texts]


class Deadline:
    """A moment by which a fetch must have ended."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self, most: float | None = None) -> float:
        """Return the seconds left, or `most` if that is less.

        Raises
        ------
        SourceTimeout
            None is left.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise SourceTimeout("The source takes too long to send its image.")
        return left if most is None else min(left, most)


class TimedStream(httpcore.NetworkStream):
    """A connection whose every step ends by a deadline, however slowly bytes trickle."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Receive."""
        return self._stream.read(max_bytes, self._deadline.left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send."""
        self._stream.write(buffer, self._deadline.left(timeout))

    def close(self) -> None:
        """Close."""
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        """Begin TLS."""
        left = self._deadline.left(timeout)
        return TimedStream(
            self._stream.start_tls(ssl_context, server_hostname, left), self._deadline
        )

    def get_extra_info(self, info: str) -> Any:
        """Return what the connection knows about itself."""
        return self._stream.get_extra_info(info)


class CheckedNetwork(httpcore.NetworkBackend):
    """Connects to allowed addresses.

    Parameters
    ----------
    deadline : of the whole fetch
    named : networks that are allowed although they are not public
    resolve : finds a host's addresses
    """

    def __init__(
        self, deadline: Deadline, named: Sequence[Network], resolve: Resolve = resolve_name
    ) -> None:
        self._deadline = deadline
        self._named = named
        self._resolve = resolve
        self._backend = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to the first of a host's addresses that answers.

        Raises
        ------
        SourceRefused
            One of them is not allowed.
        SourceUnavailable
            It has none.
        """
        try:
            addresses = self._resolve(host, port)
        except (OSError, UnicodeError):
            raise SourceUnavailable("The source's host name cannot be resolved.") from None
        if not all(is_allowed(each, self._named) for each in addresses):
            raise SourceRefused("The source is in a network from which nothing is fetched.")
        failure: Exception = SourceUnavailable("The source's host has no address.")
        for address in addresses[:MAX_ADDRESSES_TRIED]:
            left = self._deadline.left(CONNECT_SECONDS)
            try:
                stream = self._backend.connect_tcp(
                    str(address), port, left, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
            else:
                return TimedStream(stream, self._deadline)
        raise failure
