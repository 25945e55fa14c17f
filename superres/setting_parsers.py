"""Parsers for settings: each function reads one kind of value, or says what it must be."""

import ipaddress
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import limits
from limits import RateLimitItem

from superres.origins import serialize_origin
from superres.paths import MODEL_FILE_NAME, RESTORE_MODEL_PATH

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
# One that signs, and one that was replaced and still verifies.
MAX_KEYS = 2
LEAST_KEY_LENGTH = 32
MAX_PORT = 65_535
# Beyond any use, but not beyond what databases store and sockets wait.
MOST, MOST_SECONDS = 10**12, 10**9
URL_PATTERN = re.compile(r"[A-Za-z0-9:/._~%\[\]-]+")
HOST_PATTERN = re.compile(r"\.?[a-z0-9-]+(\.[a-z0-9-]+)*")


def parse_bind(text: str) -> str:
    """Read addresses to listen on, separated by commas, as gunicorn takes them."""
    for part in text.split(","):
        port = part.rpartition(":")[2].strip()
        # Of all that can be wrong with them, gunicorn does not say what this is.
        if port.isdecimal() and int(port) > MAX_PORT:
            raise ValueError(f"a port must be at most {MAX_PORT}")
    return text.strip()


def parse_path(text: str) -> Path:
    """Read a path; ``~`` is the home folder."""
    try:
        path = Path(text).expanduser()
        path.exists()
    except RuntimeError:
        raise ValueError("must be in a home folder that exists") from None
    except OSError as error:
        raise ValueError(f"cannot be used: {error.strerror}") from None
    return path


def parse_model_path(text: str, file_name: str = MODEL_FILE_NAME) -> Path:
    """Read the path of a model file, or of a folder that holds one of this name."""
    path = parse_path(text)
    return path / file_name if path.is_dir() else path


def parse_restore_path(text: str) -> Path | None:
    """Read the path of a model file, or of a folder that holds ``EDSR_x3_restore.pb``; or none."""
    if text.strip().lower() == "none":
        return None
    return parse_model_path(text, RESTORE_MODEL_PATH.name)


def parse_number(text: str, most: int) -> int:
    """Read a whole number."""
    try:
        number = int(text)
    except ValueError:
        raise ValueError("must be a whole number") from None
    if number > most:
        raise ValueError(f"must be at most {most}")
    return number


def parse_seconds(text: str) -> int:
    """Read how long something may take: whole seconds, at least 1."""
    return parse_positive(text, MOST_SECONDS)


def parse_positive(text: str, most: int = MOST) -> int:
    """Read a whole number of at least 1."""
    number = parse_number(text, most)
    if number < 1:
        raise ValueError("must be at least 1")
    return number


def parse_non_negative(text: str) -> int:
    """Read a whole number of at least 0."""
    number = parse_number(text, MOST)
    if number < 0:
        raise ValueError("must be at least 0")
    return number


def parse_boolean(text: str) -> bool:
    """Read true or false, in the usual spellings."""
    word = text.strip().lower()
    if word in {"true", "1", "yes", "on"}:
        return True
    if word in {"false", "0", "no", "off"}:
        return False
    raise ValueError("must be true or false")


def parse_public_url(text: str) -> str:
    """Read the URL under which clients reach the service, with its path prefix."""
    url = text.strip().rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be a URL such as https://sr.example/prefix")
    if parts.query or parts.fragment or not URL_PATTERN.fullmatch(url):
        raise ValueError("must have no query, no fragment and no unencoded characters")
    serialize_origin(parts)  # its host and port must be valid
    return url


def parse_hosts(text: str) -> tuple[str, ...]:
    """Read host names separated by commas; a leading dot includes all subdomains."""
    names = tuple(part.strip().lower() for part in text.split(",") if part.strip())
    for name in names:
        if not HOST_PATTERN.fullmatch(name):
            raise ValueError(f"{name!r} is not a name such as sr.example or .sr.example")
    return names


def parse_keys(text: str) -> tuple[str, ...]:
    """Read one or two secrets."""
    keys = tuple(part.strip() for part in text.split(",") if part.strip())
    if not 1 <= len(keys) <= MAX_KEYS:
        raise ValueError("must be one key, or two separated by a comma")
    if any(len(key) < LEAST_KEY_LENGTH or not key.isascii() for key in keys):
        raise ValueError(f"a key must have at least {LEAST_KEY_LENGTH} ASCII characters")
    return keys


def parse_networks(text: str) -> tuple[Network, ...]:
    """Read IP networks separated by commas."""
    networks = []
    for part in text.split(","):
        if part.strip():
            try:
                networks.append(ipaddress.ip_network(part.strip()))
            except ValueError:
                raise ValueError(f"{part.strip()!r} is not a network such as 10.1.0.0/16") from None
    return tuple(networks)


def parse_database_url(text: str) -> str:
    """Read the URL of a PostgreSQL database."""
    if not text.startswith(("postgresql://", "postgres://")):
        raise ValueError("must begin with postgresql://")
    return text


def parse_store_url(text: str) -> str:
    """Read the URL of a shared store."""
    url = text.strip()
    parts = urlsplit(url)
    if parts.scheme == "s3" and parts.hostname:
        return url
    if parts.scheme == "file" and not parts.netloc and parts.path.startswith("/"):
        return url
    raise ValueError("must be s3://bucket, s3://bucket/prefix or file:///folder")


def parse_scheduler(text: str) -> str:
    """Read the address of a Dask scheduler."""
    address = text.strip()
    parts = urlsplit(address)
    if parts.scheme != "tls" or not parts.hostname or not parts.port:
        raise ValueError("must be tls://host:port")
    return address


def parse_rate(text: str) -> RateLimitItem:
    """Read a rate, such as `60/minute`."""
    try:
        rates = limits.parse_many(text.strip())
    except ValueError:
        raise ValueError("must be a rate such as 60/minute") from None
    if len(rates) != 1 or rates[0].amount < 1:
        raise ValueError("must be one rate, of at least 1")
    return rates[0]


def one_of(*choices: str) -> Callable[[str], str]:
    """Return the parser of a setting that is one of some words."""

    def parse(text: str) -> str:
        choice = text.strip().lower()
        if choice not in choices:
            raise ValueError(f"must be {', '.join(choices[:-1])} or {choices[-1]}")
        return choice

    return parse
