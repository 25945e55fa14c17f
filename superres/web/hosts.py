"""Checks that a request's Host is one of the service's own names, against DNS rebinding.

With DNS rebinding, a page at evil.example reaches the service under that name: to the browser they
are the same origin, so neither CORS nor `Origin` tells them apart. Only the Host does.
"""

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from flask import Flask, request
from werkzeug.sansio.utils import host_is_trusted

from superres.errors import BadRequest, UntrustedHost
from superres.settings import Settings

LOOPBACK_NAMES = ("localhost", ".localhost")
# Names that no public DNS server can resolve for an attacker.
LOCAL_DOMAINS = (".local", ".lan", ".internal")
# Pages of any origin may read these anyway (access.py), also under a CDN's name.
PUBLIC_PATHS = ("/cache/", "/image/", "/static/")


def is_own_host(host: str, named: Collection[str]) -> bool:
    """Tell whether a Host is the service's own.

    IP addresses and localhost always are: they involve no DNS that could lie. Other names are if
    the operator has listed them or, with an empty list, if they are local.

    Parameters
    ----------
    host : well-formed, perhaps with a port
    named : names listed by the operator, in lower case; `.sr.example` includes its subdomains
    """
    name = (urlsplit(f"//{host}").hostname or "").removesuffix(".")
    if is_address(name) or host_is_trusted(name, LOOPBACK_NAMES):
        return True
    if named:
        return host_is_trusted(name, named)
    return bool(name) and ("." not in name or host_is_trusted(name, LOCAL_DOMAINS))


def is_address(name: str) -> bool:
    """Tell whether a host name is an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def refuse_malformed_host() -> None:
    """Reject a request without a valid Host (RFC 9112, section 3.2).

    Raises
    ------
    BadRequest
        The Host is missing, though the HTTP version requires one, or malformed.
    """
    if "Host" not in request.headers and request.environ.get("SERVER_PROTOCOL") != "HTTP/1.0":
        raise BadRequest("The Host header is missing; HTTP/1.1 requires one.")
    if not request.host:
        raise BadRequest("The Host header is malformed; send a name or address, maybe with a port.")


def refuse_untrusted_host(named: Collection[str]) -> None:
    """Reject a browser that came here under a name that is not the service's own.

    Only browsers send `Origin` or `Sec-Fetch-Site`; curl and load balancers cannot be misled.

    Raises
    ------
    UntrustedHost
        The name is not the service's own.
    """
    if "Origin" not in request.headers and "Sec-Fetch-Site" not in request.headers:
        return
    if request.path.startswith(PUBLIC_PATHS) or is_own_host(request.host, named):
        return
    name = urlsplit(f"//{request.host}").hostname
    raise UntrustedHost(
        f"The service does not know the host name {name} that this browser used. If it is yours, "
        f"set SR_TRUSTED_HOSTS={name}, or SR_PUBLIC_URL to the address of the service."
    )


def install_hosts(app: Flask, settings: Settings) -> None:
    """Register the checks of the Host, which behind trusted proxies is the forwarded one."""
    named = list(settings.trusted_hosts)
    if settings.public_url:
        named.append(urlsplit(settings.public_url).hostname or "")
    app.before_request(refuse_malformed_host)
    app.before_request(lambda: refuse_untrusted_host(named))
