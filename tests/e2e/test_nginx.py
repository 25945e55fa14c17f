"""Every path through the shipped nginx.conf, with the real service behind it."""

import hashlib
import os
import re
import socket
import ssl
import subprocess
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import httpx
import numpy as np
import pytest
from PIL import Image

from superres.paths import PROJECT_DIR
from superres.settings import Settings
from testkit import loopback
from testkit.pictures import encode
from testkit.service import Service, run_service
from tests.e2e.nginx import HOST, Nginx, assert_problem, has_http3, needs_http3, run_nginx

LISTED = "https://a.example"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    with run_service(folder, trusted_proxies=1, cors_origins=LISTED, trusted_hosts=HOST) as running:
        yield running


@pytest.fixture(scope="module")
def nginx(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    app_port = int(service.url.rsplit(":", 1)[1])
    folder = tmp_path_factory.mktemp("nginx") / "nginx"
    with run_nginx(folder, app_port, is_http3=has_http3(), rate="1000r/s") as running:
        yield running


@pytest.fixture(params=["HTTP/1.1", pytest.param("HTTP/3", marks=needs_http3())])
def client(request: pytest.FixtureRequest, nginx: Nginx) -> Iterator[httpx.Client]:
    opened = nginx.http3_client() if request.param == "HTTP/3" else nginx.client()
    with opened as client:
        yield client


def public_url(client: httpx.Client) -> str:
    return f"https://{client.headers['Host']}"


def colour_of(client: httpx.Client, shade: int) -> tuple[int, int, int]:
    """Return another colour for each protocol, whose tests share the service."""
    return (shade, 50, 60 if ":" in client.headers["Host"] else 160)


def upload(client: httpx.Client, shade: int = 0, **headers: str) -> httpx.Response:
    picture = encode(Image.new("RGB", (16, 16), colour_of(client, shade)), "PNG")
    return client.post("/api/enhance", files={"image": ("a.png", picture)}, headers=headers)


def store(client: httpx.Client, shade: int) -> str:
    """Upload an image and return the path of its result."""
    link = upload(client, shade).headers["Link"]
    match = re.fullmatch(rf"<{public_url(client)}(/cache/.*)>; rel=\"canonical\"", link)
    assert match is not None, link
    return match[1]


def asked_of_the_service(service: Service, path: str) -> int:
    return service.log.count(f" request: GET {path} ")


# --- an image's path


def test_picture_is_enlarged_and_its_address_is_the_public_one(client: httpx.Client) -> None:
    response = upload(client, 1)
    assert response.status_code == 200
    assert Image.open(BytesIO(response.content)).size == (48, 48)
    assert response.headers["Link"].startswith(f"<{public_url(client)}/cache/")
    assert response.headers["ETag"].startswith('"')
    assert response.headers["Strict-Transport-Security"] == "max-age=63072000"
    assert "Content-Encoding" not in response.headers


def make_form(file_name: bytes) -> bytes:
    head = (
        b'--B\r\nContent-Disposition: form-data; name="image"; filename="'
        + file_name
        + b'"\r\n\r\n'
    )
    return head + encode(Image.new("RGB", (8, 8)), "PNG") + b"\r\n--B--\r\n"


FORM = {"Content-Type": "multipart/form-data; boundary=B"}


def test_form_in_chunks_with_a_name_in_another_encoding_arrives(client: httpx.Client) -> None:
    form = make_form("café.png".encode("latin-1"))
    pieces = (form[start : start + 50] for start in range(0, len(form), 50))
    response = client.post("/api/enhance", content=pieces, headers=FORM)
    assert response.status_code == 200
    assert response.headers["Content-Disposition"].endswith("filename*=UTF-8''caf%C3%A9_x3.png")


def test_form_that_ends_too_soon_is_told_so(client: httpx.Client) -> None:
    response = client.post("/api/enhance", content=make_form(b"a.png")[:-9], headers=FORM)
    assert (response.status_code, response.json()["code"]) == (400, "bad_request")
    assert "closing boundary" in response.json()["error"]


def test_result_comes_from_the_cache_of_nginx_without_asking_the_service(
    client: httpx.Client, service: Service
) -> None:
    path = store(client, 2)
    answers = [client.get(path, headers={"Accept-Encoding": "gzip"}) for _ in range(4)]
    assert [answer.headers["X-Cache-Status"] for answer in answers] == ["MISS"] + ["HIT"] * 3
    assert asked_of_the_service(service, path) == 1
    assert len({answer.content for answer in answers}) == 1
    for answer in answers:
        assert answer.headers["ETag"] == answers[0].headers["ETag"]
        assert answer.headers["Cache-Control"] == "public, max-age=2592000, immutable"
        assert answer.headers.get_list("Access-Control-Allow-Origin") == ["*"]
        assert "Content-Encoding" not in answer.headers
    unchanged = client.get(path, headers={"If-None-Match": answers[0].headers["ETag"]})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert client.head(path).headers["Content-Length"] == str(len(answers[0].content))
    assert asked_of_the_service(service, path) == 1


def test_no_origin_adds_a_copy_and_every_origin_may_read_the_one(
    client: httpx.Client, service: Service
) -> None:
    path = store(client, 3)
    for origin in (None, LISTED, "https://evil.test", "null", None, LISTED):
        headers = {"Origin": origin} if origin else {}
        response = client.get(f"{path}?query={origin}", headers=headers)
        assert response.headers.get_list("Access-Control-Allow-Origin") == ["*"]
    assert asked_of_the_service(service, path) == 1


@pytest.mark.parametrize("is_first", [True, False])
def test_downloads_and_others_get_one_copy(
    client: httpx.Client, service: Service, is_first: bool
) -> None:
    path = store(client, 16 + is_first)
    if is_first:
        client.get(f"{path}?download=1")
    shown, saved = client.get(path), client.get(f"{path}?download=1")
    part = client.get(f"{path}?download=1", headers={"Range": "bytes=0-9"})
    assert asked_of_the_service(service, path) == 1
    assert "Content-Disposition" not in shown.headers
    key, variant, _ = path.removeprefix("/cache/").split(".")
    for response in (saved, part):
        disposition = response.headers.get_list("Content-Disposition")
        assert disposition == [f'attachment; filename="{key[:8]}-{variant}.png"']
    assert (saved.content, saved.headers["ETag"]) == (shown.content, shown.headers["ETag"])
    # As from the service itself.
    direct = loopback.get(f"{service.url}{path}?download=1")
    assert direct.headers["Content-Disposition"] == disposition[0]
    missing = client.get(f"/cache/{'0' * 64}.{variant}.png?download=1")
    assert missing.status_code == 404
    assert "Content-Disposition" not in missing.headers


def test_many_at_once_ask_the_service_once(client: httpx.Client, service: Service) -> None:
    path = store(client, 4)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.get(path), range(24)))
    assert {answer.status_code for answer in answers} == {200}
    assert asked_of_the_service(service, path) == 1


def test_parts_of_a_result_come_from_the_cache(client: httpx.Client) -> None:
    path = store(client, 5)
    whole = client.get(path)
    for _ in range(2):
        part = client.get(path, headers={"Range": "bytes=10-19"})
        assert (part.status_code, part.content) == (206, whole.content[10:20])
        assert part.headers["Content-Range"] == f"bytes 10-19/{len(whole.content)}"
        assert "Content-Range" in part.headers["Access-Control-Expose-Headers"]
    beyond = client.get(path, headers={"Range": "bytes=9999999-"})
    assert beyond.status_code == 416
    names = list(beyond.headers.keys())
    assert [len(beyond.headers.get_list(name)) for name in names] == [1] * len(names)
    assert {"strict-transport-security", "x-cache-status", "x-request-id"} <= set(names)


def test_no_client_sees_another_ones_request_id(client: httpx.Client) -> None:
    path = store(client, 6)
    for number in range(3):
        response = client.get(path, headers={"X-Request-ID": f"client-{number}"})
        assert response.headers.get_list("X-Request-ID") == [f"client-{number}"]
    made = client.get(path, headers={"X-Request-ID": "not well formed"}).headers["X-Request-ID"]
    assert re.fullmatch(r"[0-9a-f]{32}", made)
    api = client.get("/api/health", headers={"X-Request-ID": "client-9"})
    assert api.headers.get_list("X-Request-ID") == ["client-9"]


def test_api_is_never_cached_and_cors_comes_from_the_service_alone(client: httpx.Client) -> None:
    for origin, allowed in ((LISTED, [LISTED]), ("https://evil.test", []), (LISTED, [LISTED])):
        response = client.get("/api/stats", headers={"Origin": origin})
        assert response.headers.get_list("Access-Control-Allow-Origin") == allowed
        assert response.headers.get_list("Vary") and "Origin" in response.headers["Vary"]
        assert "X-Cache-Status" not in response.headers
    assert upload(client, 7, Origin="https://evil.test").status_code == 403
    assert upload(client, 7, Origin=f"https://{client.headers['Host']}").status_code == 200


def test_rest_of_the_surface_is_reached(client: httpx.Client) -> None:
    picture = encode(Image.new("RGB", (16, 16), (10, 50, 60)), "PNG")
    sent = client.post("/api/enhance", files={"image": ("a.png", picture)})
    found = client.get("/api/result", params={"sha256": hashlib.sha256(picture).hexdigest()})
    assert f"<{found.json()['url']}>" in sent.headers["Link"]
    assert found.json()["exists"] is True
    assert client.get("/api/ready").status_code == 200
    preflight = client.options(
        "/api/enhance", headers={"Origin": LISTED, "Access-Control-Request-Method": "POST"}
    )
    assert preflight.headers.get_list("Access-Control-Allow-Origin") == [LISTED]
    refused = client.get("/api/enhance")
    assert refused.status_code == 405
    assert set(refused.headers["Allow"].split(", ")) == {"POST", "OPTIONS"}
    page = client.get("/", headers={"Accept-Encoding": "gzip"})
    assert page.headers["Content-Encoding"] == "gzip"
    assert "frame-ancestors 'none'" in page.headers["Content-Security-Policy"]
    module = client.get("/static/client.js")
    assert module.headers.get_list("Access-Control-Allow-Origin") == ["*"]
    assert client.get("/no/such/page").json()["code"] == "not_found"


def test_text_is_compressed(client: httpx.Client) -> None:
    response = client.get("/api/stats", headers={"Accept-Encoding": "gzip"})
    assert response.headers["Content-Encoding"] == "gzip"
    assert response.json()["model_loaded"] is True


# --- asynchronous jobs


def upload_large(client: httpx.Client, shade: int, **headers: str) -> httpx.Response:
    """Upload an image that takes some seconds: all of its tiles differ."""
    pixels = np.random.default_rng(colour_of(client, shade)).integers(0, 256, (60, 60, 3), np.uint8)
    picture = encode(Image.fromarray(pixels).resize((600, 600)), "JPEG", quality=50)
    return client.post("/api/enhance", files={"image": ("a.jpg", picture)}, headers=headers)


def test_asynchronous_job_through_nginx(client: httpx.Client) -> None:
    accepted = upload_large(client, 1, Prefer="respond-async", Origin=LISTED)
    assert accepted.status_code == 202
    assert accepted.headers["Preference-Applied"] == "respond-async"
    assert accepted.headers.get_list("Access-Control-Allow-Origin") == [LISTED]
    assert "Location" in accepted.headers["Access-Control-Expose-Headers"]
    location = accepted.headers["Location"]
    assert location.startswith(f"{public_url(client)}/api/jobs/")
    path = httpx.URL(location).path
    status = accepted.json()
    while status["state"] in {"queued", "running"}:
        answer = client.get(path, headers={"Prefer": "wait=10"})
        assert answer.headers["Cache-Control"] == "no-store"
        status = answer.json()
    assert status["state"] == "done"
    result = client.get(httpx.URL(status["result"]).path)
    assert Image.open(BytesIO(result.content)).size == (1800, 1800)
    again = upload_large(client, 1, Prefer="respond-async")
    assert (again.status_code, again.headers["X-Cache-Hit"]) == (200, "true")


def test_job_is_withdrawn_through_nginx(client: httpx.Client) -> None:
    path = httpx.URL(upload_large(client, 2, Prefer="respond-async").headers["Location"]).path
    assert client.delete(path, headers={"Origin": "https://evil.test"}).status_code == 403
    assert client.delete(path, headers={"Origin": LISTED}).status_code == 204
    assert client.get(path).json()["state"] == "cancelled"
    assert_problem_of_the_service(client.get("/api/jobs/unknown"), 404, "job_not_found")


def test_client_that_leaves_through_nginx_ends_its_job(
    client: httpx.Client, nginx: Nginx, service: Service
) -> None:
    before = client.get("/api/stats").json()["inferences"]
    with nginx.client() as leaving, pytest.raises(httpx.ReadTimeout):
        leaving.timeout = httpx.Timeout(5, read=0.7)
        upload_large(leaving, 3)
    deadline = time.monotonic() + 10
    while client.get("/api/stats").json()["queue_pixels"]:
        assert time.monotonic() < deadline
    assert client.get("/api/stats").json()["inferences"] == before
    assert " 408 " in service.log


def assert_problem_of_the_service(response: httpx.Response, status: int, code: str) -> None:
    assert response.status_code == status
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.json()["code"] == code


# --- names, TLS, closed paths


def test_plain_http_is_redirected_to_the_fixed_name(nginx: Nginx) -> None:
    response = loopback.post(
        f"http://127.0.0.1:{nginx.plain_port}/api/enhance?a=b", headers={"Host": HOST}
    )
    assert response.status_code == 308
    assert response.headers["Location"] == f"https://{HOST}/api/enhance?a=b"
    assert response.headers["Server"] == "nginx"  # without its version


@pytest.mark.parametrize("path", ["/", "/metrics", "/cache/none.png", "/image/none"])
def test_http_3_is_named_over_tls_where_it_is_spoken(nginx: Nginx, path: str) -> None:
    expected = ['h3=":443"; ma=86400'] if has_http3() else []
    with nginx.client() as client:
        assert client.get(path).headers.get_list("Alt-Svc") == expected
    plain = loopback.get(f"http://127.0.0.1:{nginx.plain_port}{path}", headers={"Host": HOST})
    assert "Alt-Svc" not in plain.headers


def test_file_that_proves_the_name_is_served_without_tls_and_nothing_beside_it(
    nginx: Nginx,
) -> None:
    folder = nginx.folder / "acme" / ".well-known" / "acme-challenge"
    (folder / "folder").mkdir(parents=True)
    (folder / "Token-1_").write_text("Token-1_.thumbprint")
    (folder / "a.txt").write_text("secret")
    (folder.parent.parent / "secret").write_text("secret")
    with httpx.Client(
        base_url=f"http://127.0.0.1:{nginx.plain_port}", headers={"Host": HOST}
    ) as client:
        start = "/.well-known/acme-challenge/"
        proof = client.get(f"{start}Token-1_")
        assert (proof.status_code, proof.text) == (200, "Token-1_.thumbprint")
        assert proof.headers["Content-Type"] == "text/plain"
        assert client.post(f"{start}Token-1_").status_code == 308
        for name in ("", "folder/", "a.txt", "none", "%2e%2e/%2e%2e/secret"):
            response = client.get(f"{start}{name}")
            assert response.status_code == 308
            assert response.headers["Location"] == f"https://{HOST}{start}{name}"
        with pytest.raises(httpx.RemoteProtocolError):
            client.get(f"{start}Token-1_", headers={"Host": "evil.test"})


def test_unknown_host_is_refused(nginx: Nginx) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        loopback.get(f"http://127.0.0.1:{nginx.plain_port}/", headers={"Host": "evil.test"})
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"https://127.0.0.1:{nginx.port}/")


@pytest.mark.parametrize(
    ("version", "spoken"),
    [
        (ssl.TLSVersion.TLSv1_3, "TLSv1.3"),
        (ssl.TLSVersion.TLSv1_2, "TLSv1.2"),
        (ssl.TLSVersion.TLSv1_1, None),
    ],
)
def test_tls_1_2_and_1_3_are_spoken_and_older_ones_are_not(
    nginx: Nginx, version: ssl.TLSVersion, spoken: str | None
) -> None:
    context = ssl.create_default_context(cafile=str(nginx.folder / "fullchain.pem"))
    context.set_ciphers("ALL:@SECLEVEL=0")  # otherwise the client itself would refuse TLS 1.1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version
    with socket.create_connection(("127.0.0.1", nginx.port), timeout=10) as connection:
        try:
            with context.wrap_socket(connection, server_hostname=HOST) as secured:
                assert secured.version() == spoken
        except ssl.SSLError:
            assert spoken is None


def test_curl_speaks_http_2(nginx: Nginx) -> None:
    done = subprocess.run(
        [
            *("curl", "--silent", "--http2", "--cacert", str(nginx.folder / "fullchain.pem")),
            *("--resolve", f"{HOST}:{nginx.port}:127.0.0.1", f"{nginx.url}/api/health"),
            *("--output", "/dev/null", "--write-out", "%{http_version} %{http_code}"),
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout == "2 200"


def test_health_is_at_its_short_address_and_metrics_are_closed(client: httpx.Client) -> None:
    assert client.get("/health").json()["status"] == "healthy"
    assert client.get("/metrics").status_code == 404


def test_address_that_a_client_claims_is_not_believed(
    client: httpx.Client, service: Service
) -> None:
    response = client.get(
        "/api/health", headers={"X-Forwarded-For": "6.6.6.6", "X-Forwarded-Prefix": "/evil"}
    )
    assert response.status_code == 200
    link = upload(client, 8, **{"X-Forwarded-Prefix": "/evil"}).headers["Link"]
    assert "/evil" not in link


def test_smoke_test_passes_through_nginx(nginx: Nginx) -> None:
    options = [
        f"--cacert {nginx.folder / 'fullchain.pem'}",
        f"--connect-to {HOST}:443:127.0.0.1:{nginx.port}",
        f"--connect-to {HOST}:80:127.0.0.1:{nginx.plain_port}",
    ]
    done = subprocess.run(
        [str(PROJECT_DIR / "deploy_test.sh"), f"https://{HOST}", LISTED],
        env={**os.environ, "CURL_OPTIONS": " ".join(options)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "pass  http is redirected without changing the method" in done.stdout


# --- Nginx's own errors


def test_method_that_nginx_refuses_is_405(client: httpx.Client, nginx: Nginx) -> None:
    assert_problem(client.request("TRACE", "/"), 405, "method_not_allowed")
    plain = httpx.request("TRACE", f"http://127.0.0.1:{nginx.plain_port}/", headers={"Host": HOST})
    assert_problem(plain, 405, "method_not_allowed")


def test_headers_that_are_too_large_are_431(nginx: Nginx) -> None:
    """Not over HTTP/3, where Nginx lets 9 KB pass to the service, and ends requests with 40 KB."""
    cookies = {"Host": HOST, "Cookie": "x" * 9000}
    with nginx.client() as client:
        assert_problem(client.get("/api/health", headers=cookies), 431, "headers_too_large")
    plain = httpx.get(f"http://127.0.0.1:{nginx.plain_port}/", headers=cookies)
    assert_problem(plain, 431, "headers_too_large")


@pytest.mark.parametrize("path", ["/api/enhance", "/api/preview"])
def test_upload_over_the_limit_is_413_and_never_502(client: httpx.Client, path: str) -> None:
    for size in (16 * 1024**2 + 65 * 1024, 40 * 1024**2):
        response = client.post(path, content=b"x" * size, headers={"Content-Type": "image/png"})
        assert_problem(response, 413, "too_large")
        limit = Settings.max_upload_bytes // 1024**2
        assert f"The upload has more than {limit} MB, the most" in response.json()["error"]


def test_preview_of_a_large_file_passes(client: httpx.Client) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (300, 300, 3), np.uint8)
    tiff = encode(Image.fromarray(noise), "TIFF")
    response = client.post("/api/preview", files={"image": ("a.tiff", tiff)})
    assert response.headers["Cache-Control"] == "no-store"
    np.testing.assert_array_equal(np.asarray(Image.open(BytesIO(response.content))), noise)


def test_upload_within_the_limit_of_nginx_and_over_the_services_is_its_413(
    client: httpx.Client,
) -> None:
    response = client.post(
        "/api/enhance", content=b"x" * (16 * 1024**2 + 1), headers={"Content-Type": "image/png"}
    )
    assert response.status_code == 413
    assert response.json()["error"].startswith("The upload has 16.000001 MB; at most 16 ")
