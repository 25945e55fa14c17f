"""How long a source's answer is fresh, by RFC 9111 and RFC 5861."""

import time

import pytest

from superres.sources.freshness import (
    LONGEST_SECONDS,
    Freshness,
    parse_directives,
    read_date,
    read_freshness,
    write_directives,
)

NOW = 1_000_000_000.0
DATE = "Sun, 09 Sep 2001 01:46:40 GMT"
DEFAULT = 3600.0


def read(cache_control: str = "", **others: str) -> Freshness:
    headers = {name.replace("_", "-"): value for name, value in others.items()}
    if cache_control:
        headers["cache-control"] = cache_control
    return read_freshness([headers], DEFAULT, NOW)


@pytest.mark.parametrize(
    ("cache_control", "lifetime"),
    [
        ("max-age=600", 600),
        ("MAX-AGE = 600", 600),
        ('max-age="600"', 600),
        ("public, max-age=600, immutable", 600),
        ("max-age=5, s-maxage=600", 600),
        ("s-maxage=0, max-age=600", 0),
        ("max-age=600, max-age=1", 600),
        ("max-age=0600", 600),
        ("max-age", 0),
        ("max-age=", 0),
        ("max-age=-1", 0),
        ("max-age=1.5", 0),
        ("max-age=1e9", 0),
        ("max-age=٣", 0),
        ("max-age=²", 0),
        (f"max-age={'9' * 5000}", LONGEST_SECONDS),
        (f"max-age={2**63}", LONGEST_SECONDS),
        (f"max-age={'0' * 5000}7", 7),
        ("no-cache, max-age=600", 0),
        ("no-store, max-age=600", 0),
        ("private, max-age=600", 0),
        ("No-Cache", 0),
        # With field names it is about those fields alone.
        ('no-cache="set-cookie, max-age=1", max-age=600', 600),
        ('private="x-name", max-age=600', 600),
        ('other="no-store, max-age=1", max-age=600', 600),
        ('other="a\\", no-store", max-age=600', 600),
        ("max-age=600; other", 0),
        ("", DEFAULT),
        ("public", DEFAULT),
        (",,, ,", DEFAULT),
        ('"', DEFAULT),
    ],
)
def test_lifetime_is_what_the_source_says(cache_control: str, lifetime: float) -> None:
    assert read(cache_control).lifetime == lifetime


@pytest.mark.parametrize(
    ("headers", "lifetime"),
    [
        ({"expires": "Sun, 09 Sep 2001 01:56:40 GMT", "date": DATE}, 600),
        ({"expires": "Sun, 09 Sep 2001 01:56:40 GMT"}, 600),
        ({"expires": "Sunday, 09-Sep-01 01:56:40 GMT", "date": DATE}, 600),
        ({"expires": "Sun Sep  9 01:56:40 2001", "date": DATE}, 600),
        ({"expires": DATE, "date": DATE}, 0),
        ({"expires": "0"}, 0),
        ({"expires": "-1"}, 0),
        ({"expires": ""}, 0),
        ({"expires": "Sun, 09 Sep 2001 01:56:40 GMT", "date": "yesterday"}, 600),
        ({"expires": "Fri, 31 Dec 9999 23:59:59 GMT", "date": DATE}, LONGEST_SECONDS),
        ({"expires": "Mon, 01 Jan 0001 00:00:00 GMT"}, 0),
        ({"expires": "Thu, 01 Jan 99999 00:00:00 GMT"}, 0),
        ({"expires": "Thu, 01 Jan 1970 00:00:00 +99999999"}, 0),
        ({"cache-control": "max-age=600", "expires": "0"}, 600),
        ({"cache-control": "max-age=600", "age": "100"}, 500),
        ({"cache-control": "max-age=600", "age": "601"}, 0),
        ({"cache-control": "max-age=600", "age": "9" * 5000}, 0),
        ({"cache-control": "max-age=600", "age": "-5"}, 600),
        ({"cache-control": "max-age=600", "age": "x"}, 600),
        ({"cache-control": "max-age=600", "date": "Thu, 01 Jan 1970 00:00:00 GMT"}, 600),
        ({"cache-control": "max-age=600", "vary": "Accept, Cookie"}, 600),
        ({"cache-control": "max-age=600", "vary": "*"}, 0),
        ({"pragma": "no-cache"}, DEFAULT),
    ],
)
def test_other_headers_are_respected(headers: dict[str, str], lifetime: float) -> None:
    assert read_freshness([headers], DEFAULT, NOW).lifetime == lifetime


def test_image_is_fresh_until_its_lifetime_is_over() -> None:
    found = read("max-age=600")
    assert (found.validated, found.age(NOW), found.age(NOW + 60)) == (NOW, 0, 60)
    assert found.is_fresh(NOW)
    assert found.is_fresh(NOW + 599)
    assert not found.is_fresh(NOW + 600)


def test_clock_that_was_set_back_makes_no_image_fresh() -> None:
    found = read("max-age=600")
    assert found.age(NOW - 1000) == 0
    assert found.is_fresh(NOW - 0.5)  # clocks are read with different precision
    assert not found.is_fresh(NOW - 2)
    assert not read("max-age=0").is_fresh(NOW - 0.5)


@pytest.mark.parametrize(
    ("cache_control", "is_forbidden", "is_strict"),
    [
        ("", False, False),
        ("max-age=5", False, False),
        ("private", True, True),
        ("no-store", True, True),
        ("must-understand, no-store, max-age=5", False, False),
        ("no-store, must-understand", False, False),
        ("must-understand, private", True, True),
        ("no-cache", False, True),
        ('no-cache="x"', False, False),
        ("must-revalidate", False, True),
        ("proxy-revalidate", False, True),
        ("s-maxage=5", False, True),
        ("s-maxage=5, stale-if-error=60", False, False),
        ("s-maxage=5, stale-if-error=60, must-revalidate", False, True),
    ],
)
def test_what_must_not_be_kept_or_used_when_stale(
    cache_control: str, is_forbidden: bool, is_strict: bool
) -> None:
    found = read(cache_control)
    assert (found.is_forbidden, found.is_strict) == (is_forbidden, is_strict)
    assert found.may_be_used(NOW + 10_000) != (is_strict or "stale" in cache_control)
    assert ("must-revalidate" in found.extensions) == is_strict


def test_sources_own_limits_of_staleness_are_respected() -> None:
    found = read("max-age=100, stale-while-revalidate=10, stale-if-error=50")
    assert found.may_be_used(NOW + 150)
    assert not found.may_be_used(NOW + 151)
    assert not read("max-age=100, stale-if-error=0").may_be_used(NOW + 101)
    assert read("max-age=100").may_be_used(NOW + 10**9)


def test_extensions_are_passed_on() -> None:
    assert read("max-age=5").extensions == ""
    assert read("Stale-While-Revalidate=30, x, stale-if-error=9").extensions == (
        ", stale-while-revalidate=30, stale-if-error=9"
    )
    assert read(f"stale-if-error={'9' * 5000}").extensions == f", stale-if-error={LONGEST_SECONDS}"
    assert read("stale-if-error=1\r\nx: y").extensions == ", stale-if-error=0"


def test_directives_that_are_kept_are_few_and_short() -> None:
    flood = ", ".join(f"max-age={each}, x{each}={'y' * 50}, no-cache" for each in range(1000))
    kept = read(flood).directives
    assert kept == "max-age=0, no-cache"
    assert write_directives(parse_directives(kept)) == kept


def test_every_redirect_must_be_fresh() -> None:
    def together(*cache_controls: str) -> Freshness:
        return read_freshness([{"cache-control": each} for each in cache_controls], DEFAULT, NOW)

    assert together("max-age=60", "max-age=600").lifetime == 60
    assert together("max-age=600", "max-age=60").lifetime == 60
    assert together("", "max-age=9999").lifetime == DEFAULT
    assert together("no-cache", "max-age=600").lifetime == 0
    assert together("no-cache", "max-age=600").is_strict
    assert together("private", "max-age=600").is_forbidden
    assert together("max-age=60", "max-age=600", "no-store").is_forbidden
    both = together("max-age=60, stale-if-error=9", "max-age=600, stale-if-error=5, no-cache")
    assert both.directives == "max-age=60, stale-if-error=5, no-cache"


@pytest.mark.parametrize(
    "text",
    [
        "Sun, 09 Sep 2001 01:46:40 GMT",
        "Sunday, 09-Sep-01 01:46:40 GMT",
        "Sun Sep  9 01:46:40 2001",
        "Sun, 09 Sep 2001 01:46:40 -0000",
    ],
)
def test_dates_are_utc_wherever_the_machine_is(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        assert read_date(text) == NOW
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("text", ["", " ", "0", ",", "now", "1 2 3", "Thu, 99 Foo 2001 99:99 GMT"])
def test_malformed_date_is_none(text: str) -> None:
    assert read_date(text) is None
