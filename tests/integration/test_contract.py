"""openapi.yaml describes the service: a third-party tool looks for discrepancies."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest
import yaml
from flask import Flask
from flask.testing import FlaskClient

from superres import __version__
from superres.paths import PROJECT_DIR
from superres.settings import Settings
from superres.sources.signed_address import AUTO, PREFIX, encode_base64, make_signature
from superres.web.api_docs import CONTRACT_PATH
from superres.web.api_keys import hash_key, make_key
from testkit import loopback
from testkit.app_client import AppMaker
from testkit.service import Service, run_light_service
from testkit.source_server import SourceServer, run_source_server
from tests.api_page import render
from tests.contract_hooks import PICTURES, SIGNED, SOURCES

EXAMPLES = os.environ.get("CONTRACT_EXAMPLES", "25")
KEY = make_key()
URL_KEY = "the key that signs addresses in this test"
# Below /image/, what is not an address gets an error, too.
OTHER_FORMS = {PREFIX, f"{PREFIX}<path:_rest>"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    keys = folder / "keys"
    keys.write_text(f"anna:{hash_key(KEY)}\n")
    with run_light_service(
        folder,
        api_keys_file=keys,
        rate_limit_requests="100000/minute",
        max_sync_seconds=20,
        url_key=URL_KEY,
        source_networks="127.0.0.0/8",
    ) as running:
        yield running


@pytest.fixture
def sources() -> Iterator[SourceServer]:
    with run_source_server() as server:
        server.pages |= SOURCES
        yield server


def sign(source: str, options: str) -> str:
    signed = f"{options}/{encode_base64(source.encode())}.{AUTO}"
    return f"{make_signature(URL_KEY, signed)}/{signed}"


def upload(service: Service, picture: bytes, prefer: str = "") -> httpx.Response:
    headers = {"Authorization": f"Bearer {KEY}", "Prefer": prefer, "Content-Type": "image/png"}
    return loopback.post(f"{service.url}/api/enhance", content=picture, headers=headers)


def test_schemathesis_finds_no_answer_that_the_contract_does_not_have(
    service: Service, sources: SourceServer
) -> None:
    names = [
        re.sub(".*/cache/", "", upload(service, picture).links["canonical"]["url"])
        for picture in PICTURES[:6]
    ]
    answers = [upload(service, each, "respond-async") for each in (PICTURES[6], PICTURES[6] + b"0")]
    tickets = [answer.json()["id"] for answer in answers if answer.status_code == 202]
    assert (len(names), len(tickets)) == (6, 2)
    images = [sign(sources.url(path), options) for path, options in SIGNED]
    images.append(sign("http://10.0.0.1/a.png", "scale:3"))
    set_up = len(service.log)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", "tests/schemathesis.toml"),
            *("run", f"{service.url}/openapi.json"),
            *("--header", f"Authorization: Bearer {KEY}"),
            *("--max-examples", EXAMPLES, "--seed", "1", "--no-color", "--request-timeout", "120"),
        ],
        cwd=PROJECT_DIR,
        env={
            **os.environ,
            "SCHEMATHESIS_HOOKS": "tests.contract_hooks",
            "CONTRACT_NAME": " ".join(names),
            "CONTRACT_TICKET": " ".join(tickets),
            "CONTRACT_IMAGES": " ".join(images),
        },
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    tested = re.search(r"Tested: (\d+)", done.stdout)
    assert tested is not None
    contract = loopback.get(f"{service.url}/openapi.json").json()
    operations = [each for path in contract["paths"].values() for each in path]
    assert int(tested[1]) == len(operations) - operations.count("parameters")
    # It did reach what it should check.
    lines = re.findall(r"request: (\w+ /\w+/[\w-]+)\S* (\d{3}) ", service.log[set_up:])
    enhanced = {status for request, status in lines if request == "POST /api/enhance"}
    assert {"200", "400", "415", "422"} <= enhanced
    sent = {status for request, status in lines if request.startswith("GET /image/")}
    assert {"200", "302", "400", "403", "404", "413", "415", "422", "502"} <= sent
    logged = {status for _, status in lines}
    assert {"204", "404", "405"} <= logged
    assert "500" not in logged
    assert URL_KEY not in service.log


def test_key_of_addresses_is_never_shown(service: Service) -> None:
    for path in ("/api/health", "/api/stats", "/api/capabilities", "/metrics", "/image/x/y/z"):
        shown = loopback.get(f"{service.url}{path}", headers={"Authorization": f"Bearer {KEY}"})
        assert URL_KEY not in shown.text
    assert URL_KEY not in service.log


def test_contract_names_every_route_and_no_other(make_app: AppMaker, settings: Settings) -> None:
    app = make_app(replace(settings, url_key=(URL_KEY,)))
    contract = yaml.safe_load(CONTRACT_PATH.read_text())
    described = {
        (re.sub(r"{(\w+)}", r"<\1>", path), method.upper())
        for path, operations in contract["paths"].items()
        for method in operations
        if method != "parameters"
    }
    routes = {
        (rule.rule, method)
        for rule in app.url_map.iter_rules()
        if rule.rule.startswith(("/api/", "/cache/", PREFIX)) and rule.rule not in OTHER_FORMS
        for method in (rule.methods or set()) - {"OPTIONS"}
        if method != "HEAD" or not rule.rule.startswith("/api/")
    }
    assert described == routes


def test_contract_has_every_problem_code(app: Flask) -> None:
    codes = set(
        re.findall(
            r'^    code = "(\w+)"', (PROJECT_DIR / "superres" / "errors.py").read_text(), re.M
        )
    )
    text = CONTRACT_PATH.read_text()
    # Nobody reads the first; the others occur only in a job's status, or are faults.
    unread = {"client_left", "cancelled", "internal_error", "upload_lost"}
    assert {code for code in codes if f"`{code}`" not in text} == unread


def test_contract_and_its_page_are_served(client: FlaskClient) -> None:
    response = client.get("/openapi.json")
    assert response.content_type == "application/json"
    assert response.get_json()["openapi"] == "3.1.0"
    assert response.get_json()["info"]["version"] == __version__
    again = client.get("/openapi.json", headers={"If-None-Match": response.headers["ETag"]})
    assert again.status_code == 304
    moved = client.get("/docs")
    assert (moved.status_code, moved.headers["Location"]) == (308, "docs/")
    page = client.get("/docs/").text
    for name in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert client.get(f"/docs/{name}").status_code == 200
    assert client.get("/docs/LICENSE").status_code == 404


def test_page_of_the_docs_is_made_from_the_contract() -> None:
    contract = yaml.safe_load(CONTRACT_PATH.read_text())
    assert (PROJECT_DIR / "docs" / "api.md").read_text() == render(contract)
