"""What servers' responses, and their silence, mean to the user of the command line."""

import errno
import socket
import ssl
import urllib.request
from collections.abc import Iterator
from typing import Any

import httpx

# OpenSSL's X509_V_ERR_…: expired or not yet valid; issued for another name or address.
WRONG_TIME = frozenset({9, 10})
WRONG_NAME = frozenset({62, 64})
NO_ROUTE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH})


class EnhanceError(Exception):
    """An image cannot be upscaled; the text is for the user."""


class Unusable(Exception):
    """No image can be upscaled at all; the text is for the user."""


class Interrupted(Exception):
    """Ctrl-C was pressed."""


def origin(url: httpx.URL) -> str:
    """Return a URL's scheme, host and port."""
    return f"{url.scheme}://{url.netloc.decode()}"


def read_json(answer: httpx.Response, *names: str) -> dict[str, Any]:
    """Return a response's members, which must include these names."""
    try:
        members = answer.json()
    except ValueError:
        members = None
    if isinstance(members, dict) and members.keys() >= set(names):
        return members
    raise Unusable(describe_stranger(answer))


def read_picture(answer: httpx.Response) -> bytes:
    """Return the image in a response; refuse a proxy's HTML page."""
    if answer.headers.get("Content-Type", "image/").startswith("image/"):
        return answer.content
    raise EnhanceError(describe_stranger(answer))


def explain_refusal(answer: httpx.Response) -> str:
    """Return an error's message; a proxy in front may not speak JSON."""
    try:
        words = str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        return describe_stranger(answer)
    # Shows the user an extra path in --url.
    where = f" ({answer.url.copy_with(query=None)})" if answer.status_code == 404 else ""
    return words + where


def describe_stranger(answer: httpx.Response) -> str:
    """Return what to do about a response that is not from this service."""
    kind = answer.headers.get("Content-Type", "").partition(";")[0] or "no type"
    return (
        f"{origin(answer.url)} answered {answer.status_code} with {kind}, unlike this service: "
        "is --url right, or does something in front of it ask for a login?"
        + mention_proxy(answer.url)
    )


def mention_proxy(url: httpx.URL) -> str:
    """Return how to bypass the environment's proxy, if there is one."""
    if not urllib.request.getproxies().keys() & {url.scheme, "all"}:
        return ""
    is_direct = urllib.request.proxy_bypass(url.host)
    return "" if is_direct else f" A proxy was used: NO_PROXY={url.host} bypasses it."


def explain_silence(error: httpx.RequestError) -> str:
    """Return why a request got no response, and what to do."""
    url = error.request.url
    who = origin(url)
    words = next(filter(None, (explain_cause(each, who) for each in causes_of(error))), None)
    if words is None:
        words = f"{who} closed the connection."
        if isinstance(error, httpx.TimeoutException):
            words = f"{who} did not respond in time."
        elif isinstance(error, (httpx.TooManyRedirects, httpx.UnsupportedProtocol)):
            words = f"{who} redirects in a loop, or to something that is not a web address."
        elif isinstance(error, httpx.ProxyError):
            words = f"The proxy cannot reach {who}."
    return words + mention_proxy(url)


def causes_of(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its chain of causes."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def explain_cause(cause: BaseException, who: str) -> str | None:
    """Return what a connection error means to the user; None if nothing helpful."""
    if isinstance(cause, ssl.SSLCertVerificationError):
        if cause.verify_code in WRONG_TIME:
            return f"The certificate of {who} is out of date, or this machine's clock is wrong."
        if cause.verify_code in WRONG_NAME:
            return f"The certificate of {who} is for another name: use that name."
        return (
            f"The certificate of {who} comes from an authority that this machine does not trust. "
            "If it is right, set SSL_CERT_FILE to it or to the authority's certificate (PEM)."
        )
    if isinstance(cause, ssl.SSLError):
        return f"{who} does not speak TLS: should it be http://?"
    if isinstance(cause, socket.gaierror):
        return f"The host name of {who} cannot be resolved: is it right, and is the network up?"
    if isinstance(cause, ConnectionRefusedError):
        return f"Nothing is listening at {who}: is the server running, and is the address right?"
    if isinstance(cause, OSError) and cause.errno in NO_ROUTE:
        return f"There is no network route to {who}."
    return None
