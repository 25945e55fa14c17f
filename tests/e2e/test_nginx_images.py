"""Images by their addresses through the shipped nginx.conf: what it keeps, for whom, how long."""

import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from PIL import Image

from superres.sources.signed_address import AUTO, ImageRequest, sign_address
from testkit import loopback
from testkit.pictures import encode
from testkit.service import Service, run_light_service
from testkit.source_server import Page, SourceServer, run_source_server
from testkit.waiting import wait_until
from tests.e2e.nginx import HOST, Nginx, run_nginx

KEY = "k" * 32
FRESH = {"Cache-Control": "max-age=600"}


@pytest.fixture(scope="module")
def sources() -> Iterator[SourceServer]:
    with run_source_server() as server:
        yield server


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with run_light_service(
        tmp_path_factory.mktemp("service"),
        trusted_proxies=1,
        trusted_hosts=HOST,
        url_key=KEY,
        source_networks="127.0.0.0/8",
    ) as running:
        yield running


@pytest.fixture(scope="module")
def nginx(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    folder = tmp_path_factory.mktemp("nginx") / "nginx"
    with run_nginx(folder, httpx.URL(service.url).port or 0) as running:
        yield running


@pytest.fixture
def client(nginx: Nginx) -> Iterator[httpx.Client]:
    with nginx.client() as client:
        yield client


def picture(shade: int, mode: str = "RGB") -> bytes:
    return encode(Image.new(mode, (12, 8), (shade, 50, 60, 128)[: len(mode)]), "PNG")


def publish(
    sources: SourceServer, shade: int, image_format: str = "png", mode: str = "RGB", **headers: str
) -> str:
    """Put an image on its server; return the path that asks for it, enhanced."""
    path = f"/{shade}-{mode}.png"
    named = {name.replace("_", "-"): value for name, value in headers.items()} or FRESH
    sources.pages[path] = Page(picture(shade, mode), headers=named)
    return sign(sources.url(path), image_format)


def sign(source: str, image_format: str = "png", falls_back: bool = False) -> str:
    request = ImageRequest(source, image_format, {"quality": "80"}, falls_back=falls_back)
    if image_format == "png":
        request = ImageRequest(source, image_format, {}, falls_back=falls_back)
    return sign_address(KEY, request)


def shade_of(response: httpx.Response) -> int:
    assert response.status_code == 200, response.text
    shade = Image.open(BytesIO(response.content)).convert("RGB").getpixel((18, 12))
    assert isinstance(shade, tuple)
    return int(shade[0])


def asked_of_the_service(service: Service, path: str) -> int:
    return service.log.count(f" request: GET {quote(path)} ")


def assert_is_not_kept(response: httpx.Response, status: int) -> None:
    assert response.status_code == status
    assert response.headers["Cache-Control"].startswith("no-store")
    assert response.headers.get_list("Access-Control-Allow-Origin") == ["*"]


# --- one copy for all


def test_image_comes_from_the_cache_of_nginx_for_every_page(
    client: httpx.Client, sources: SourceServer, service: Service
) -> None:
    path = publish(sources, 1)
    first = client.get(path)
    etag = first.headers["ETag"]
    assert shade_of(first) == 1
    origins: tuple[dict[str, str], ...] = ({}, {"Origin": "https://a.example"}, {"Origin": "null"})
    for number, headers in enumerate(origins):
        response = client.get(f"{path}?page={number}", headers=headers)
        assert response.headers["X-Cache-Status"] == "HIT"
        assert (response.content, response.headers["ETag"]) == (first.content, etag)
        assert response.headers["Cache-Control"] == "public, max-age=600"
        assert response.headers["Content-Disposition"] == 'inline; filename="1-RGB.png"'
        assert response.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
        assert response.headers.get_list("Access-Control-Allow-Origin") == ["*"]
        assert "X-Accel-Expires" not in response.headers
        assert "Vary" not in response.headers
    head = client.head(path)
    assert (head.headers["Content-Length"], head.content) == (str(len(first.content)), b"")
    unchanged = client.get(path, headers={"If-None-Match": etag})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert unchanged.headers["ETag"] == etag
    other = client.get(path, headers={"If-None-Match": '"other"'})
    # Images have no date: one may have been stored before the one that it replaces.
    dated = client.get(path, headers={"If-Modified-Since": "Thu, 01 Jan 2099 00:00:00 GMT"})
    assert other.status_code == dated.status_code == 200
    assert asked_of_the_service(service, path) == 1


def test_parts_of_an_image_are_of_the_same_image(
    client: httpx.Client, sources: SourceServer, service: Service
) -> None:
    path = publish(sources, 2)
    # Also while there is no copy yet.
    parts = [client.get(path, headers={"Range": "bytes=10-19"}) for _ in range(2)]
    whole = client.get(path)
    for part in parts:
        assert (part.status_code, part.content) == (206, whole.content[10:20])
        assert part.headers["Content-Range"] == f"bytes 10-19/{len(whole.content)}"
    for tag, status in ((whole.headers["ETag"], 206), ('"of-another-image"', 200)):
        again = client.get(path, headers={"Range": "bytes=10-19", "If-Range": tag})
        assert again.status_code == status
    assert asked_of_the_service(service, path) == 1


AVIF, WEBP, JPEG, PNG = (f"image/{name}" for name in ("avif", "webp", "jpeg", "png"))
ACCEPTED = (
    ("image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8", AVIF),  # Chromium
    ("image/avif,image/webp,image/png,image/svg+xml,image/*;q=0.8,*/*;q=0.5", AVIF),  # Firefox
    (
        "image/webp,image/avif,image/jxl,image/heic,image/heic-sequence,video/*;q=0.8",
        AVIF,
    ),  # Safari
    ("text/html,application/xhtml+xml,image/avif;q=0.1,image/webp,*/*;q=0.8", AVIF),
    ("IMAGE/AVIF", AVIF),
    ("image/webp, image/avif;q=0", WEBP),
    ("image/avif ; q=0.000 , image/webp;q=0.1", WEBP),
    ("image/webp,image/*,*/*;q=0.8", WEBP),
    ("image/avif-sequence,image/webp", WEBP),
    ("image/webp;q=0, image/*", JPEG),
    ("x-image/avif", JPEG),
    ("*/*", JPEG),
    ("", JPEG),
)


def test_auto_has_three_copies_whatever_clients_accept(
    client: httpx.Client, sources: SourceServer, service: Service
) -> None:
    path = publish(sources, 3, AUTO)
    for _ in range(2):
        for accept, media_type in ACCEPTED:
            response = client.get(path, headers={"Accept": accept})
            assert response.headers["Content-Type"] == media_type, accept
            assert response.headers.get_list("Vary") == ["Accept"]
    assert asked_of_the_service(service, path) == 3
    # As the service itself chooses.
    for accept, media_type in ACCEPTED:
        direct = loopback.get(f"{service.url}{path}", headers={"Accept": accept})
        assert direct.headers["Content-Type"] == media_type, accept
    etags = {client.get(path, headers={"Accept": each}).headers["ETag"] for each, _ in ACCEPTED}
    assert len(etags) == 3
    transparent = client.get(publish(sources, 3, AUTO, "RGBA"), headers={"Accept": "*/*"})
    assert transparent.headers["Content-Type"] == PNG


def test_named_format_has_one_copy_whatever_clients_accept(
    client: httpx.Client, sources: SourceServer, service: Service
) -> None:
    path = publish(sources, 4, "webp")
    for accept, _ in ACCEPTED:
        assert client.get(path, headers={"Accept": accept}).headers["Content-Type"] == WEBP
    assert asked_of_the_service(service, path) == 1


def test_crowd_waits_in_nginx_for_one_new_image(
    sources: SourceServer, service: Service, tmp_path: Path
) -> None:
    path = publish(sources, 5)
    may_arrive = threading.Event()
    sources.pages["/5-RGB.png"].before = may_arrive.wait
    port = httpx.URL(service.url).port or 0
    with run_nginx(tmp_path / "nginx", port, proxy_cache_lock_timeout="60s") as nginx:

        def get(_: int) -> int:
            with nginx.client() as client:
                return shade_of(client.get(path))

        with ThreadPoolExecutor(20) as pool:
            answers = pool.map(get, range(20))
            wait_until(lambda: bool(sources.asked("/5-RGB.png")))
            may_arrive.set()
            assert set(answers) == {5}
    assert asked_of_the_service(service, path) == 1


# --- for how long


def test_copy_is_kept_for_a_tenth_of_its_time(
    client: httpx.Client, sources: SourceServer, service: Service
) -> None:
    path = publish(sources, 6, Cache_Control="max-age=10")
    assert client.get(path).headers["X-Cache-Status"] == "MISS"
    sources.pages["/6-RGB.png"] = Page(picture(7), headers={"Cache-Control": "max-age=10"})
    # The service is asked again while the source's own 10 seconds are not over.
    wait_until(lambda: client.get(path).headers["X-Cache-Status"] == "EXPIRED")
    wait_until(lambda: int(client.get(path).headers["Age"]) > 0)
    wait_until(lambda: shade_of(client.get(path)) == 7)
    assert len(sources.asked("/6-RGB.png")) == 2
    again = client.get(path)
    assert again.headers["Cache-Control"] == "public, max-age=10"
    assert int(again.headers["Age"]) <= 10


@pytest.mark.parametrize(
    ("shade", "directives"),
    [
        (8, "max-age=9"),
        (9, "max-age=0"),
        (10, "no-cache"),
        (11, "private, max-age=600"),
        (12, "max-age=600, must-revalidate"),
        (19, "max-age=600, stale-if-error=60"),
    ],
)
def test_what_is_fresh_for_too_short_or_never_stale_is_not_kept(
    client: httpx.Client, sources: SourceServer, service: Service, shade: int, directives: str
) -> None:
    path = publish(sources, shade, Cache_Control=directives)
    for _ in range(3):
        assert shade_of(client.get(path)) == shade
    assert asked_of_the_service(service, path) == 3


@pytest.mark.parametrize(("shade", "directives"), [(20, "no-cache"), (21, "max-age=600")])
def test_client_with_a_copy_gets_304_though_nginx_has_none(
    client: httpx.Client,
    sources: SourceServer,
    service: Service,
    tmp_path: Path,
    shade: int,
    directives: str,
) -> None:
    path = publish(sources, shade, Cache_Control=directives)
    etag = client.get(path).headers["ETag"]
    port = httpx.URL(service.url).port or 0
    with run_nginx(tmp_path / "nginx", port) as other, other.client() as visitor:
        for _ in range(2):
            unchanged = visitor.get(path, headers={"If-None-Match": f'"old", {etag}'})
            assert (unchanged.status_code, unchanged.content) == (304, b"")
            assert unchanged.headers["ETag"] == etag
            assert unchanged.headers["X-Cache-Status"] == "MISS"
        # Somebody else, who has no copy.
        assert shade_of(visitor.get(path)) == shade
        changed = visitor.get(path, headers={"If-None-Match": '"old"'})
        assert shade_of(changed) == shade


# --- what is not kept


def test_errors_and_redirects_are_not_kept(
    client: httpx.Client, sources: SourceServer, service: Service
) -> None:
    signed = publish(sources, 13)
    sources.pages["/broken"] = Page(b"", 500)
    for path, status in (
        (signed.replace("/scale:3/", "/scale:2/"), 403),
        (sign("http://10.0.0.1/a.png"), 403),
        (sign(sources.url("/none")), 404),
        (sign(sources.url("/broken")), 502),
        (sign(sources.url("/broken"), falls_back=True), 302),
    ):
        for _ in range(3):
            assert_is_not_kept(client.get(path), status)
        assert asked_of_the_service(service, path) == 3
    assert client.get(sign(sources.url("/broken"))).json()["code"] == "source_unavailable"


def test_methods_but_get_and_head_are_refused(client: httpx.Client, sources: SourceServer) -> None:
    path = publish(sources, 14)
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        refused = client.request(method, path)
        assert_is_not_kept(refused, 405)
        assert set(refused.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}
    assert client.post(path, content=b"x" * 5000).status_code == 413
    preflight = client.options(
        path,
        headers={
            "Origin": "https://a.example",
            "Access-Control-Request-Method": "GET",
            "Access-Control-Request-Headers": "if-none-match",
        },
    )
    assert preflight.status_code == 200
    assert preflight.headers.get_list("Access-Control-Allow-Origin") == ["*"]
    assert shade_of(client.get(path)) == 14


# --- while something is away


def test_old_copies_are_shown_while_the_service_is_away(
    tmp_path: Path, sources: SourceServer
) -> None:
    with (
        run_light_service(
            tmp_path / "service",
            trusted_proxies=1,
            trusted_hosts=HOST,
            url_key=KEY,
            source_networks="127.0.0.0/8",
        ) as service,
        run_nginx(tmp_path / "nginx", httpx.URL(service.url).port or 0) as nginx,
        nginx.client() as client,
    ):
        path = publish(sources, 15, Cache_Control="max-age=10")
        strict = publish(sources, 16, Cache_Control="max-age=600, must-revalidate")
        assert [shade_of(client.get(each)) for each in (path, strict)] == [15, 16]
        service.kill()
        wait_until(lambda: client.get(path).headers["X-Cache-Status"] == "STALE")
        assert shade_of(client.get(path)) == 15
        away = client.get(strict)
        assert_is_not_kept(away, 502)
        assert away.json()["code"] == "unavailable"


def test_old_copy_is_shown_when_the_service_has_lost_it_and_its_source_is_down(
    client: httpx.Client, sources: SourceServer, service: Service
) -> None:
    path = publish(sources, 17, Cache_Control="max-age=10")
    assert shade_of(client.get(path)) == 17
    for result in (service.folder / "cache").rglob("*.png"):
        result.unlink()
    sources.is_down = True
    try:
        wait_until(lambda: client.get(path).headers["X-Cache-Status"] == "STALE")
        assert shade_of(client.get(path)) == 17
    finally:
        sources.is_down = False


# --- limits


@pytest.mark.parametrize("version", ["--http2", "--http1.1"])
def test_pages_with_thirty_images_pass(nginx: Nginx, sources: SourceServer, version: str) -> None:
    first = 100 if version == "--http2" else 150
    paths = [publish(sources, shade, AUTO) for shade in range(first, first + 30)]
    targets: list[str] = []
    for path in paths * 3:  # three visitors behind one address
        targets += ["--output", "/dev/null", f"{nginx.url}{path}"]
    command = [
        *("curl", "--silent", version, "--parallel", "--parallel-max", "90"),
        *("--cacert", str(nginx.folder / "fullchain.pem")),
        *("--resolve", f"{HOST}:{nginx.port}:127.0.0.1", "--write-out", "%{http_code}\n"),
    ]
    done = subprocess.run(
        [*command, *targets], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.split() == ["200"] * 90


def test_limits_are_its_own(tmp_path: Path, service: Service, sources: SourceServer) -> None:
    path = publish(sources, 18)
    port = httpx.URL(service.url).port or 0
    with run_nginx(tmp_path / "nginx", port, rate="1r/m") as nginx, nginx.client() as client:
        answers = [client.get(path).status_code for _ in range(305)]
        assert set(answers) == {200, 429}
        assert answers.count(429) <= 4
        limited = client.get(path)
        assert_is_not_kept(limited, 429)
        assert limited.headers["Retry-After"] == "5"
        assert client.get("/api/stats").status_code == 200
