"""Web origins as browsers serialize them, so that a request's `Origin` can be compared as text."""

import re
from urllib.parse import SplitResult, urlsplit

import idna

# flask-cors treats an origin with any of these as a regular expression, matched unanchored.
REGEX_CHARACTERS = frozenset("*\\]?$^[()")
DEFAULT_PORTS = {"http": 80, "https": 443}
SCHEME_PATTERN = re.compile(r"[a-z][a-z0-9+.-]*")
HOST_PATTERN = re.compile(r"[a-z0-9._-]+")
# Browsers send `null` for such pages (some WebViews `file://`), as for any sandboxed frame.
OPAQUE = frozenset({"null", "about", "blob", "data", "file", "javascript"})
# No page is loaded with these.
WITHOUT_PAGES = frozenset({"ftp", "ws", "wss"})


def encode_name(host: str) -> str:
    """Return an international host name in its ASCII form, `xn--...` (UTS 46).

    Raises
    ------
    ValueError
        It has no such form.
    """
    try:
        return idna.encode(host, uts46=True).decode()
    except idna.IDNAError:
        raise ValueError(f"{host!r} must be written as browsers send it, xn--...") from None


def serialize_origin(parts: SplitResult) -> str:
    """Return a URL's origin as browsers send it.

    In lower case, without the default port; an international name in its ASCII form if the
    scheme's hosts are names (for browsers, only http and https).

    Raises
    ------
    ValueError
        The host or port is malformed.
    """
    host = parts.hostname or ""
    if ":" in host:
        host = f"[{host}]"
    else:
        if not host.isascii() and parts.scheme in DEFAULT_PORTS:
            host = encode_name(host)
        if not HOST_PATTERN.fullmatch(host):
            raise ValueError(f"{host!r} is not a host name")
    port = parts.port
    if port is None or port == DEFAULT_PORTS.get(parts.scheme):
        return f"{parts.scheme}://{host}"
    return f"{parts.scheme}://{host}:{port}"


def parse_origin(text: str) -> str:
    """Read one origin: scheme and host with an optional port (RFC 6454).

    The scheme may be that of an app or an extension, such as capacitor or chrome-extension.

    Raises
    ------
    ValueError
        It is not an origin, or not one that sets its pages apart from others.
    """
    origin = text.strip().rstrip("/").lower()
    if origin.partition(":")[0] in OPAQUE:
        raise ValueError(f"browsers send {text!r} as null, which any page can send too")
    if REGEX_CHARACTERS & set(origin):
        raise ValueError(f"{text!r} contains a character that would make it a pattern")
    parts = urlsplit(origin)
    is_scheme = SCHEME_PATTERN.fullmatch(parts.scheme) and parts.scheme not in WITHOUT_PAGES
    if not is_scheme or not parts.hostname:
        raise ValueError(f"{text!r} is not an origin such as https://app.example")
    if origin != f"{parts.scheme}://{parts.netloc}" or "@" in parts.netloc:
        raise ValueError(f"{text!r} is more than scheme, host and port")
    return serialize_origin(parts)


def parse_origins(text: str) -> tuple[str, ...]:
    """Read origins separated by commas; ``*`` or nothing means any origin."""
    if text.strip() in {"", "*"}:
        return ()
    return tuple(parse_origin(part) for part in text.split(",") if part.strip())
