import time
from email.utils import parsedate_to_datetime

import pytest
from flask import Flask, Response

from cache_headers import apply_cache_headers, get_cache_headers
from superres.web.cache_policy import ResponseFreshness, set_cache_policy


@pytest.mark.parametrize(
    ("resource_type", "cache_control"),
    [
        ("enhanced_image", "public, max-age=2592000, immutable"),
        ("api_response", "no-cache"),
        ("error_response", "no-store, must-revalidate"),
        ("static_file", "public, max-age=604800"),
        ("live_status", "no-store"),
    ],
)
def test_policy_table(resource_type: str, cache_control: str) -> None:
    assert get_cache_headers(resource_type)["Cache-Control"] == cache_control


@pytest.mark.parametrize(
    ("freshness", "cache_control", "kept"),
    [
        (ResponseFreshness(600, 0), "public, max-age=600", "60"),
        (ResponseFreshness(600, 400), "public, max-age=600", "20"),
        (ResponseFreshness(600, 591), "public, max-age=600", "0"),
        (ResponseFreshness(600, 900), "public, max-age=600", "0"),
        (
            ResponseFreshness(600, 0, ", must-revalidate"),
            "public, max-age=600, must-revalidate",
            "0",
        ),
        (
            ResponseFreshness(600, 0, ", stale-if-error=9"),
            "public, max-age=600, stale-if-error=9",
            "0",
        ),
    ],
)
def test_nginx_keeps_a_tenth_of_what_is_left_and_nothing_that_has_limits_when_stale(
    freshness: ResponseFreshness, cache_control: str, kept: str
) -> None:
    headers = get_cache_headers("sourced_image", "abc", freshness)
    assert headers["Cache-Control"] == cache_control
    assert headers["Age"] == str(freshness.age)
    assert headers["X-Accel-Expires"] == kept


def test_content_hash_becomes_a_strong_entity_tag() -> None:
    assert get_cache_headers("enhanced_image", "abc")["ETag"] == '"abc"'
    assert "ETag" not in get_cache_headers("enhanced_image")


def test_expires_agrees_with_max_age() -> None:
    expires = parsedate_to_datetime(get_cache_headers("enhanced_image")["Expires"])
    assert abs(expires.timestamp() - time.time() - 2592000) < 5
    assert "Expires" not in get_cache_headers("api_response")


def test_only_results_have_the_hint() -> None:
    assert get_cache_headers("enhanced_image")["X-Cache-Hint"] == "long-term"
    assert "X-Cache-Hint" not in get_cache_headers("static_file")


def test_unknown_type_is_an_error() -> None:
    with pytest.raises(KeyError):
        get_cache_headers("picture")


def test_error_wins_over_what_the_view_has_named(app: Flask) -> None:
    with app.test_request_context():
        set_cache_policy("enhanced_image", "abc")
        headers = apply_cache_headers(Response(status=500)).headers
    assert headers["Cache-Control"] == "no-store, must-revalidate"
    assert not {"ETag", "Expires", "X-Cache-Hint"} & set(headers.keys())
