"""Which names are the service's own, and what is refused at any other.

By DNS rebinding a page at evil.example reaches the service under that name: for the browser they
are one origin, so that neither CORS nor `Origin` tells them apart. Only the Host does.
"""

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from flask import Flask, request
from werkzeug.sansio.utils import host_is_trusted

from superres.errors import BadRequest, UntrustedHost
from superres.settings import Settings

LOOPBACK_NAMES = ("localhost", ".localhost")
# Names that no public name server can point to a stranger's address.
LOCAL_DOMAINS = (".local", ".lan", ".internal")
# What pages of any origin may read anyway (access.py), from a CDN's name too.
PUBLIC_PATHS = ("/cache/", "/static/")


def is_own_host(host: str, named: Collection[str]) -> bool:
    """Tell whether a Host is the service's own.

    Addresses and localhost always are: a page there needed no name server that could lie. Other
    names are if the operator has named them, or where none is named, if they are local ones.

    Parameters
    ----------
    host : well-formed, perhaps with a port
    named : what the operator has named, in lower case; `.sr.example` are all names below it too
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
    """Refuse a request without a Host that says where it was sent (RFC 9112, section 3.2).

    Raises
    ------
    BadRequest
        It has none, though its version asks for one, or a malformed one.
    """
    if "Host" not in request.headers and request.environ.get("SERVER_PROTOCOL") != "HTTP/1.0":
        raise BadRequest("The Host is missing; HTTP/1.1 asks for one.")
    if not request.host:
        raise BadRequest("The Host is malformed; send a name or an address, perhaps with a port.")


def refuse_untrusted_host(named: Collection[str]) -> None:
    """Refuse a browser that was led here by a name that is not the service's own.

    Browsers alone say `Origin` or `Sec-Fetch-Site`; nothing leads curl or a load balancer astray.

    Raises
    ------
    UntrustedHost
        It was.
    """
    if "Origin" not in request.headers and "Sec-Fetch-Site" not in request.headers:
        return
    if request.path.startswith(PUBLIC_PATHS) or is_own_host(request.host, named):
        return
    name = urlsplit(f"//{request.host}").hostname
    raise UntrustedHost(
        f"The service does not know the name {name}, by which this browser reached it. If it is "
        f"yours, set SR_TRUSTED_HOSTS={name}, or SR_PUBLIC_URL to the address of the service."
    )


def install_hosts(app: Flask, settings: Settings) -> None:
    """Register the checks of the Host; behind trusted proxies it is the forwarded one."""
    named = list(settings.trusted_hosts)
    if settings.public_url:
        named.append(urlsplit(settings.public_url).hostname or "")
    app.before_request(refuse_malformed_host)
    app.before_request(lambda: refuse_untrusted_host(named))
