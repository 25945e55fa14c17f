"""What is different with HTTP/3; test_nginx.py asks by it what all clients ask."""

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from PIL import Image

from superres.sources.signed_address import ImageRequest, sign_address
from testkit.pictures import encode
from testkit.service import Service, run_light_service
from testkit.source_server import Page, SourceServer
from tests.e2e.http3 import Http3Transport
from tests.e2e.nginx import HOST, Nginx, needs_http3, run_nginx

pytestmark = needs_http3()
KEY = "k" * 32
PICTURE = encode(Image.new("RGB", (16, 16), (1, 2, 3)), "PNG")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with run_light_service(
        tmp_path_factory.mktemp("service"),
        trusted_proxies=1,
        trusted_hosts=HOST,
        cors_origins="https://a.example",
        url_key=KEY,
        source_networks="127.0.0.0/8",
    ) as running:
        yield running


@pytest.fixture
def nginx(service: Service, tmp_path: Path) -> Iterator[Nginx]:
    """One per test, with the shipped limits."""
    port = httpx.URL(service.url).port or 0
    with run_nginx(tmp_path / "nginx", port, is_http3=True) as running:
        yield running


@pytest.fixture
def client(nginx: Nginx) -> Iterator[httpx.Client]:
    with nginx.http3_client() as client:
        yield client


def test_http_3_is_off_as_shipped(service: Service, tmp_path: Path) -> None:
    with (
        run_nginx(tmp_path / "nginx", httpx.URL(service.url).port or 0) as nginx,
        nginx.client() as client,
    ):
        assert "Alt-Svc" not in client.get("/").headers
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind(("127.0.0.1", nginx.port))


def test_other_names_get_neither_handshake_nor_answer(nginx: Nginx, client: httpx.Client) -> None:
    with pytest.raises(ConnectionError):
        Http3Transport(nginx.port, "evil.example", nginx.folder / "fullchain.pem")
    for host in ("evil.example", f"x.{HOST}", "127.0.0.1", f"user@{HOST}"):
        with pytest.raises(httpx.RemoteProtocolError, match="stream reset"):
            client.get("/", headers={"Host": host})
    assert client.get("/").status_code == 200


def test_own_page_uploads_and_another_does_not(client: httpx.Client) -> None:
    for origin, status in ((f"https://{HOST}", 200), ("https://evil.example", 403)):
        headers = {"Content-Type": "image/png", "Origin": origin}
        assert client.post("/api/enhance", content=PICTURE, headers=headers).status_code == status


def test_upload_that_pauses_arrives(client: httpx.Client) -> None:
    def in_three_pieces() -> Iterator[bytes]:
        yield PICTURE[:10]
        time.sleep(1)
        yield PICTURE[10:20]
        time.sleep(1)
        yield PICTURE[20:]

    headers = {"Content-Type": "image/png"}
    paused = client.post("/api/enhance", content=in_three_pieces(), headers=headers)
    assert paused.status_code == 200
    assert paused.content == client.post("/api/enhance", content=PICTURE, headers=headers).content


def test_body_without_length_is_refused_where_none_belongs(
    nginx: Nginx, client: httpx.Client
) -> None:
    pieces = (b"x" * 1000 for _ in range(200))
    response = client.post("/api/stats", content=pieces)
    assert (response.status_code, response.json()["code"]) == (413, "too_large")
    assert not [path for path in (nginx.folder / "body").rglob("*") if path.is_file()]


def test_page_with_its_files_and_results_passes_at_once(client: httpx.Client) -> None:
    headers = {"Content-Type": "image/png"}
    link = client.post("/api/enhance", content=PICTURE, headers=headers).links["canonical"]["url"]
    paths = ["/", "/static/client.js", "/api/stats", "/health", httpx.URL(link).path] * 20
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(client.get, paths))
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.headers.get("X-Cache-Status") for answer in answers[-5:]} == {None, "HIT"}


def test_requests_are_limited_on_one_connection(service: Service, tmp_path: Path) -> None:
    port = httpx.URL(service.url).port or 0
    with (
        run_nginx(tmp_path / "nginx", port, is_http3=True, rate="1r/m") as nginx,
        nginx.http3_client() as client,
    ):
        answers = [client.get("/api/stats") for _ in range(205)]
    limited = [answer for answer in answers if answer.status_code == 429]
    assert 1 <= len(limited) <= 5
    assert limited[0].json()["code"] == "rate_limited"
    assert limited[0].headers["Retry-After"] == "5"


def test_image_by_its_address_is_kept_whole_and_served_in_parts(
    client: httpx.Client, sources: SourceServer
) -> None:
    headers = {"Cache-Control": "max-age=600"}
    sources.pages["/a.png"] = Page(PICTURE, headers=headers)
    path = sign_address(KEY, ImageRequest(sources.url("/a.png"), "png", {}))
    whole = client.get(path)
    assert (whole.status_code, whole.headers["X-Cache-Status"]) == (200, "MISS")
    part = client.get(path, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.headers["X-Cache-Status"]) == (206, "HIT")
    assert part.content == whole.content[10:20]
