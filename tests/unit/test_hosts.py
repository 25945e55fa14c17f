"""Which hosts count as the service's own, and which requests are checked."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from superres.settings import Settings
from superres.web.hosts import is_own_host
from testkit.app_client import assert_problem, upload

AppMaker = Callable[[Settings], Flask]
LISTED = "https://a.example"
NAMED = ("sr.example", ".sr.example.net")

ADDRESSES = [
    "127.0.0.1",
    "127.0.0.1:7860",
    "10.1.2.3",
    "203.0.113.9:80",
    "[::1]",
    "[::1]:7860",
    "[2001:db8::1]:443",
    "localhost",
    "localhost:7860",
    "LocalHost",
    "localhost.",
    "sub.localhost",
]
LOCAL_NAMES = [
    "sr",
    "sr:7860",
    "nas.local",
    "nas.local:7860",
    "NAS.Local.",
    "a.b.local",
    "sr.lan",
    "vm.internal",
    "sr.default.svc.cluster.local",
]
FOREIGN_NAMES = [
    "evil.example",
    "evil.example:7860",
    "evil.example.",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "127.0.0.1.nip.io",
    "1.2.3.4.5",
    "local.example",
    "evil.xlocal",
    "evil.local.example",
    "evil-lan.example",
    "notlocalhost.example",
    ".",
    "..",
]


@pytest.mark.parametrize("host", ADDRESSES)
@pytest.mark.parametrize("named", [(), NAMED])
def test_addresses_and_localhost_are_always_own(host: str, named: tuple[str, ...]) -> None:
    assert is_own_host(host, named)


@pytest.mark.parametrize("host", LOCAL_NAMES)
def test_local_names_are_own_until_others_are_named(host: str) -> None:
    assert is_own_host(host, ())
    assert not is_own_host(host, NAMED)


@pytest.mark.parametrize("host", FOREIGN_NAMES)
@pytest.mark.parametrize("named", [(), NAMED])
def test_no_other_name_is_own(host: str, named: tuple[str, ...]) -> None:
    assert not is_own_host(host, named)


@pytest.mark.parametrize(
    ("host", "is_own"),
    [
        ("sr.example", True),
        ("SR.Example:8443", True),
        ("sr.example.", True),
        ("www.sr.example", False),
        ("xsr.example", False),
        ("sr.example.evil.test", False),
        ("sr.example.net", True),
        ("www.sr.example.net", True),
        ("a.b.sr.example.net:443", True),
        ("xsr.example.net", False),
    ],
)
def test_named_hosts_are_own(host: str, is_own: bool) -> None:
    assert is_own_host(host, NAMED) == is_own


# --- which requests are checked


def ask(
    client: FlaskClient, host: str, path: str = "/api/stats", method: str = "GET", **headers: str
) -> TestResponse:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.open(path, method=method, headers={"Host": host, **sent})


@pytest.fixture(params=[(), (LISTED,)], ids=["any origin", "listed origins"])
def client(request: pytest.FixtureRequest, settings: Settings, make_app: AppMaker) -> FlaskClient:
    return make_app(replace(settings, cors_origins=request.param)).test_client()


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": LISTED},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "same-origin"},
        {"Sec_Fetch_Site": "none"},
        {"Origin": "http://evil.example", "Sec_Fetch_Site": "same-origin"},
    ],
    ids=str,
)
def test_browser_at_a_foreign_name_is_refused_before_anything_else(
    client: FlaskClient, headers: dict[str, str]
) -> None:
    for path in ("/", "/docs/", "/api/stats", "/api/enhance", "/api/health", "/metrics", "/none"):
        for method in ("GET", "POST", "DELETE", "OPTIONS"):
            response = ask(client, "evil.example", path, method, **headers)
            assert_problem(response, 403, "untrusted_host")


def test_refusal_says_what_to_set_and_repeats_the_name_alone(client: FlaskClient) -> None:
    words = ask(client, "SR.example:8080", Origin="http://sr.example:8080").get_json()["error"]
    assert "SR_TRUSTED_HOSTS=sr.example," in words
    assert "SR_PUBLIC_URL" in words


def test_who_is_no_browser_may_ask_for_any_name(client: FlaskClient) -> None:
    assert ask(client, "evil.example").status_code == 200
    assert upload(client, headers={"Host": "evil.example"}).status_code == 200


def test_results_and_the_client_module_are_for_any_page_under_any_name(client: FlaskClient) -> None:
    path = "/cache/" + upload(client).headers["Link"].split("/cache/")[1].split(">")[0]
    for origin in (LISTED, "https://any.example"):
        for each in (path, "/static/client.js"):
            response = ask(client, "cdn.example", each, Origin=origin, Sec_Fetch_Site="cross-site")
            assert response.status_code == 200
            assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert ask(client, "cdn.example", path, Sec_Fetch_Site="cross-site").status_code == 200


@pytest.mark.parametrize("host", ["localhost:7860", "10.1.2.3", "[::1]:7860", "sr", "nas.local"])
def test_own_page_at_a_local_name_uploads(client: FlaskClient, host: str) -> None:
    headers = {"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}
    assert upload(client, headers=headers).status_code == 200


# --- the operator's list


@pytest.mark.parametrize(
    "named",
    [
        {"public_url": "https://sr.example/prefix"},
        {"trusted_hosts": ("sr.example",)},
        {"trusted_hosts": (".example",)},
        {"public_url": "https://cdn.example", "trusted_hosts": ("sr.example",)},
    ],
    ids=str,
)
def test_named_host_is_own_and_others_are_not(
    settings: Settings, make_app: AppMaker, named: dict[str, Any]
) -> None:
    client = make_app(replace(settings, cors_origins=(LISTED,), **named)).test_client()
    assert ask(client, "sr.example:8443", Sec_Fetch_Site="same-origin").status_code == 200
    assert ask(client, "sr.example", Origin=LISTED).status_code == 200
    for host in ("evil.test", "sr.example.test", "nas.local"):
        assert_problem(ask(client, host, Origin=f"http://{host}"), 403, "untrusted_host")


def test_forwarded_host_counts_where_a_proxy_is_trusted(
    settings: Settings, make_app: AppMaker
) -> None:
    changed = replace(settings, trusted_hosts=("sr.example",))
    behind = make_app(replace(changed, trusted_proxies=1)).test_client()
    alone = make_app(changed).test_client()
    own = {"X_Forwarded_Host": "sr.example", "Origin": LISTED}
    evil = {"X_Forwarded_Host": "evil.test", "Origin": LISTED}
    assert ask(behind, "app.test", **own).status_code == 200
    assert_problem(ask(behind, "sr.example", **evil), 403, "untrusted_host")
    assert ask(alone, "sr.example", **evil).status_code == 200
    assert_problem(ask(alone, "app.test", **own), 403, "untrusted_host")


def test_refused_host_can_be_read_by_a_listed_origin(
    settings: Settings, make_app: AppMaker
) -> None:
    client = make_app(replace(settings, cors_origins=(LISTED,))).test_client()
    response = ask(client, "sr.example", Origin=LISTED)
    assert_problem(response, 403, "untrusted_host")
    assert response.headers["Access-Control-Allow-Origin"] == LISTED
