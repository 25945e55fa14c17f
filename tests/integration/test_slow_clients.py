"""Slow, silent or rude clients, without a proxy: other clients do not notice."""

import contextlib
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from superres.server import gunicorn_worker
from superres.web.slow_clients import AnswerTransfer, UploadTransfer
from testkit import loopback
from testkit.service import Service, connect, run_light_service
from testkit.waiting import wait_until

# Twice as many as the service has threads.
CROWD = 300
HEADERS = b"POST /api/enhance HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
PATIENCE = 10
CONNECTION_SECONDS = 60


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with run_light_service(tmp_path_factory.mktemp("service"), upload_timeout_seconds=5) as running:
        yield running


@contextlib.contextmanager
def crowd(service: Service, first_bytes: bytes, number: int = CROWD) -> Iterator[None]:
    """Hold open connections that have sent some bytes."""
    with contextlib.ExitStack() as stack:
        for _ in range(number):
            client = stack.enter_context(connect(service, CONNECTION_SECONDS))
            client.sendall(first_bytes)
        time.sleep(0.5)
        yield


def is_refused(service: Service) -> bool:
    """Tell whether the service refuses connections."""
    try:
        connect(service, CONNECTION_SECONDS).close()
    except ConnectionRefusedError:
        return True
    return False


def assert_others_are_served(service: Service, photo_jpeg: bytes) -> None:
    for _ in range(3):
        assert loopback.get(f"{service.url}/api/health", timeout=PATIENCE).status_code == 200
    answer = loopback.post(
        f"{service.url}/api/enhance", files={"image": photo_jpeg}, timeout=PATIENCE
    )
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "first_bytes", [b"", b"P", HEADERS, HEADERS + b"X-Long: " + b"a" * 4000], ids=len
)
def test_unfinished_headers_hold_up_nobody(
    service: Service, photo_jpeg: bytes, first_bytes: bytes
) -> None:
    with crowd(service, first_bytes):
        assert_others_are_served(service, photo_jpeg)


def test_trickled_headers_are_refused_in_time(service: Service) -> None:
    with connect(service, CONNECTION_SECONDS) as client:
        client.sendall(HEADERS)
        started = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - started < 2 * gunicorn_worker.HEADER_SECONDS:
                client.sendall(b"X: y\r\n")
                time.sleep(0.5)
        with contextlib.suppress(ConnectionError):
            assert client.recv(1000) in {b"", gunicorn_worker.REFUSAL}
        assert time.monotonic() - started < 2 * gunicorn_worker.HEADER_SECONDS


def test_clients_that_do_not_close_their_side_hold_up_nobody(
    service: Service, photo_jpeg: bytes
) -> None:
    files = Path(f"/proc/{service.worker_pid}/fd")
    before = len(list(files.iterdir()))
    with crowd(service, b"GET /api/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"):
        assert_others_are_served(service, photo_jpeg)
        # The service closes all but a few.
        assert len(list(files.iterdir())) < before + 3 * gunicorn_worker.CLOSES_AT_ONCE


def test_crowd_of_trickled_uploads_holds_up_others_for_a_moment_only(
    service: Service, photo_jpeg: bytes
) -> None:
    """Each sends a byte now and then, never pausing for 5 s."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(service, CONNECTION_SECONDS)) for _ in range(32)]
        for client in clients:
            client.sendall(HEADERS + b"Content-Length: 3000000\r\n\r\n")
        started = time.monotonic()
        status = 503
        while status == 503 and time.monotonic() < started + CONNECTION_SECONDS:
            for client in clients:
                with contextlib.suppress(ConnectionError):
                    client.sendall(b"x")
            time.sleep(0.5)
            status = loopback.post(
                f"{service.url}/api/enhance", files={"image": photo_jpeg}, timeout=PATIENCE
            ).status_code
        assert status == 200
        assert time.monotonic() < started + 15


def test_refused_uploads_that_trickle_hold_up_no_upload(
    service: Service, photo_jpeg: bytes
) -> None:
    refused = HEADERS.replace(b"image/png", b"text/plain") + b"Content-Length: 3000000\r\n\r\n"
    with crowd(service, refused + b"x", 64):
        assert_others_are_served(service, photo_jpeg)


def test_bodies_that_nobody_reads_hold_up_nobody(service: Service, photo_jpeg: bytes) -> None:
    """With gunicorn's 5 s for each, they take every thread for 20 s."""
    request = b"GET /api/health HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\nx"
    with crowd(service, request, 2 * CROWD):
        assert_others_are_served(service, photo_jpeg)


def test_connection_is_kept_after_a_body_that_nobody_read(service: Service) -> None:
    with httpx.Client() as client:
        for _ in range(2):
            answer = client.request("GET", f"{service.url}/api/health", content=b"x" * 10_000)
            assert answer.status_code == 200
            assert answer.headers["Connection"] == "keep-alive"


def test_malformed_request_is_refused_without_its_words(service: Service) -> None:
    with connect(service, CONNECTION_SECONDS) as client:
        client.sendall(
            b"GET /api/stats HTTP/1.1\r\nHost: x\r\nAuthorization Bearer sr_secret\r\n\r\n"
        )
        answer = client.recv(65536)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"secret" not in answer
    assert "secret" not in service.log


def test_idle_kept_connections_take_no_thread(service: Service, photo_jpeg: bytes) -> None:
    with crowd(service, b"GET /api/health HTTP/1.1\r\nHost: x\r\n\r\n"):
        assert_others_are_served(service, photo_jpeg)


def test_silent_connections_do_not_keep_a_stopping_service(tmp_path: Path) -> None:
    with run_light_service(tmp_path) as stopping, crowd(stopping, b"", 5):
        stopping.process.terminate()
        assert stopping.process.wait(20) == 0


def test_stopping_service_refuses_connections_and_answers_those_it_has(tmp_path: Path) -> None:
    """In the queue of a socket that nobody accepts from, clients would wait for minutes."""
    with run_light_service(tmp_path) as stopping, connect(stopping, CONNECTION_SECONDS) as client:
        client.sendall(HEADERS + b"Content-Length: 2\r\n\r\nx")
        assert loopback.get(f"{stopping.url}/api/health").status_code == 200
        stopping.process.terminate()
        wait_until(lambda: is_refused(stopping))
        client.sendall(b"x")
        assert client.recv(65536).startswith(b"HTTP/1.1 415 ")
        assert stopping.process.wait(20) == 0


def test_trickled_upload_is_told_that_it_is_too_slow(tmp_path: Path) -> None:
    with (
        run_light_service(tmp_path, upload_timeout_seconds=2) as slow,
        connect(slow, CONNECTION_SECONDS) as client,
    ):
        client.sendall(HEADERS + b"Content-Length: 30000\r\n\r\n")
        # A byte now and then, never pausing for 2 s; after that, 32 KiB/s are required.
        for _ in range(10):
            with contextlib.suppress(ConnectionError):
                client.sendall(b"x")
            time.sleep(0.5)
        answer = client.recv(65536).decode()
        assert answer.startswith("HTTP/1.1 408 ")
        assert "upload_timeout" in answer
        assert "takes too long" in answer


@pytest.fixture
def connection() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a TCP connection with small buffers."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(listener.getsockname())
        server, _ = listener.accept()
        with server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            yield server, client


def send_in_background(pool: ThreadPoolExecutor, server: socket.socket) -> Future[None]:
    sending = pool.submit(server.sendall, b"x" * 10_000_000)
    time.sleep(0.2)
    return sending


@pytest.mark.parametrize("reads", [0, 100], ids=["nothing", "slowly"])
def test_client_that_hardly_reads_its_answer_is_let_go(
    connection: tuple[socket.socket, socket.socket], reads: int
) -> None:
    server, client = connection
    with ThreadPoolExecutor(1) as pool:
        sending = send_in_background(pool, server)
        transfer = AnswerTransfer(server, grace_seconds=0.5, least_per_second=1_000_000)
        for _ in range(20):
            transfer.look()
            if transfer.is_over:
                break
            client.recv(reads)
            time.sleep(0.1)
        assert transfer.is_over
        with pytest.raises(OSError, match=r"pipe|reset"):
            sending.result(PATIENCE)


def test_client_that_reads_its_answer_at_a_modest_pace_gets_all_of_it(
    connection: tuple[socket.socket, socket.socket],
) -> None:
    server, client = connection
    with ThreadPoolExecutor(1) as pool:
        sending = send_in_background(pool, server)
        transfer = AnswerTransfer(server, grace_seconds=0.5, least_per_second=100_000)
        received = 0
        while received < 10_000_000:
            transfer.look()
            assert not transfer.is_over
            target = received + 500_000
            while received < min(target, 10_000_000):
                received += len(client.recv(65536))
            time.sleep(0.1)
        sending.result(PATIENCE)


def test_answer_that_is_not_yet_made_is_not_slow(
    connection: tuple[socket.socket, socket.socket],
) -> None:
    transfer = AnswerTransfer(connection[0], grace_seconds=0, least_per_second=1_000_000)
    for _ in range(5):
        transfer.look()
        time.sleep(0.05)
    assert not transfer.is_over


def test_what_is_no_tcp_connection_is_left_alone() -> None:
    server, client = socket.socketpair()
    with server, client:
        transfer = UploadTransfer(server, grace_seconds=0, least_per_second=1_000_000)
        transfer.look()
        time.sleep(0.05)
        transfer.look()
        assert not transfer.is_over
