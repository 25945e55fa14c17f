"""Addresses of sources, parsed once: two parsers could disagree about the host."""

import hashlib
import re
from dataclasses import dataclass
from ipaddress import IPv6Address
from string import printable
from urllib.parse import quote, urljoin, urlsplit

from superres.errors import SourceRefused
from superres.origins import DEFAULT_PORTS, HOST_PATTERN, encode_name

MAX_LENGTH = 2000
# `urlsplit` removes some of these, as browsers do, so that they could hide what an address is.
CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f]")
# `urlsplit` also ignores what surrounds the brackets of an IPv6 address.
AUTHORITY_PATTERN = re.compile(r"(\[[^\[\]]*\]|[^\[\]:]*)(:[0-9]*)?")
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
        """Return the address in its normal form."""
        return f"{self.scheme}://{self.authority}{self.target}"

    def follow(self, location: str) -> "SourceUrl":
        """Return where a redirect leads.

        Parameters
        ----------
        location : the header, decoded as Latin-1

        Raises
        ------
        SourceRefused
            See `parse_source`.
        """
        # Servers also send paths as they have them, in UTF-8.
        encoded = quote(location.strip().encode("latin-1"), safe=printable)
        try:
            return parse_source(urljoin(str(self), encoded))
        except ValueError:
            raise SourceRefused("The source redirects to a malformed address.") from None


def parse_source(text: str) -> SourceUrl:
    """Parse the address of a source.

    Raises
    ------
    SourceRefused
        It is not http or https, has a user name, or is malformed or too long.
    """
    if len(text) > MAX_LENGTH:
        raise too_long()
    try:
        parts = urlsplit(text)
        port = parts.port
        host = normalize_host(parts.hostname or "")
    except ValueError:
        raise SourceRefused("The source's address is malformed.") from None
    if parts.scheme not in DEFAULT_PORTS:
        raise SourceRefused("The source's address must begin with https:// or http://.")
    if CONTROL_CHARACTERS.search(text):
        raise SourceRefused("The source's address must not contain control characters.")
    if "@" in parts.netloc:
        raise SourceRefused("The source's address must not contain a user name.")
    authority = AUTHORITY_PATTERN.fullmatch(parts.netloc)
    # IPv6 addresses, and nothing else, are in brackets.
    if not host or port == 0 or not authority or authority[1].startswith("[") != (":" in host):
        raise SourceRefused("The source's address has no valid host.")
    target = quote(parts.path or "/", safe=RESERVED)
    if parts.query:
        target += "?" + quote(parts.query, safe=RESERVED)
    url = SourceUrl(parts.scheme, host, port or DEFAULT_PORTS[parts.scheme], target)
    if len(str(url)) > MAX_LENGTH:
        raise too_long()
    return url


def normalize_host(host: str) -> str:
    """Return a host in the form that is looked up; empty if it has characters that no host has.

    Raises
    ------
    ValueError
        It is a malformed IPv6 address, or an international name without an ASCII form.
    """
    if ":" in host:
        return "" if "%" in host else write_ipv6(IPv6Address(host))
    if not host.isascii():
        host = encode_name(host)
    return host if HOST_PATTERN.fullmatch(host) else ""


def write_ipv6(address: IPv6Address) -> str:
    """Write an address as browsers do, without dots, which Python has from 3.13 on."""
    if address.ipv4_mapped is None:
        return str(address)
    return "::ffff:{:x}:{:x}".format(*divmod(int(address.ipv4_mapped), 1 << 16))


def too_long() -> SourceRefused:
    """Make the error for an address that is too long."""
    return SourceRefused(f"The source's address is longer than {MAX_LENGTH} characters.")


def hash_address(source: str) -> str:
    """Return what is stored instead of an address, which may be long, or confidential."""
    return hashlib.sha256(source.encode()).hexdigest()
