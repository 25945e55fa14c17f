import logging
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO

import pytest
from flask import Flask
from flask.testing import FlaskClient
from PIL import Image
from werkzeug.test import TestResponse

from superres.origins import parse_origins
from superres.settings import Settings
from testkit.pictures import encode

AppMaker = Callable[[Settings], Flask]
LISTED = "https://a.example"
FOREIGN = [
    "https://evil.test",
    "https://a.example.evil.test",
    "http://a.example",
    "https://a.example:8443",
    "null",
]
PNG = encode(Image.new("RGB", (8, 8)), "PNG")


@pytest.fixture
def client(settings: Settings, make_app: AppMaker) -> FlaskClient:
    listed = replace(settings, cors_origins=(LISTED, "https://b.example"))
    return make_app(listed).test_client()


@pytest.fixture
def open_client(settings: Settings, make_app: AppMaker) -> FlaskClient:
    return make_app(settings).test_client()


def upload(client: FlaskClient, **headers: str) -> TestResponse:
    sent = {key.replace("_", "-"): value for key, value in headers.items()}
    return client.post("/api/enhance", data={"image": (BytesIO(PNG), "a.png")}, headers=sent)


def preflight(client: FlaskClient, path: str, origin: str, method: str = "POST") -> TestResponse:
    return client.options(
        path,
        headers={
            "Origin": origin,
            "Access-Control-Request-Method": method,
            "Access-Control-Request-Headers": "prefer, if-none-match, cache-control",
        },
    )


def cors_headers(response: TestResponse) -> dict[str, str]:
    return {k: v for k, v in response.headers.items() if k.startswith("Access-Control")}


def test_listed_origin_may_read_answers_and_their_headers(client: FlaskClient) -> None:
    response = upload(client, Origin=LISTED)
    assert response.status_code == 200
    assert response.headers.getlist("Access-Control-Allow-Origin") == [LISTED]
    exposed = response.headers["Access-Control-Expose-Headers"].split(", ")
    assert {
        "ETag",
        "Content-Range",
        "Link",
        "X-Cache-Hit",
        "Retry-After",
        "Content-Disposition",
    } <= set(exposed)
    assert "Access-Control-Allow-Credentials" not in response.headers


@pytest.mark.parametrize("origin", FOREIGN)
def test_foreign_origin_is_refused_before_its_upload_is_read(
    client: FlaskClient, origin: str
) -> None:
    response = client.post(
        "/api/enhance", data=b"no picture", content_type="image/png", headers={"Origin": origin}
    )
    assert (response.status_code, response.get_json()["code"]) == (403, "foreign_origin")
    assert cors_headers(response) == {}


@pytest.mark.parametrize("origin", FOREIGN)
def test_foreign_origin_gets_no_cors_headers(client: FlaskClient, origin: str) -> None:
    for response in (
        client.get("/api/health", headers={"Origin": origin}),
        preflight(client, "/api/enhance", origin),
    ):
        assert cors_headers(response) == {}


def test_curl_and_the_services_own_page_pass(client: FlaskClient) -> None:
    assert upload(client).status_code == 200
    assert upload(client, Origin="http://localhost").status_code == 200
    assert (
        upload(client, Origin="https://x.example", Sec_Fetch_Site="same-origin").status_code == 200
    )


@pytest.mark.parametrize(
    ("origin", "site", "status"),
    [
        (None, None, 200),
        (None, "same-origin", 200),
        (None, "none", 200),
        (None, "cross-site", 403),
        (LISTED, "cross-site", 200),
        (LISTED, "same-site", 200),
        (LISTED, None, 200),
        ("http://localhost", "same-origin", 200),
        ("http://localhost", "cross-site", 403),
        ("https://evil.test", "cross-site", 403),
        ("null", "cross-site", 403),
    ],
)
@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_browser_tells_that_a_page_is_of_another_site(
    client: FlaskClient, method: str, origin: str | None, site: str | None, status: int
) -> None:
    sent = {"Origin": origin, "Sec-Fetch-Site": site}
    headers = {name: value for name, value in sent.items() if value is not None}
    if method == "POST":
        response = upload(client, **headers)
    else:
        response = client.delete("/api/jobs/unknown", headers=headers)
    if status == 403:
        assert (response.status_code, response.get_json()["code"]) == (403, "foreign_origin")
    else:
        assert response.status_code == {"POST": 200, "DELETE": 404}[method]


def test_cross_site_requests_that_read_or_ask_first_pass(client: FlaskClient) -> None:
    assert client.get("/api/stats", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200
    headers = {"Sec-Fetch-Site": "cross-site", "Origin": LISTED}
    assert client.options("/api/enhance", headers=headers).status_code == 200


def test_cross_site_uploads_pass_where_no_origins_are_listed(open_client: FlaskClient) -> None:
    headers = {"Sec-Fetch-Site": "cross-site", "Origin": "https://any.example"}
    assert upload(open_client, **headers).status_code == 200


def test_public_url_alone_decides_what_is_own(settings: Settings, make_app: AppMaker) -> None:
    client = make_app(
        replace(settings, cors_origins=(LISTED,), public_url="https://sr.example/prefix")
    ).test_client()
    assert upload(client, Origin="https://sr.example").status_code == 200
    assert upload(client, Origin="http://localhost").status_code == 403


def test_foreign_origin_is_refused_where_the_proxy_does_cors(
    settings: Settings, make_app: AppMaker
) -> None:
    client = make_app(replace(settings, cors_enabled=False, cors_origins=(LISTED,))).test_client()
    assert upload(client, Origin="https://evil.test").status_code == 403
    response = upload(client, Origin=LISTED)
    assert response.status_code == 200
    assert cors_headers(response) == {}
    assert "Origin" not in response.vary


def test_request_without_an_origin_gets_no_cors_headers(client: FlaskClient) -> None:
    assert cors_headers(upload(client)) == {}
    assert cors_headers(client.get("/api/health")) == {}


@pytest.mark.parametrize(
    "header",
    [
        "Content-Type",
        "Authorization",
        "X-Requested-With",
        "X-Request-ID",
        "Prefer",
        "If-Match",
        "If-None-Match",
        "Cache-Control",
    ],
)
def test_request_header_may_be_sent_across_origins(client: FlaskClient, header: str) -> None:
    response = client.options(
        "/api/enhance",
        headers={
            "Origin": LISTED,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": header.lower(),
        },
    )
    assert response.headers["Access-Control-Allow-Headers"].lower() == header.lower()


@pytest.mark.parametrize(
    "header",
    ["If-Match", "If-None-Match", "If-Modified-Since", "Cache-Control", "Range", "If-Range"],
)
def test_results_may_be_asked_for_with_conditions_and_in_parts(
    client: FlaskClient, header: str
) -> None:
    response = client.options(
        "/cache/none",
        headers={
            "Origin": "https://any.example",
            "Access-Control-Request-Method": "GET",
            "Access-Control-Request-Headers": header.lower(),
        },
    )
    assert response.headers["Access-Control-Allow-Headers"].lower() == header.lower()
    assert "Content-Range" in response.headers["Access-Control-Expose-Headers"]


@pytest.mark.parametrize(
    ("listed", "sent"),
    [
        ("capacitor://localhost", "capacitor://localhost"),
        ("chrome-extension://Abc", "chrome-extension://abc"),
        ("safari-web-extension://E8B1-AA", "safari-web-extension://E8B1-AA"),
        ("https://Bücher.example:443/", "https://xn--bcher-kva.example"),
    ],
)
def test_origin_is_compared_as_browsers_send_it(
    settings: Settings, make_app: AppMaker, listed: str, sent: str
) -> None:
    client = make_app(replace(settings, cors_origins=parse_origins(listed))).test_client()
    for response in (
        upload(client, Origin=sent, Sec_Fetch_Site="cross-site"),
        preflight(client, "/api/enhance", sent),
    ):
        assert response.status_code == 200
        assert response.headers["Access-Control-Allow-Origin"] == sent
    assert upload(client, Origin=f"{sent}.evil.test").status_code == 403


def test_own_origin_has_no_default_port(settings: Settings, make_app: AppMaker) -> None:
    own = replace(settings, cors_origins=(LISTED,), public_url="https://SR.example:443/prefix")
    assert upload(make_app(own).test_client(), Origin="https://sr.example").status_code == 200


def test_preflight_of_a_listed_origin_lists_everything(client: FlaskClient) -> None:
    headers = preflight(client, "/api/enhance", LISTED).headers
    assert headers["Access-Control-Allow-Origin"] == LISTED
    assert headers["Access-Control-Max-Age"] == "86400"
    methods = set(headers["Access-Control-Allow-Methods"].split(", "))
    assert methods == {"GET", "HEAD", "POST", "DELETE", "OPTIONS"}
    allowed = {name.lower() for name in headers["Access-Control-Allow-Headers"].split(", ")}
    assert allowed == {"prefer", "if-none-match", "cache-control"}


@pytest.mark.parametrize("origin", [None, LISTED, "https://evil.test"])
@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/api/health"), ("GET", "/api/nothing"), ("POST", "/api/enhance"),
     ("OPTIONS", "/api/enhance"), ("PUT", "/api/enhance")],
)  # fmt: skip
def test_every_api_answer_varies_by_origin_once(
    client: FlaskClient, method: str, path: str, origin: str | None
) -> None:
    headers = {"Origin": origin} if origin else {}
    response = client.open(path, method=method, headers=headers)
    assert [part.strip() for part in response.headers["Vary"].split(",")].count("Origin") == 1


def test_results_are_readable_by_any_origin_without_vary(client: FlaskClient) -> None:
    path = upload(client).headers["Link"].split(">")[0].removeprefix("<http://localhost")
    for headers in ({}, {"Origin": LISTED}, {"Origin": "https://evil.test"}, {"Origin": "null"}):
        for response in (
            client.get(path, headers=headers),
            client.head(path, headers=headers),
            client.get(path, headers={**headers, "If-None-Match": "*"}),
            client.get("/cache/none", headers=headers),
        ):
            assert response.headers.getlist("Access-Control-Allow-Origin") == ["*"]
            assert "Vary" not in response.headers


def test_errors_are_readable_by_a_listed_origin(client: FlaskClient) -> None:
    response = client.post("/api/enhance", headers={"Origin": LISTED})
    assert response.status_code == 415
    assert response.headers["Access-Control-Allow-Origin"] == LISTED


def test_look_alike_path_is_outside_the_api(client: FlaskClient) -> None:
    response = client.get("/apiary", headers={"Origin": LISTED})
    assert cors_headers(response) == {}


def test_without_a_list_any_origin_may_and_the_log_says_so(
    settings: Settings, make_app: AppMaker, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        client = make_app(settings).test_client()
    assert "any origin" in caplog.text
    response = upload(client, Origin="https://anything.test")
    assert response.status_code == 200
    assert response.headers["Access-Control-Allow-Origin"] == "*"
