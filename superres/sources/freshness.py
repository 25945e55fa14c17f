"""How long a source's answer is fresh: RFC 9111, and the extensions of RFC 5861."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

# Longer lifetimes count as this: caches need not keep more (RFC 9111, section 1.2.2).
LONGEST_SECONDS = 2**31
FORBIDDING = frozenset({"no-store", "private"})
STRICT = frozenset({"must-revalidate", "proxy-revalidate", "no-cache"})


def parse_directives(text: str) -> dict[str, str]:
    """Read `Cache-Control`: names in lower case, and their arguments without quotes."""
    directives: dict[str, str] = {}
    for part in text.split(","):
        name, _, argument = part.strip().partition("=")
        if name:
            # Of two, the first counts (RFC 9111, section 4.2.1).
            directives.setdefault(name.lower(), argument.strip('" '))
    return directives


def read_seconds(directives: Mapping[str, str], name: str) -> float | None:
    """Return a directive's seconds; 0 if malformed, None if it is missing."""
    if name not in directives:
        return None
    text = directives[name]
    return float(min(int(text), LONGEST_SECONDS)) if text.isascii() and text.isdecimal() else 0.0


def read_date(text: str | None) -> float | None:
    """Return an HTTP date in seconds since the epoch; None if missing or malformed."""
    try:
        return None if text is None else parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None


@dataclass(frozen=True)
class Freshness:
    """How long an answer may be used without asking the source again.

    Attributes
    ----------
    validated : when the source sent or confirmed it, seconds since the epoch
    lifetime : seconds from then on for which it is fresh
    directives : the source's `Cache-Control`
    """

    validated: float
    lifetime: float
    directives: str = ""

    def age(self, now: float) -> float:
        """Return the seconds since it was validated; 0 if the clock was set back."""
        return max(now - self.validated, 0.0)

    def is_fresh(self, now: float) -> bool:
        """Tell whether the source need not be asked."""
        return self.age(now) < self.lifetime and self.validated <= now + 1

    @property
    def is_forbidden(self) -> bool:
        """Whether other caches must not keep what is made from it."""
        return not FORBIDDING.isdisjoint(parse_directives(self.directives))

    @property
    def is_strict(self) -> bool:
        """Whether it must not be used when it is stale, not even while the source is down."""
        directives = parse_directives(self.directives)
        return self.is_forbidden or not STRICT.isdisjoint(directives)

    @property
    def extensions(self) -> str:
        """What caches are told of stale copies: RFC 5861's directives, as the source has them."""
        directives = parse_directives(self.directives)
        kept = []
        for name in ("stale-while-revalidate", "stale-if-error"):
            seconds = read_seconds(directives, name)
            if seconds is not None:
                kept.append(f"{name}={seconds:.0f}")
        if not STRICT.isdisjoint(directives):
            kept.append("must-revalidate")
        return "".join(f", {each}" for each in kept)


def read_freshness(headers: Mapping[str, str], default_seconds: float) -> Freshness:
    """Return the freshness of an answer that has just arrived.

    Parameters
    ----------
    headers : names in lower case
    default_seconds : the lifetime where the source says nothing
    """
    now = time.time()
    text = headers.get("cache-control", "")
    directives = parse_directives(text)
    if {"no-cache", *FORBIDDING} & directives.keys():
        return Freshness(now, 0.0, text)
    lifetime = read_seconds(directives, "s-maxage")
    if lifetime is None:
        lifetime = read_seconds(directives, "max-age")
    if lifetime is None and "expires" in headers:
        # A malformed date is in the past (RFC 9111, section 5.3).
        expires = read_date(headers["expires"])
        sent = read_date(headers.get("date"))
        lifetime = 0.0 if expires is None else expires - (now if sent is None else sent)
    if lifetime is None:
        return Freshness(now, default_seconds, text)
    spent = headers.get("age", "0")
    age = float(spent) if spent.isascii() and spent.isdecimal() else 0.0
    return Freshness(now, max(min(lifetime - age, LONGEST_SECONDS), 0.0), text)
