"""GET and HEAD of stored results: whole, conditional, absent."""

import pytest
from flask.testing import FlaskClient

from testkit.app_client import assert_problem, upload


@pytest.fixture
def stored(client: FlaskClient) -> tuple[str, str, bytes]:
    """The path, the entity tag and the bytes of a stored result."""
    response = upload(client)
    path = response.headers["Link"].split(">")[0].removeprefix("<http://localhost")
    return path, response.headers["ETag"], response.data


def test_stored_result_is_served_whole(client: FlaskClient, stored: tuple[str, str, bytes]) -> None:
    path, etag, content = stored
    response = client.get(path)
    assert (response.status_code, response.data) == (200, content)
    assert response.headers["ETag"] == etag
    assert response.headers["Cache-Control"] == "public, max-age=2592000, immutable"
    assert response.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
    for private in ("X-Request-ID", "X-Process-Time", "X-Cache-Hit"):
        assert private not in response.headers


def test_head_has_the_headers_of_get(client: FlaskClient, stored: tuple[str, str, bytes]) -> None:
    path, _, content = stored
    head, get = client.head(path), client.get(path)
    assert head.data == b""
    assert head.content_length == len(content)
    varying = {"Date", "Expires"}
    assert {k: v for k, v in head.headers.items() if k not in varying} == {
        k: v for k, v in get.headers.items() if k not in varying
    }


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"If-None-Match": "ETAG"}, 304),
        ({"If-None-Match": "W/ETAG"}, 304),
        ({"If-None-Match": '"other", ETAG'}, 304),
        ({"If-None-Match": "*"}, 304),
        ({"If-None-Match": '"other"'}, 200),
        ({"If-None-Match": '"other"', "If-Modified-Since": "LATER"}, 200),
        ({"If-Modified-Since": "LATER"}, 304),
        ({"If-Modified-Since": "Mon, 01 Jan 2001 00:00:00 GMT"}, 200),
        ({"If-Match": "ETAG"}, 200),
        ({"If-Match": "*"}, 200),
        ({"If-Match": "W/ETAG"}, 412),
        ({"If-Match": '"other"'}, 412),
        ({"If-Match": "*", "If-None-Match": "ETAG"}, 304),
        ({"If-Unmodified-Since": "Mon, 01 Jan 2001 00:00:00 GMT"}, 412),
        ({"If-Unmodified-Since": "LATER"}, 200),
        ({"Range": "bytes=0-9"}, 200),
        ({"If-Modified-Since": "Mon, 01 Jan 99999999999999999999 00:00:00 GMT"}, 200),
        ({"If-Unmodified-Since": "Mon, 01 Jan 2001 00:00:00 +99999999999999"}, 200),
        ({"If-Unmodified-Since": "yesterday"}, 200),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_conditional_request_is_answered_as_rfc_9110_says(
    client: FlaskClient,
    stored: tuple[str, str, bytes],
    method: str,
    headers: dict[str, str],
    status: int,
) -> None:
    path, etag, content = stored
    later = "Fri, 01 Jan 2100 00:00:00 GMT"
    sent = {
        key: text.replace("ETAG", etag).replace("LATER", later) for key, text in headers.items()
    }
    response = client.open(path, method=method, headers=sent)
    assert response.status_code == status
    if status == 200:
        assert response.data == (content if method == "GET" else b"")
    elif status == 304:
        assert response.data == b""
        for repeated in ("ETag", "Cache-Control", "Expires", "Access-Control-Allow-Origin"):
            assert response.headers[repeated]
    else:
        assert response.content_type == "application/problem+json"
        assert "ETag" not in response.headers
        assert response.headers["Cache-Control"] == "no-store, must-revalidate"


@pytest.mark.parametrize("tail", ["", "/", "x", "%00", "/..%2f"])
def test_name_of_no_result_is_not_found(
    client: FlaskClient, stored: tuple[str, str, bytes], tail: str
) -> None:
    path = f"/cache/{'0' * 64}.{'0' * 12}.png" if tail == "" else stored[0] + tail
    assert_problem(client.get(path), 404, "not_found")


def test_upper_case_name_is_not_found(client: FlaskClient, stored: tuple[str, str, bytes]) -> None:
    assert_problem(client.get("/cache/" + stored[0][7:].upper()), 404, "not_found")
