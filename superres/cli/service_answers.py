"""What a service's answers, and its silence, mean to whoever uses the command line."""

import errno
import socket
import ssl
import urllib.request
from collections.abc import Iterator
from typing import Any

import httpx

# OpenSSL's X509_V_ERR_…: expired or not yet valid; for another name or address.
WRONG_TIME = frozenset({9, 10})
WRONG_NAME = frozenset({62, 64})
NO_ROUTE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH})


class EnhanceError(Exception):
    """An image that cannot be made; the text is for the user."""


class Unusable(Exception):
    """Nothing can be made, this image or another; the text is for the user."""


class Interrupted(Exception):
    """Ctrl-C was pressed."""


def origin(url: httpx.URL) -> str:
    """Return a URL's scheme, host and port."""
    return f"{url.scheme}://{url.netloc.decode()}"


def read_json(answer: httpx.Response, *names: str) -> dict[str, Any]:
    """Return an answer's members, which must have these names."""
    try:
        members = answer.json()
    except ValueError:
        members = None
    if isinstance(members, dict) and members.keys() >= set(names):
        return members
    raise Unusable(describe_stranger(answer))


def read_picture(answer: httpx.Response) -> bytes:
    """Return the image of an answer; a page of a proxy's is none."""
    if answer.headers.get("Content-Type", "image/").startswith("image/"):
        return answer.content
    raise EnhanceError(describe_stranger(answer))


def explain_refusal(answer: httpx.Response) -> str:
    """Return an error's words; a proxy in front may not speak JSON."""
    try:
        words = str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        return describe_stranger(answer)
    # With a path too many in --url, this tells.
    where = f" ({answer.url.copy_with(query=None)})" if answer.status_code == 404 else ""
    return words + where


def describe_stranger(answer: httpx.Response) -> str:
    """Return what to do about an answer that is not this service's."""
    kind = answer.headers.get("Content-Type", "").partition(";")[0] or "no type"
    return (
        f"{origin(answer.url)} answers with {answer.status_code} and {kind}, not as this service "
        "does: is --url right, and nothing in front that asks for a login?"
        + mention_proxy(answer.url)
    )


def mention_proxy(url: httpx.URL) -> str:
    """Return how to go round a proxy of the environment, where there is one."""
    if not urllib.request.getproxies().keys() & {url.scheme, "all"}:
        return ""
    is_direct = urllib.request.proxy_bypass(url.host)
    return "" if is_direct else f" It was asked by a proxy: NO_PROXY={url.host} goes round that."


def explain_silence(error: httpx.RequestError) -> str:
    """Return why there was no answer to a request, and what to do."""
    url = error.request.url
    who = origin(url)
    words = next(filter(None, (explain_cause(each, who) for each in causes_of(error))), None)
    if words is None:
        words = f"{who} breaks the connection off."
        if isinstance(error, httpx.TimeoutException):
            words = f"{who} does not answer in time."
        elif isinstance(error, (httpx.TooManyRedirects, httpx.UnsupportedProtocol)):
            words = f"{who} redirects in a circle, or to what is no web address."
        elif isinstance(error, httpx.ProxyError):
            words = f"The proxy does not reach {who}."
    return words + mention_proxy(url)


def causes_of(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, and what led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def explain_cause(cause: BaseException, who: str) -> str | None:
    """Return what one of a connection's errors means; None: nothing that helps."""
    if isinstance(cause, ssl.SSLCertVerificationError):
        if cause.verify_code in WRONG_TIME:
            return f"The certificate of {who} is out of date, or this machine's clock is wrong."
        if cause.verify_code in WRONG_NAME:
            return f"The certificate of {who} is for another name: use that in --url."
        return (
            f"The certificate of {who} comes from nobody whom this machine trusts. Where it is "
            "right, set SSL_CERT_FILE to it or to its authority's certificate (a PEM file)."
        )
    if isinstance(cause, ssl.SSLError):
        return f"{who} does not speak TLS: is it http://?"
    if isinstance(cause, socket.gaierror):
        return f"The name of {who} is not known: is it right, and is there a network?"
    if isinstance(cause, ConnectionRefusedError):
        return f"Nothing listens at {who}: does the service run, and is --url right?"
    if isinstance(cause, OSError) and cause.errno in NO_ROUTE:
        return f"No network leads to {who}."
    return None
