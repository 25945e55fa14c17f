"""Connections to sources: to allowed addresses only, and all of a fetch within its limits.

The name is resolved once for each connection, what it resolves to is checked, and that address is
connected to: there is no second lookup that could have another answer (DNS rebinding). TLS still
verifies the name.
"""

import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Any

import httpcore

from superres.errors import SourceRefused, SourceTimeout, SourceTooLarge, SourceUnavailable
from superres.setting_parsers import Network
from superres.sources.public_networks import Address, is_allowed

CONNECT_SECONDS = 5.0
RESOLVE_SECONDS = 10.0
# Lookups that go on at once, among them those that nobody waits for any more.
RESOLUTIONS_AT_ONCE = 128
MAX_ADDRESSES_TRIED = 4
# Names or addresses, and a port, to IP addresses; raises OSError or UnicodeError.
Resolve = Callable[[str, int], Sequence[Address]]


def resolve_name(host: str, port: int) -> list[Address]:
    """Resolve a name, or an address in any spelling, as the system does.

    Raises
    ------
    OSError, UnicodeError
        It has no address.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    # Without the scope of link-local addresses, which are not allowed anyway.
    texts = dict.fromkeys(str(sockaddr[0]).partition("%")[0] for *_, sockaddr in found)
    return [ipaddress.ip_address(text) for text in texts]


class Resolver:
    """Resolves names within a time limit, which the system's resolver does not have.

    A lookup that takes longer goes on in its thread until the system gives up.
    """

    def __init__(self, resolve: Resolve = resolve_name) -> None:
        self._resolve = resolve
        self._places = threading.BoundedSemaphore(RESOLUTIONS_AT_ONCE)

    def find(self, host: str, port: int, seconds: float) -> Sequence[Address]:
        """Return a host's addresses.

        Raises
        ------
        SourceUnavailable
            It has none.
        SourceTimeout
            They are not known in time.
        """
        if not self._places.acquire(blocking=False):
            raise SourceTimeout("Too many host names take too long to resolve.")
        answer: Future[Sequence[Address]] = Future()

        def run() -> None:
            try:
                answer.set_result(self._resolve(host, port))
            except BaseException as error:
                answer.set_exception(error)
            finally:
                self._places.release()

        try:
            threading.Thread(target=run, name="resolve-source", daemon=True).start()
        except RuntimeError:  # the system has no more threads
            self._places.release()
            raise
        try:
            return answer.result(seconds)
        except TimeoutError:
            raise SourceTimeout("The source's host name takes too long to resolve.") from None
        except (OSError, UnicodeError):
            raise SourceUnavailable("The source's host name cannot be resolved.") from None


class Allowance:
    """What is left of the time and bytes that a fetch may take.

    Parameters
    ----------
    seconds : from now on
    header_bytes : received before any content: headers of all answers
    """

    def __init__(self, seconds: float, header_bytes: int) -> None:
        self._end = time.monotonic() + seconds
        self._bytes_left = header_bytes

    def allow_bytes(self, number: int) -> None:
        """Allow the content of an answer, as it comes over the network."""
        self._bytes_left += number

    def seconds_left(self, most: float | None = None) -> float:
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

    def take_bytes(self, number: int) -> None:
        """Count bytes that were received.

        Raises
        ------
        SourceTooLarge
            They are more than were left.
        """
        self._bytes_left -= number
        if self._bytes_left < 0:
            raise SourceTooLarge("The source sends far more than an image.")


class LimitedStream(httpcore.NetworkStream):
    """A connection that ends with an allowance, however slowly bytes trickle, or fast they come."""

    def __init__(self, stream: httpcore.NetworkStream, allowance: Allowance) -> None:
        self._stream = stream
        self._allowance = allowance

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Receive."""
        received = self._stream.read(max_bytes, self._allowance.seconds_left(timeout))
        self._allowance.take_bytes(len(received))
        return received

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send."""
        self._stream.write(buffer, self._allowance.seconds_left(timeout))

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
        try:
            left = self._allowance.seconds_left(timeout)
        except SourceTimeout:
            self.close()
            raise
        stream = self._stream.start_tls(ssl_context, server_hostname, left)
        return LimitedStream(stream, self._allowance)

    def get_extra_info(self, info: str) -> Any:
        """Return what the connection knows about itself."""
        return self._stream.get_extra_info(info)


class CheckedNetwork(httpcore.NetworkBackend):
    """Connects to allowed addresses.

    Parameters
    ----------
    allowance : of the whole fetch
    named : networks that are allowed although they are not public
    resolver : finds hosts' addresses
    """

    def __init__(self, allowance: Allowance, named: Sequence[Network], resolver: Resolver) -> None:
        self._allowance = allowance
        self._named = named
        self._resolver = resolver
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
        SourceTimeout
            The time is over.
        """
        addresses = self._resolver.find(host, port, self._allowance.seconds_left(RESOLVE_SECONDS))
        if not all(is_allowed(each, self._named) for each in addresses):
            raise SourceRefused("The source is in a network from which nothing is fetched.")
        failure: Exception = SourceUnavailable("The source's host has no address.")
        for address in addresses[:MAX_ADDRESSES_TRIED]:
            left = self._allowance.seconds_left(CONNECT_SECONDS)
            try:
                stream = self._backend.connect_tcp(
                    str(address), port, left, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
            else:
                return LimitedStream(stream, self._allowance)
        raise failure
