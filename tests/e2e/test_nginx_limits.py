"""What clients can use under the shipped nginx.conf, and which host names it serves."""

import json
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
from PIL import Image

from testkit import loopback
from testkit.pictures import encode
from testkit.service import Service, run_light_service
from tests.e2e.nginx import HOST, Nginx, run_nginx

LISTED = "https://a.example"
ANSWER_SECONDS = 30
# More of a body than Nginx keeps in memory.
PIECE = b"x" * 200_000
STATUS_PATTERN = re.compile(rb"HTTP/1\.1 (\d{3}) ")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    with run_light_service(
        folder, trusted_proxies=1, trusted_hosts=HOST, cors_origins=LISTED
    ) as running:
        yield running


@pytest.fixture
def nginx(service: Service, tmp_path: Path) -> Iterator[Nginx]:
    """One per test, with the shipped limits."""
    with run_nginx(tmp_path / "nginx", httpx.URL(service.url).port or 0) as running:
        yield running


@pytest.fixture
def silent_nginx(tmp_path: Path) -> Iterator[Nginx]:
    """Nginx in front of a service that never responds."""
    with (
        socket.create_server(("127.0.0.1", 0), backlog=512) as silent,
        run_nginx(tmp_path / "nginx", silent.getsockname()[1]) as running,
    ):
        yield running


def connect(nginx: Nginx, is_plain: bool = False) -> socket.socket:
    """Open a connection to Nginx, with TLS unless `is_plain`."""
    port = nginx.plain_port if is_plain else nginx.port
    connection = socket.create_connection(("127.0.0.1", port), timeout=ANSWER_SECONDS)
    if is_plain:
        return connection
    context = ssl.create_default_context(cafile=str(nginx.folder / "fullchain.pem"))
    return context.wrap_socket(connection, server_hostname=HOST)


@contextmanager
def send_all(
    nginx: Nginx, requests: Sequence[bytes], is_plain: bool = False
) -> Iterator[list[socket.socket]]:
    """Send each request on its own connection, and hold all of them open."""
    with ExitStack() as stack:
        connections = []
        for each in requests:
            connection = stack.enter_context(connect(nginx, is_plain))
            connections.append(connection)
            connection.sendall(each)
        yield connections


def read_answer(connection: socket.socket) -> bytes:
    """Read until the server closes."""
    received = b""
    try:
        while piece := connection.recv(65536):
            received += piece
    except ConnectionError:
        pass
    return received


def gather(connections: Sequence[socket.socket], expected: int) -> list[bytes]:
    """Wait for a number of responses; return all that have arrived."""
    received = dict.fromkeys(connections, b"")
    finished: list[bytes] = []
    deadline = time.monotonic() + ANSWER_SECONDS
    is_last = False
    while not is_last:
        is_last = len(finished) >= expected or time.monotonic() > deadline
        time.sleep(1 if is_last else 0.1)
        for connection in list(received):
            is_closed = read_available(connection, received)
            if is_closed or is_whole(received[connection]):
                finished.append(received.pop(connection))
    return finished


def read_available(connection: socket.socket, received: dict[socket.socket, bytes]) -> bool:
    """Read what has arrived on a connection; tell whether the server has closed it."""
    connection.setblocking(False)
    try:
        while piece := connection.recv(65536):
            received[connection] += piece
    except (BlockingIOError, ssl.SSLWantReadError):
        return False
    except ConnectionError:
        pass
    return True


def is_whole(answer: bytes) -> bool:
    """Tell whether a response is complete."""
    head, end, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"Content-Length: (\d+)", head)
    return bool(end) and length is not None and len(body) >= int(length[1])


def statuses(answers: Sequence[bytes]) -> list[int]:
    found = [STATUS_PATTERN.match(answer) for answer in answers]
    assert None not in found, answers
    return [int(each[1]) for each in found if each]


def assert_problem(answer: bytes, status: int, code: str) -> None:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert statuses([answer]) == [status]
    assert b"\r\nContent-Type: application/problem+json\r\n" in head
    assert b"\r\nCache-Control: no-store, must-revalidate\r\n" in head
    problem = json.loads(body)
    assert (problem["status"], problem["code"]) == (status, code)


def post(path: str, *headers: str, body: bytes = PIECE, length: int = 16_000_000) -> bytes:
    """Return a POST whose body never ends."""
    head = [f"POST {path} HTTP/1.1", f"Host: {HOST}", *headers]
    if not any(each.startswith("Transfer-Encoding") for each in headers):
        head.append(f"Content-Length: {length}")
    return "\r\n".join([*head, "", ""]).encode() + body


def body_file_bytes(nginx: Nginx) -> int:
    """Return the disk space that request bodies take."""
    return sum(path.stat().st_size for path in (nginx.folder / "body").rglob("*") if path.is_file())


# --- bodies


PATHS = ("/", "/api/stats", "/api/enhance/", "/api/jobs/a", "/cache/a.png", "/static/client.js",
         "/health", "/metrics", "/docs/", "/api/previews")  # fmt: skip


def test_stalled_bodies_to_anything_but_uploads_are_refused_and_hold_no_file(nginx: Nginx) -> None:
    requests = [post(path) for path in PATHS * 10]
    assert len(requests) == 100
    with send_all(nginx, requests) as connections:
        answers = gather(connections, len(requests))
        assert body_file_bytes(nginx) == 0
    assert statuses(answers) == [413] * 100
    assert_problem(answers[0], 413, "too_large")
    assert b"/api/enhance" in answers[0]


def test_chunked_bodies_to_anything_but_uploads_hold_no_file(nginx: Nginx) -> None:
    chunk = f"{len(PIECE):x}\r\n".encode() + PIECE
    requests = [post(path, "Transfer-Encoding: chunked", body=chunk) for path in PATHS * 5]
    with send_all(nginx, requests) as connections:
        answers = gather(connections, len(requests))
        assert body_file_bytes(nginx) == 0
    assert len(answers) == 50
    assert set(statuses(answers)) == {413, 404}  # the latter for /metrics, which is not exposed
    # The first bytes of a chunk, which may still turn out to be a small body.
    small = [
        post(path, "Transfer-Encoding: chunked", body=b"400\r\n" + b"x" * 1000) for path in PATHS
    ]
    with send_all(nginx, small * 5) as connections:
        assert set(statuses(gather(connections, 0))) <= {404}
        assert body_file_bytes(nginx) == 0


@pytest.mark.parametrize("host", [HOST, "evil.example"])
def test_stalled_bodies_without_tls_hold_no_file(nginx: Nginx, host: str) -> None:
    requests = [post("/api/enhance").replace(HOST.encode(), host.encode())] * 100
    with send_all(nginx, requests, is_plain=True) as connections:
        answers = gather(connections, len(requests))
        assert body_file_bytes(nginx) == 0
    assert len(answers) == 100
    assert {answer[:12] for answer in answers} == ({b"HTTP/1.1 308"} if host == HOST else {b""})


def test_stalled_uploads_of_one_address_are_few(nginx: Nginx) -> None:
    with send_all(nginx, [post("/api/enhance", "Content-Type: image/png")] * 60) as connections:
        answers = gather(connections, 50)
        assert statuses(answers) == [429] * 50
        assert_problem(answers[0], 429, "rate_limited")
        assert body_file_bytes(nginx) <= 10 * len(PIECE)
        with nginx.client() as client:
            for path in ("/health", "/api/stats", "/"):
                assert client.get(path).status_code == 200


def addresses(pattern: str, number: int) -> list[bytes]:
    """Return a stalled upload from each of some addresses; the pattern contains a number."""
    return [
        post("/api/enhance", f"X-Test-Address: {pattern % each}", body=b"x")
        for each in range(1, number + 1)
    ]


@pytest.mark.parametrize(
    "pattern", ["2001:db8:1:2::%x", "2001:db8:1:2:3:4:5:%x", "2001:db8::%x", "2001:db8:0:5::%x"]
)
def test_network_of_ipv6_is_one_client(nginx: Nginx, pattern: str) -> None:
    with send_all(nginx, addresses(pattern, 25)) as connections:
        assert statuses(gather(connections, 15)) == [429] * 15


@pytest.mark.parametrize(
    "patterns",
    [("192.0.2.%d", "198.51.100.%d"), ("2001:db8:1:%x::1", "2001:db8:2:%x::1")],
    ids=["IPv4", "IPv6"],
)
def test_other_addresses_are_other_clients_up_to_a_bound_for_all(
    nginx: Nginx, patterns: tuple[str, str]
) -> None:
    first, second = patterns
    with send_all(nginx, addresses(first, 240) + addresses(second, 28)) as connections:
        assert statuses(gather(connections, 12)) == [429] * 12


# --- connections and requests


@pytest.mark.parametrize(
    "path", ["/", "/api/stats", "/static/client.js", "/cache/%d.png", "/health"]
)
def test_connections_of_one_address_are_limited_everywhere(silent_nginx: Nginx, path: str) -> None:
    requests = [
        f"GET {path.replace('%d', str(each))} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
        for each in range(110)
    ]
    with send_all(silent_nginx, requests) as connections:
        answers = gather(connections, 10)
    assert statuses(answers) == [429] * 10
    assert_problem(answers[0], 429, "rate_limited")


@pytest.mark.parametrize("path", ["/", "/api/stats", "/cache/a.png", "/health"])
def test_requests_of_one_address_are_limited_everywhere(
    service: Service, tmp_path: Path, path: str
) -> None:
    app_port = httpx.URL(service.url).port or 0
    with run_nginx(tmp_path / "nginx", app_port, rate="1r/m") as nginx, nginx.client() as client:
        answers = [client.get(path) for _ in range(205)]
    limited = [answer for answer in answers if answer.status_code == 429]
    assert 1 <= len(limited) <= 5
    assert limited[0].json()["code"] == "rate_limited"
    assert limited[0].headers["Retry-After"] == "5"
    assert limited[0].headers["Access-Control-Allow-Origin"] == "*"


def test_uploads_are_limited_more_strictly_and_nothing_else_with_them(
    service: Service, tmp_path: Path
) -> None:
    app_port = httpx.URL(service.url).port or 0
    with run_nginx(tmp_path / "nginx", app_port, rate="1r/m") as nginx, nginx.client() as client:
        answers = [client.post("/api/enhance").status_code for _ in range(25)]
        assert sorted(answers) == [415] * 21 + [429] * 4
        assert client.get("/api/stats").status_code == 200


def store_results(service: Service, number: int) -> list[str]:
    """Upload different images, bypassing Nginx; return the paths of their results."""
    paths = []
    for shade in range(number):
        picture = encode(Image.new("RGB", (8, 8), (shade, 7, 7)), "PNG")
        answer = loopback.post(f"{service.url}/api/enhance", files={"image": picture})
        paths.append(httpx.URL(answer.links["canonical"]["url"]).path)
    return paths


@pytest.mark.parametrize("version", ["--http2", "--http1.1"])
def test_pages_with_all_their_files_and_thirty_results_pass(
    nginx: Nginx, service: Service, version: str
) -> None:
    results = store_results(service, 30)
    with nginx.client() as client:
        page = client.get("/").text
    files = [f"/{name}" for name in re.findall(r'(?:src|href)="/?(static/[^"]+)"', page)]
    assert len(files) >= 3
    paths = [*results, *files, "/", "/health", "/docs/", "/openapi.json", "/api/stats"]
    targets: list[str] = []
    for path in paths * 2:  # in two tabs
        targets += ["--output", "/dev/null", f"{nginx.url}{path}"]
    command = [
        *("curl", "--silent", version, "--parallel", "--parallel-max", "60"),
        *("--cacert", str(nginx.folder / "fullchain.pem")),
        *("--resolve", f"{HOST}:{nginx.port}:127.0.0.1", "--write-out", "%{http_code}\n"),
    ]
    done = subprocess.run(
        [*command, *targets], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["200"] * 2 * len(paths)


def test_health_checks_and_polls_pass_for_as_long_as_they_are_asked(nginx: Nginx) -> None:
    with nginx.client() as client:
        for _ in range(100):
            assert client.get("/health").status_code == 200
            assert client.get("/api/ready").status_code == 200


# --- names


def exchange(nginx: Nginx, request: bytes, is_plain: bool) -> bytes:
    with send_all(nginx, [request], is_plain) as connections:
        return read_answer(connections[0])


def ask(*hosts: bytes, target: bytes = b"/api/health", headers: bytes = b"") -> bytes:
    lines = b"".join(b"Host: " + host + b"\r\n" for host in hosts)
    return b"GET " + target + b" HTTP/1.1\r\n" + lines + headers + b"Connection: close\r\n\r\n"


@pytest.mark.parametrize("is_plain", [False, True], ids=["TLS", "plain"])
@pytest.mark.parametrize(
    "request_bytes",
    [
        ask(b"evil.example"),
        ask(b"evil.example:443"),
        ask(b"127.0.0.1"),
        ask(b"x.sr.example"),
        ask(b"sr.example", target=b"http://evil.example/api/health"),
        b"GET / HTTP/1.0\r\n\r\n",
    ],
    ids=["name", "name and port", "address", "below ours", "request line", "HTTP/1.0"],
)
def test_other_host_gets_no_answer_even_with_our_name_in_the_handshake(
    nginx: Nginx, request_bytes: bytes, is_plain: bool
) -> None:
    assert exchange(nginx, request_bytes, is_plain) == b""


def test_other_host_gets_no_answer_by_http_2_either(nginx: Nginx) -> None:
    command = [
        *("curl", "--silent", "--http2", "--cacert", str(nginx.folder / "fullchain.pem")),
        *("--resolve", f"{HOST}:{nginx.port}:127.0.0.1", "--header", "Host: evil.example"),
        f"{nginx.url}/",
    ]
    done = subprocess.run(command, capture_output=True, timeout=30, check=False)
    assert done.returncode != 0
    assert done.stdout == b""


@pytest.mark.parametrize("is_plain", [False, True], ids=["TLS", "plain"])
@pytest.mark.parametrize(
    "request_bytes",
    [
        ask(),
        ask(b""),
        ask(b"sr.example", b"evil.example"),
        ask(b"sr.example", b"sr.example"),
        ask(b"user@sr.example"),
        ask(b"user:password@sr.example"),
        ask(b"sr example"),
        ask(b"sr.example, evil.example"),
        ask(b"sr.example/path"),
        ask(b"sr.example\x00"),
    ],
    ids=["none", "empty", "two", "twice", "user", "password", "space", "list", "path", "NUL"],
)
def test_malformed_host_is_a_problem(nginx: Nginx, request_bytes: bytes, is_plain: bool) -> None:
    answer = exchange(nginx, request_bytes, is_plain)
    assert_problem(answer, 400, "bad_request")
    assert (b"\r\nStrict-Transport-Security: " in answer) != is_plain


@pytest.mark.parametrize("is_plain", [False, True], ids=["TLS", "plain"])
def test_coding_but_chunked_is_a_problem(nginx: Nginx, is_plain: bool) -> None:
    request_bytes = ask(b"sr.example", headers=b"Transfer-Encoding: gzip, chunked\r\n")
    answer = exchange(nginx, request_bytes, is_plain)
    assert_problem(answer, 501, "coding_not_implemented")


def test_service_sees_the_name_that_nginx_answered_for(nginx: Nginx) -> None:
    """Rather than the Host, if the request line has another name."""
    origin = f"Origin: {LISTED}\r\n".encode()
    whole = ask(b"evil.example", target=b"https://sr.example/api/stats", headers=origin)
    assert statuses([exchange(nginx, whole, False)]) == [200]


@pytest.mark.parametrize("host", ["sr.example", "SR.Example", "sr.example:8443"])
def test_own_page_uploads_through_nginx_with_any_port(nginx: Nginx, host: str) -> None:
    picture = encode(Image.new("RGB", (8, 8)), "PNG")
    headers = {"Host": host, "Origin": f"https://{host.lower()}", "Content-Type": "image/png"}
    with nginx.client() as client:
        assert client.post("/api/enhance", content=picture, headers=headers).status_code == 200
