"""Fetches images from their servers, within limits of bytes, time and networks."""

import hashlib
import ssl
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO, NoReturn, cast

import certifi
import httpcore

from superres.errors import (
    SourceNotFound,
    SourceRefused,
    SourceTimeout,
    SourceTooLarge,
    SourceUnavailable,
)
from superres.excess import Excess, show_amount
from superres.sources.connections import CheckedNetwork, Deadline, Resolve, resolve_name
from superres.sources.public_networks import Network
from superres.sources.source_url import SourceUrl, parse_source

FETCH_SECONDS = 20.0
MAX_REDIRECTS = 3
REDIRECTS = frozenset({301, 302, 303, 307, 308})
GONE = frozenset({404, 410})
PIECE_BYTES = 64 * 1024
ACCEPT = "image/*"
GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS


@dataclass(frozen=True)
class Fetched:
    """An image file as its server sent it.

    Attributes
    ----------
    file : a temporary one, with a descriptor; the holder closes it
    key : SHA-256 in hex
    headers : of the answer, names in lower case
    """

    file: BinaryIO
    key: str
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Unchanged:
    """The server confirms that what it sent before is still good.

    Attributes
    ----------
    headers : of the answer, names in lower case
    """

    headers: Mapping[str, str]


class Fetcher:
    """Fetches images.

    Parameters
    ----------
    max_bytes : largest file
    networks : where sources may be although they are not public
    loop_id : identifies this service in `CDN-Loop` (RFC 8586)
    resolve : finds a host's addresses
    """

    def __init__(
        self,
        max_bytes: int,
        networks: Sequence[Network],
        loop_id: str,
        resolve: Resolve = resolve_name,
    ) -> None:
        self._max_bytes = max_bytes
        self._networks = networks
        self._loop_id = loop_id
        self._resolve = resolve
        # Verifies with the system's certificates, or SSL_CERT_FILE's.
        self._tls = ssl.create_default_context()
        if not self._tls.get_ca_certs():
            self._tls.load_verify_locations(certifi.where())

    def fetch(self, source: str, conditions: Mapping[str, str]) -> Fetched | Unchanged:
        """Fetch an image.

        Parameters
        ----------
        conditions : headers `If-None-Match` and `If-Modified-Since`, if it may be unchanged

        Raises
        ------
        SourceRefused, SourceNotFound, SourceTooLarge, SourceUnavailable, SourceTimeout
            See their messages.
        """
        deadline = Deadline(FETCH_SECONDS)
        url = parse_source(source)
        network = CheckedNetwork(deadline, self._networks, self._resolve)
        try:
            with httpcore.ConnectionPool(
                self._tls, max_keepalive_connections=0, network_backend=network
            ) as pool:
                for _ in range(MAX_REDIRECTS + 1):
                    answer = self._ask(pool, url, conditions)
                    if not isinstance(answer, SourceUrl):
                        return answer
                    url = answer
        except httpcore.TimeoutException:
            raise SourceTimeout("The source does not answer.") from None
        except (httpcore.NetworkError, ssl.SSLError):
            raise SourceUnavailable("The source cannot be reached.") from None
        except (httpcore.ProtocolError, httpcore.UnsupportedProtocol):
            raise SourceUnavailable("The source's answer was malformed or cut short.") from None
        raise SourceRefused(f"The source redirects more than {MAX_REDIRECTS} times.")

    def _ask(
        self, pool: httpcore.ConnectionPool, url: SourceUrl, conditions: Mapping[str, str]
    ) -> Fetched | Unchanged | SourceUrl:
        """Send one request; return the image, or where it was redirected to."""
        headers = {
            "Host": url.authority,
            "User-Agent": "superres",
            "Accept": ACCEPT,
            "Accept-Encoding": "identity",
            "CDN-Loop": self._loop_id,
            **conditions,
        }
        address = httpcore.URL(scheme=url.scheme, host=url.host, port=url.port, target=url.target)
        with pool.stream("GET", address, headers=[*headers.items()]) as response:
            found = read_headers(response.headers)
            if response.status in REDIRECTS and "location" in found:
                return url.follow(found["location"])
            if response.status == 304 and conditions:
                return Unchanged(found)
            if response.status in GONE:
                raise SourceNotFound("The source does not exist.")
            if response.status != 200:
                raise SourceUnavailable(f"The source answers with status {response.status}.")
            length = found.get("content-length", "")
            if length.isdecimal() and int(length) > self._max_bytes:
                self._refuse_large(int(length))
            pieces = decompress(response.iter_stream(), found.get("content-encoding", "identity"))
            return self._keep(pieces, found)

    def _keep(self, pieces: Iterable[bytes], headers: Mapping[str, str]) -> Fetched:
        """Copy an image to a temporary file."""
        file = tempfile.TemporaryFile()  # noqa: SIM115  # returned open
        digest = hashlib.sha256()
        try:
            size = 0
            for piece in pieces:
                size += len(piece)
                if size > self._max_bytes:
                    self._refuse_large(None)
                digest.update(piece)
                file.write(piece)
            if not size:
                raise SourceUnavailable("The source sends an empty file.")
        except BaseException:
            file.close()
            raise
        return Fetched(cast(BinaryIO, file), digest.hexdigest(), headers)

    def _refuse_large(self, size_bytes: int | None) -> NoReturn:
        most = show_amount(self._max_bytes, "bytes")
        raise SourceTooLarge(
            f"The source has more than {most}, the most accepted.",
            excess=Excess("upload_bytes", self._max_bytes, size_bytes),
        )


def read_headers(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return headers by their names in lower case; those sent twice are joined."""
    found: dict[str, str] = {}
    for name, value in headers:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        found[key] = f"{found[key]}, {text}" if key in found else text
    return found


def decompress(pieces: Iterable[bytes], coding: str) -> Iterator[bytes]:
    """Undo a content coding, a bounded piece at a time.

    None was asked for, but stores send files as they were uploaded.

    Raises
    ------
    SourceUnavailable
        The coding is not supported, or the content is damaged.
    """
    name = coding.strip().lower()
    if name in {"identity", ""}:
        yield from pieces
        return
    if name not in {"gzip", "x-gzip", "deflate"}:
        raise SourceUnavailable("The source sends its image compressed, and not as gzip.")
    decoder = zlib.decompressobj(GZIP_OR_ZLIB)
    try:
        for piece in pieces:
            rest = piece
            while rest and not decoder.eof:
                yield decoder.decompress(rest, PIECE_BYTES)
                rest = decoder.unconsumed_tail
    except zlib.error:
        raise SourceUnavailable("The source sends damaged gzip.") from None
    if not decoder.eof:
        raise SourceUnavailable("The source's answer was malformed or cut short.")
