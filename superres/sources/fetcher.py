"""Fetches images from their servers, within limits of bytes, time and networks."""

import errno
import hashlib
import re
import ssl
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO, NoReturn, cast

import certifi
import httpcore

from superres.errors import (
    Busy,
    SourceNotFound,
    SourceRefused,
    SourceTimeout,
    SourceTooLarge,
    SourceUnavailable,
)
from superres.excess import Excess, show_amount
from superres.setting_parsers import Network
from superres.sources.connections import (
    Allowance,
    CheckedNetwork,
    Resolve,
    Resolver,
    resolve_name,
)
from superres.sources.freshness import read_date
from superres.sources.source_url import SourceUrl, hash_address, parse_source

FETCH_SECONDS = 20.0
MAX_REDIRECTS = 3
REDIRECTS = frozenset({301, 302, 303, 307, 308})
GONE = frozenset({404, 410})
PIECE_BYTES = 64 * 1024
ACCEPT = "image/*"
GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
# What may be received for each byte of the largest file: chunks, and what does not compress.
OVERHEAD = 2
HEADER_BYTES = 512 * 1024
# Smaller pieces, on average, would take seconds of the processor's time.
LEAST_PIECE_BYTES = 64
SPARE_PIECES = 1000
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
NO_ROOM_RETRY_SECONDS = 60
# Only what the grammar allows is stored and sent back, within a length that servers keep to
# (RFC 9110, section 8.8.3); of other characters than ASCII's nobody knows what they become.
ETAG_PATTERN = re.compile(r'(?:W/)?"[\x21\x23-\x7e]{0,256}"')
MAX_DATE_LENGTH = 40

Headers = Mapping[str, str]


@dataclass(frozen=True)
class Validators:
    """What identifies a version of a file to its server (RFC 9110, section 8.8).

    Attributes
    ----------
    location : hash of the address that sent it, after redirects: to others it means nothing
    etag, last_modified : headers; empty if there are none
    """

    location: str = ""
    etag: str = ""
    last_modified: str = ""

    def conditions(self, url: SourceUrl) -> dict[str, str]:
        """Return the headers that ask a server whether the file has changed; none elsewhere."""
        if hash_address(str(url)) != self.location:
            return {}
        named = {"If-None-Match": self.etag, "If-Modified-Since": self.last_modified}
        return {name: value for name, value in named.items() if value}


def read_validators(url: SourceUrl, headers: Headers) -> Validators:
    """Return the validators of an answer, those that are valid."""
    etag, modified = headers.get("etag", ""), headers.get("last-modified", "")
    if not ETAG_PATTERN.fullmatch(etag):
        etag = ""
    if len(modified) > MAX_DATE_LENGTH or not modified.isascii() or read_date(modified) is None:
        modified = ""
    return Validators(hash_address(str(url)), etag, modified)


@dataclass(frozen=True)
class Fetched:
    """An image file as its server sent it.

    Attributes
    ----------
    file : a temporary one, with a descriptor, at its start; the holder closes it
    key : SHA-256 in hex
    validators : its own
    answers : headers of the redirects that led to it, and of the image; names in lower case
    """

    file: BinaryIO
    key: str
    validators: Validators
    answers: Sequence[Headers]


@dataclass(frozen=True)
class Unchanged:
    """The server confirms that what it sent before is still good.

    Attributes
    ----------
    validators : those it has now
    answers : headers of the redirects that led to it, and of the confirmation
    """

    validators: Validators
    answers: Sequence[Headers]


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
        self._resolver = Resolver(resolve)
        # Verifies with the system's certificates, or SSL_CERT_FILE's.
        self._tls = ssl.create_default_context()
        if not self._tls.get_ca_certs():
            self._tls.load_verify_locations(certifi.where())

    def fetch(self, source: str, known: Validators | None = None) -> Fetched | Unchanged:
        """Fetch an image.

        Parameters
        ----------
        known : of the file that was sent before, if it may be unchanged

        Raises
        ------
        SourceRefused, SourceNotFound, SourceTooLarge, SourceUnavailable, SourceTimeout
            See their messages.
        Busy
            The disk is full.
        """
        allowance = Allowance(FETCH_SECONDS, HEADER_BYTES)
        url = parse_source(source)
        network = CheckedNetwork(allowance, self._networks, self._resolver)
        redirects: list[Headers] = []
        try:
            with httpcore.ConnectionPool(
                self._tls, max_keepalive_connections=0, network_backend=network
            ) as pool:
                while len(redirects) <= MAX_REDIRECTS:
                    answer = self._ask(pool, url, known, redirects, allowance)
                    if not isinstance(answer, SourceUrl):
                        return answer
                    url = answer
        except httpcore.TimeoutException:
            raise SourceTimeout("The source does not answer.") from None
        except (httpcore.NetworkError, ssl.SSLError):
            raise SourceUnavailable("The source cannot be reached.") from None
        except (httpcore.ProtocolError, httpcore.UnsupportedProtocol):
            raise SourceUnavailable("The source's answer was malformed or cut short.") from None
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            raise Busy(
                "There is no room on the disk for an image now; try again later.",
                NO_ROOM_RETRY_SECONDS,
            ) from error
        raise SourceRefused(f"The source redirects more than {MAX_REDIRECTS} times.")

    def _ask(
        self,
        pool: httpcore.ConnectionPool,
        url: SourceUrl,
        known: Validators | None,
        redirects: list[Headers],
        allowance: Allowance,
    ) -> Fetched | Unchanged | SourceUrl:
        """Send one request; return the image, or where it was redirected to."""
        conditions = known.conditions(url) if known else {}
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
                redirects.append(found)
                return url.follow(found["location"])
            answers = [*redirects, found]
            if response.status == 304 and conditions and known:
                # What it does not mention stays (RFC 9111, section 4.3.4).
                new = read_validators(url, found)
                etag, modified = new.etag or known.etag, new.last_modified or known.last_modified
                return Unchanged(Validators(known.location, etag, modified), answers)
            if response.status in GONE:
                raise SourceNotFound("The source does not exist.")
            if response.status != 200:
                raise SourceUnavailable(f"The source answers with status {response.status}.")
            length = found.get("content-length", "")
            if length.isdecimal() and int(length) > self._max_bytes:
                self._refuse_large(int(length))
            allowance.allow_bytes(OVERHEAD * self._max_bytes)
            coding = found.get("content-encoding", "identity")
            file, key = self._keep(decompress(response.iter_stream(), coding))
            return Fetched(file, key, read_validators(url, found), answers)

    def _keep(self, pieces: Iterable[bytes]) -> tuple[BinaryIO, str]:
        """Copy an image to a temporary file; return that and its SHA-256."""
        file = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115  # returned open
        digest = hashlib.sha256()
        try:
            size = 0
            for number, piece in enumerate(pieces):
                size += len(piece)
                if size > self._max_bytes:
                    self._refuse_large(None)
                if number > self._max_bytes // LEAST_PIECE_BYTES + SPARE_PIECES:
                    raise SourceUnavailable("The source sends its image in too small pieces.")
                digest.update(piece)
                file.write(piece)
            if not size:
                raise SourceUnavailable("The source sends an empty file.")
            file.seek(0)
        except BaseException:
            file.close()
            raise
        return file, digest.hexdigest()

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
            if decoder.eof:
                return
    except zlib.error:
        raise SourceUnavailable("The source sends damaged gzip.") from None
    raise SourceUnavailable("The source's answer was malformed or cut short.")
