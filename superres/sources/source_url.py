"""Addresses of sources, parsed once: two parsers could disagree about the host."""

import re
from dataclasses import dataclass
from urllib.parse import quote, urljoin, urlsplit

from superres.errors import SourceRefused
from superres.origins import DEFAULT_PORTS, encode_name

MAX_LENGTH = 2000
UNWANTED = re.compile(r"[\x00-\x20\x7f\\]")
# What `quote` leaves alone: characters with a meaning in URLs, and what is encoded already.
RESERVED = "!$&'()*+,;=:@/?%~"


@dataclass(frozen=True)
class SourceUrl:
    """An http or https address.

    Attributes
    ----------
    scheme : http or https
    host : name in its ASCII form, or IP address without brackets
    port : of TCP
    target : path and query, percent-encoded
    """

    scheme: str
    host: str
    port: int
    target: str

    @property
    def authority(self) -> str:
        """Host and port as in the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        """Return the address."""
        return f"{self.scheme}://{self.authority}{self.target}"

    def follow(self, location: str) -> "SourceUrl":
        """Return where a redirect leads.

        Raises
        ------
        SourceRefused
            See `parse_source`.
        """
        return parse_source(urljoin(str(self), location.strip()))


def parse_source(text: str) -> SourceUrl:
    """Parse the address of a source.

    Raises
    ------
    SourceRefused
        It is not http or https, has a user name, or is malformed or too long.
    """
    if len(text) > MAX_LENGTH:
        raise SourceRefused(f"The source's address is longer than {MAX_LENGTH} characters.")
    try:
        parts = urlsplit(text)
        port = parts.port
        host = parts.hostname or ""
        if not host.isascii():
            host = encode_name(host)
    except ValueError:
        raise SourceRefused("The source's address is malformed.") from None
    if parts.scheme not in DEFAULT_PORTS:
        raise SourceRefused("The source's address must begin with https:// or http://.")
    if not host or UNWANTED.search(parts.netloc) or "%" in host or port == 0:
        raise SourceRefused("The source's address has no valid host.")
    if "@" in parts.netloc:
        raise SourceRefused("The source's address must not contain a user name.")
    target = quote(parts.path or "/", safe=RESERVED)
    if parts.query:
        target += "?" + quote(parts.query, safe=RESERVED)
    return SourceUrl(parts.scheme, host, port or DEFAULT_PORTS[parts.scheme], target)
