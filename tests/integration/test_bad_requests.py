"""A table of bad requests, sent as bytes over a socket to the real service.

Each has one right status. No response may be a 500 or missing, and each must be a problem, even
if gunicorn rejects a request that the application never sees.
"""

import json
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from PIL import Image

from testkit import loopback
from testkit.pictures import encode
from testkit.service import Service, run_light_service

ANSWER_SECONDS = 20
MAX_UPLOAD_BYTES = 100_000
PNG = encode(Image.effect_noise((30, 30), 90), "PNG")


@dataclass(frozen=True)
class Case:
    """A request as bytes, and the expected response."""

    name: str
    request: bytes
    status: int
    cut_short: bool = False  # the client stops sending and waits


def make_request(
    body: bytes = b"",
    *headers: str,
    line: str = "POST /api/enhance HTTP/1.1",
    length: int | None = None,
) -> bytes:
    """Return a request with a Host and a Content-Length."""
    size = len(body) if length is None else length
    head = [line, "Host: localhost", f"Content-Length: {size}", "Connection: close", *headers]
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body


def make_part(disposition: str, content: bytes = PNG, *headers: str) -> bytes:
    """Return one part of a form with the boundary `x`."""
    head = "\r\n".join([f"Content-Disposition: {disposition}", *headers])
    return b"--x\r\n" + head.encode() + b"\r\n\r\n" + content + b"\r\n"


END = b"--x--\r\n"
FORM = "Content-Type: multipart/form-data; boundary=x"
IMAGE = 'form-data; name="image"; filename="a.png"'


def form(name: str, body: bytes, status: int, content_type: str = FORM) -> Case:
    """Return a case of a multipart form."""
    return Case(f"form: {name}", make_request(body, content_type), status)


def raw(name: str, body: bytes, status: int, *headers: str) -> Case:
    """Return a case of a raw body."""
    return Case(
        f"raw: {name}", make_request(body, *(headers or ("Content-Type: image/png",))), status
    )


def get(name: str, target: str, status: int, *headers: str, method: str = "GET") -> Case:
    """Return a case without a body."""
    return Case(f"{name}", make_request(b"", *headers, line=f"{method} {target} HTTP/1.1"), status)


def host(name: str, lines: bytes, status: int) -> Case:
    """Return a case of Host lines, or none."""
    request = b"GET /api/health HTTP/1.1\r\n" + lines + b"Connection: close\r\n\r\n"
    return Case(f"host: {name}", request, status)


def chunk(content: bytes) -> bytes:
    """Return one chunk of a chunked body."""
    return f"{len(content):x}\r\n".encode() + content + b"\r\n"


CHUNKED_HEAD = (
    b"POST /api/enhance HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    b"Content-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
)
RESULT = f"/cache/{'a' * 64}.{'b' * 12}.png"

CASES = [
    # multipart faults
    form("no parts", END, 400),
    form("empty body", b"", 400),
    form("another field", make_part('form-data; name="photo"; filename="a.png"') + END, 400),
    form("field in another case", make_part('form-data; name="IMAGE"; filename="a.png"') + END, 400),
    form("text as image", make_part('form-data; name="image"', b"hello") + END, 400),
    form("text and file", make_part('form-data; name="image"', b"t") + make_part(IMAGE) + END, 400),
    form("two files", make_part(IMAGE) * 2 + END, 400),
    form("empty file name", make_part('form-data; name="image"; filename=""') + END, 400),
    form("empty file", make_part(IMAGE, b"") + END, 400),
    form("part without disposition", b"--x\r\n\r\nhello\r\n" + END, 400),
    form("part without a name", make_part("form-data") + END, 400),
    form("part without end", make_part(IMAGE), 400),
    form("no end of part headers", b"--x\r\nContent-Disposition: " + IMAGE.encode(), 400),
    form("another boundary", make_part(IMAGE).replace(b"--x", b"--y") + b"--y--\r\n", 400),
    form("not a form at all", PNG, 400),
    form("binary rubbish", bytes(range(256)) * 20, 400),
    form("no boundary", make_part(IMAGE) + END, 400, "Content-Type: multipart/form-data"),
    form("empty boundary", make_part(IMAGE) + END, 400, "Content-Type: multipart/form-data; boundary="),
    form("2,000 fields", make_part('form-data; name="a"', b"1") * 2000 + END, 400),
    form("a long field", make_part('form-data; name="a"', b"1" * 90_000) + END, 400),
    form("a long file name", make_part(f'form-data; name="image"; filename="{"n" * 9000}.png"', b"?") + END, 415),
    form("no picture", make_part(IMAGE, b"hello") + END, 415),
    form("picture cut short", make_part(IMAGE, PNG[:400]) + END, 422),
    form("file over the limit", make_part(IMAGE, b"x" * (MAX_UPLOAD_BYTES + 1)) + END, 413),
    form("body over the limit", make_part(IMAGE, b"x" * 3 * MAX_UPLOAD_BYTES) + END, 413),
    # raw bodies
    raw("empty", b"", 400),
    raw("no picture", b"hello", 415),
    raw("HTML", b"<html></html>", 415),
    raw("PDF", b"%PDF-1.7\n%", 415),
    raw("SVG", b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415),
    raw("PPM, which is not accepted", encode(Image.new("L", (4, 4)), "PPM"), 415),
    raw("picture cut short", PNG[:400], 422),
    raw("signature only", PNG[:8], 422),
    raw("too many pixels", encode(Image.new("1", (9000, 9000)), "PNG"), 422),
    raw("animation", encode(Image.new("L", (4, 4)), "PNG", save_all=True, append_images=[Image.new("L", (4, 4), 9)]), 415),
    raw("over the limit by one byte", b"x" * (MAX_UPLOAD_BYTES + 1), 413),
    raw("far over the limit", b"x" * 20 * MAX_UPLOAD_BYTES, 413),
    raw("no Content-Type", PNG, 415, "X-A: b"),
    raw("empty Content-Type", PNG, 415, "Content-Type:"),
    raw("broken Content-Type", PNG, 415, "Content-Type: ///;;=;"),
    raw("urlencoded, as curl -d sends", PNG, 415, "Content-Type: application/x-www-form-urlencoded"),
    raw("JSON", b'{"image": "aGVsbG8="}', 415, "Content-Type: application/json"),
    raw("text", PNG, 415, "Content-Type: text/plain"),
    raw("gzip", PNG, 415, "Content-Type: image/png", "Content-Encoding: gzip"),
    raw("JSON and no-store", PNG, 400, "Content-Type: image/png", "Accept: application/json", "Cache-Control: no-store"),
    raw("foreign origin", PNG, 403, "Content-Type: image/png", "Origin: https://evil.test"),
    raw("null origin", PNG, 403, "Content-Type: image/png", "Origin: null"),
    # chunked bodies
    Case("chunked: over the limit", CHUNKED_HEAD + chunk(b"x" * 90_000) * 3 + b"0\r\n\r\n", 413),
    Case("chunked: empty", CHUNKED_HEAD + b"0\r\n\r\n", 400),
    Case("chunked: broken size", CHUNKED_HEAD + b"zz\r\nhello\r\n0\r\n\r\n", 400),
    Case("chunked: cut short", CHUNKED_HEAD + chunk(PNG[:100]), 400, cut_short=True),
    # lengths
    Case("length: body cut short", make_request(PNG, "Content-Type: image/png", length=9000), 400, cut_short=True),
    Case("length: form cut short", make_request(make_part(IMAGE), FORM, length=9000), 400, cut_short=True),
    Case("length: negative", make_request(b"", FORM, length=-1), 400),
    Case("length: two", make_request(PNG, "Content-Type: image/png", "Content-Length: 5"), 400),
    Case("length: and chunked", make_request(b"0\r\n\r\n", "Transfer-Encoding: chunked"), 400),
    # hosts
    host("none", b"", 400),
    host("empty", b"Host:\r\n", 400),
    host("two", b"Host: localhost\r\nHost: evil.example\r\n", 400),
    host("the same twice", b"Host: localhost\r\nHost: localhost\r\n", 400),
    host("user", b"Host: user@localhost\r\n", 400),
    host("user and password", b"Host: user:password@localhost\r\n", 400),
    host("space", b"Host: local host\r\n", 400),
    host("list", b"Host: localhost, evil.example\r\n", 400),
    host("path", b"Host: localhost/path\r\n", 400),
    host("URL", b"Host: http://localhost\r\n", 400),
    host("NUL", b"Host: localhost\x00\r\n", 400),
    host("control character", b"Host: local\x07host\r\n", 400),
    host("not ASCII", b"Host: localh\xf6st\r\n", 400),
    host("angle bracket", b"Host: a>b\r\n", 400),
    host("port too large", b"Host: localhost:99999\r\n", 400),
    host("port that is not a number", b"Host: localhost:http\r\n", 400),
    host("address without end", b"Host: [::1\r\n", 400),
    host("unknown, of the same origin", b"Host: evil.example\r\nOrigin: http://evil.example\r\n", 403),
    host("unknown, of a browser", b"Host: evil.example\r\nSec-Fetch-Site: same-origin\r\n", 403),
    # methods
    get("method: GET", "/api/enhance", 405),
    get("method: HEAD", "/api/enhance", 405, method="HEAD"),
    get("method: PUT, as curl -T sends", "/api/enhance", 405, method="PUT"),
    get("method: DELETE", "/api/enhance", 405, method="DELETE"),
    get("method: POST to a result", RESULT, 405, method="POST"),
    get("method: unknown", "/api/enhance", 405, method="BREW"),
    get("method: TRACE", "/api/enhance", 405, method="TRACE"),
    # names
    get("name: root of the cache", "/cache/", 404),
    get("name: unknown result", RESULT, 404),
    get("name: with a slash", RESULT + "/", 404),
    get("name: upper case", RESULT.replace("a", "A"), 404),
    get("name: NUL", RESULT + "%00", 404),
    get("name: encoded slash", "/cache/..%2fapp.py", 404),
    get("name: parent folder", "/cache/../app.py", 404),
    get("name: doubly encoded", "/cache/%252e%252e%252fapp.py", 404),
    get("name: broken UTF-8", "/cache/%ff%fe", 404),
    get("name: very long", "/cache/" + "a" * 3000, 404),
    get("name: a temporary file", "/cache/.writing-abc", 404),
    get("name: look-alike of the API", "/apiary", 404),
    get("name: unknown", "/api/nothing", 404),
    get("result: without a hash", "/api/result", 400),
    get("result: a short hash", "/api/result?sha256=abc", 400),
    get("result: twice", f"/api/result?sha256={'a' * 64}&sha256={'a' * 64}", 400),
    # headers and lines
    Case("header: no colon", make_request(b"", "NoColon", line="GET /api/health HTTP/1.1"), 400),
    Case("header: too long", make_request(b"", "X-A: " + "a" * 20_000, line="GET /api/health HTTP/1.1"), 431),
    Case("header: too many", make_request(b"", *["X-A: b"] * 200, line="GET /api/health HTTP/1.1"), 431),
    Case("line: too long", make_request(b"", line=f"GET /{'a' * 9000} HTTP/1.1"), 414),
    Case("line: no version", b"GET /api/health\r\n\r\n", 400),
    Case("line: rubbish", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    Case("line: version 9", make_request(b"", line="GET /api/health HTTP/9.9"), 400),
]  # fmt: skip


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    with run_light_service(
        folder, max_upload_bytes=MAX_UPLOAD_BYTES, cors_origins="https://a.example"
    ) as running:
        yield running
        assert "Traceback" not in running.log


def exchange(service: Service, case: Case) -> tuple[int, dict[str, str], bytes]:
    """Send a case's bytes; return status, headers and body of the response."""
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS) as connection:
        connection.sendall(case.request)
        if case.cut_short:
            connection.shutdown(socket.SHUT_WR)
        received = b""
        while piece := connection.recv(65536):
            received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    status_line, *lines = head.decode("latin-1").split("\r\n")
    match = re.match(r"HTTP/1\.[01] (\d{3})", status_line)
    assert match is not None, received
    headers = dict(line.split(": ", 1) for line in lines if ": " in line)
    return int(match[1]), headers, body


def test_table_has_at_least_sixty_different_requests() -> None:
    assert len({case.request for case in CASES}) == len(CASES) >= 60


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_bad_request_is_answered_with_its_status_and_the_service_lives_on(
    service: Service, case: Case
) -> None:
    status, headers, body = exchange(service, case)
    assert status == case.status, body
    assert headers["Content-Type"] == "application/problem+json"
    assert headers["Cache-Control"] == "no-store, must-revalidate"
    assert headers["X-Content-Type-Options"] == "nosniff"
    if not case.request.startswith(b"HEAD"):
        assert json.loads(body)["status"] == status
    assert loopback.get(f"{service.url}/api/ready").status_code == 200


def test_client_that_sends_on_after_its_refusal_can_still_read_it(service: Service) -> None:
    request = make_request(b"x" * 20 * MAX_UPLOAD_BYTES, "Content-Type: image/png")
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS) as connection:
        # By the second piece the service has rejected the upload because of its Content-Length.
        for start in range(0, len(request), 2 * MAX_UPLOAD_BYTES):
            connection.sendall(request[start : start + 2 * MAX_UPLOAD_BYTES])
            time.sleep(0.1)
        assert connection.recv(12) == b"HTTP/1.1 413"


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /api/health HTTP/1.0\r\n\r\n",
        b"GET /api/health HTTP/1.1\r\nHost: LOCALHOST:80\r\nConnection: close\r\n\r\n",
        # Not rebinding: no browser sent these.
        b"GET /api/health HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
    ],
    ids=["HTTP/1.0 without Host", "capitals", "unknown, of no browser"],
)
def test_request_with_a_host_that_will_do_is_answered(
    service: Service, request_bytes: bytes
) -> None:
    status, _headers, body = exchange(service, Case("", request_bytes, 200))
    assert status == 200, body
