"""Which IP addresses sources may have: public ones, and networks that the operator names.

Without this, whoever signs addresses, or owns a source's name, could make the service read what
only it can reach (server-side request forgery; OWASP's SSRF prevention cheat sheet).
"""

import ipaddress
from collections.abc import Sequence

from superres.setting_parsers import Network

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# An IPv4 address in its last 32 bits is what a gateway connects to (RFC 6052).
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# `ipaddress` counts these as global, at least in some versions of Python.
NOT_PUBLIC: tuple[Network, ...] = (
    ipaddress.IPv4Network("100.64.0.0/10"),  # carriers' own (RFC 6598), and Alibaba's metadata
    ipaddress.IPv4Network("168.63.129.16/32"),  # Azure's host
    ipaddress.IPv4Network("192.0.0.0/24"),  # protocol assignments, and Oracle's metadata
    ipaddress.IPv4Network("192.88.99.0/24"),  # 6to4 relays, deprecated (RFC 7526)
    ipaddress.IPv6Network("::/8"),  # among them IPv4-compatible addresses
    ipaddress.IPv6Network("64:ff9b:1::/48"),  # translation within a site (RFC 8215)
    ipaddress.IPv6Network("2001::/32"),  # Teredo, which contains IPv4 addresses
    ipaddress.IPv6Network("2002::/16"),  # 6to4, likewise
    ipaddress.IPv6Network("3fff::/20"),  # documentation (RFC 9637)
    ipaddress.IPv6Network("5f00::/16"),  # segment routing (RFC 9602)
    ipaddress.IPv6Network("fec0::/10"),  # site-local, deprecated (RFC 3879)
)


def unwrap(address: Address) -> Address:
    """Return the IPv4 address that a connection to an IPv6 address reaches, if it is one's form."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in NAT64:
        return ipaddress.IPv4Address(address.packed[-4:])
    return address


def is_allowed(address: Address, named: Sequence[Network] = ()) -> bool:
    """Tell whether sources may be fetched from an IP address.

    Parameters
    ----------
    named : networks that are allowed although they are not public
    """
    address = unwrap(address)
    if any(address in network for network in named):
        return True
    if address.is_multicast or not address.is_global:
        return False
    return not any(address in network for network in NOT_PUBLIC)
