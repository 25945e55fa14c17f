"""How long a source's answer is fresh: RFC 9111, and the extensions of RFC 5861."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import reduce
from urllib.request import parse_http_list

# Longer times count as this: caches need not tell them apart (RFC 9111, section 1.2.2).
LONGEST_SECONDS = 2**31
MAX_DIGITS = 10
# What is this new was validated just now, by a clock that is read less exactly.
CLOCK_SKEW_SECONDS = 1.0
FORBIDDING = ("no-store", "private")
STRICT = ("no-cache", "must-revalidate", "proxy-revalidate")
# With field names they concern those fields, and of an answer's only the content is kept.
QUALIFIED = frozenset({"no-cache", "private"})
LIFETIMES = ("s-maxage", "max-age")
STALE = ("stale-while-revalidate", "stale-if-error")


def parse_directives(text: str) -> dict[str, int | None]:
    """Read those directives of `Cache-Control` that are respected: names, and seconds.

    Seconds that are malformed count as 0, so that the answer is stale.
    """
    found: dict[str, int | None] = {}
    understood = False
    for part in parse_http_list(text):
        name, _, argument = part.partition("=")
        name, argument = name.strip().lower(), argument.strip('" ')
        # Of two, the first counts (RFC 9111, section 4.2.1).
        if name in LIFETIMES + STALE:
            found.setdefault(name, read_seconds(argument) or 0)
        elif name in FORBIDDING + STRICT and not (argument and name in QUALIFIED):
            found.setdefault(name, None)
        understood = understood or name == "must-understand"
    if understood:
        # It makes an exception for caches that know what status 200 means (section 5.2.2.3).
        found.pop("no-store", None)
    return found


def write_directives(directives: Mapping[str, int | None]) -> str:
    """Return the header that `parse_directives` reads."""
    return ", ".join(
        name if seconds is None else f"{name}={seconds}" for name, seconds in directives.items()
    )


def read_seconds(text: str) -> int | None:
    """Return a number of seconds; None if malformed."""
    if not (text.isascii() and text.isdecimal()):
        return None
    digits = text.lstrip("0") or "0"
    return LONGEST_SECONDS if len(digits) > MAX_DIGITS else min(int(digits), LONGEST_SECONDS)


def read_date(text: str) -> float | None:
    """Return an HTTP date in seconds since the epoch; None if malformed."""
    try:
        date = parsedate_to_datetime(text)
        # One of its three forms has no time zone (RFC 9110, section 5.6.7).
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


@dataclass(frozen=True)
class Freshness:
    """How long an answer may be used without asking the source again.

    Attributes
    ----------
    validated : when the source was asked for it, or to confirm it, in seconds since the epoch
    lifetime : seconds from then on for which it is fresh
    directives : those of the source's `Cache-Control` that are respected
    """

    validated: float
    lifetime: float
    directives: str = ""

    def age(self, now: float) -> float:
        """Return the seconds since it was validated; 0 if the clock was set back."""
        return max(now - self.validated, 0.0)

    def is_fresh(self, now: float) -> bool:
        """Tell whether the source need not be asked."""
        return self.age(now) < self.lifetime and self.validated <= now + CLOCK_SKEW_SECONDS

    @property
    def private_lifetime(self) -> float:
        """Seconds for which browsers may use it: fewer if `max-age` is less than `s-maxage`."""
        directives = parse_directives(self.directives)
        shared, private = (directives.get(name) for name in LIFETIMES)
        if shared is None or private is None:
            return self.lifetime
        return max(self.lifetime - max(shared - private, 0), 0.0)

    @property
    def is_forbidden(self) -> bool:
        """Whether other caches must not keep what is made from it."""
        return not parse_directives(self.directives).keys().isdisjoint(FORBIDDING)

    @property
    def is_strict(self) -> bool:
        """Whether it must not be used when it is stale, not even while the source is down."""
        directives = parse_directives(self.directives)
        if not directives.keys().isdisjoint(FORBIDDING + STRICT):
            return True
        # Section 5.2.2.10, unless the source itself says more.
        return "s-maxage" in directives and directives.keys().isdisjoint(STALE)

    def may_be_used(self, now: float) -> bool:
        """Tell whether it may be used although it is stale.

        The source's limits are respected. Where it sets none, it may: this service tells its
        operators so (section 4.2.4).
        """
        directives = parse_directives(self.directives)
        limits = [directives[name] or 0 for name in STALE if name in directives]
        is_within = not limits or self.age(now) - self.lifetime <= max(limits)
        return is_within and not self.is_strict

    @property
    def extensions(self) -> str:
        """What caches are told of stale copies, each after a comma, as the source has it."""
        directives = parse_directives(self.directives)
        kept: dict[str, int | None] = {
            name: directives[name] for name in STALE if name in directives
        }
        if self.is_strict:
            kept["must-revalidate"] = None
        return f", {write_directives(kept)}" if kept else ""


def read_freshness(
    answers: Iterable[Mapping[str, str]], default_seconds: float, asked: float
) -> Freshness:
    """Return the freshness of an image, for which each answer on the way must be fresh.

    Parameters
    ----------
    answers : headers of redirects and of the image, names in lower case
    default_seconds : the lifetime where a source says nothing
    asked : when, in seconds since the epoch
    """
    return reduce(join, (read_answer(each, default_seconds, asked) for each in answers))


def read_answer(headers: Mapping[str, str], default_seconds: float, asked: float) -> Freshness:
    """Return the freshness of one answer.

    `Date` does not count for its age: this would rely on the source's clock, and caches on the way
    send `Age` (section 4.2.3).
    """
    directives = parse_directives(headers.get("cache-control", ""))
    if "*" in headers.get("vary", ""):  # nobody knows on what it depends (section 4.1)
        directives["no-cache"] = None
    text = write_directives(directives)
    if not directives.keys().isdisjoint(("no-cache", *FORBIDDING)):
        return Freshness(asked, 0.0, text)
    named = [directives[name] for name in LIFETIMES if name in directives]
    lifetime: float
    if named:
        lifetime = named[0] or 0
    elif "expires" in headers:
        # A malformed date is in the past (section 5.3).
        expires, sent = read_date(headers["expires"]), read_date(headers.get("date", ""))
        lifetime = 0.0 if expires is None else expires - (asked if sent is None else sent)
    else:
        return Freshness(asked, default_seconds, text)
    age = read_seconds(headers.get("age", "")) or 0
    return Freshness(asked, max(min(lifetime, LONGEST_SECONDS) - age, 0.0), text)


def join(first: Freshness, second: Freshness) -> Freshness:
    """Return the freshness of what depends on two answers."""
    one, two = parse_directives(first.directives), parse_directives(second.directives)
    directives = {**one, **two}
    for name, seconds in one.items():
        other = two.get(name)
        if seconds is not None and other is not None:
            directives[name] = min(seconds, other)
    lifetime = min(first.lifetime, second.lifetime)
    return Freshness(first.validated, lifetime, write_directives(directives))
