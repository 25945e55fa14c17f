"""Clients that are slow, silent or rude, against gunicorn alone: the others do not notice."""

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from gunicorn.workers.gthread import ThreadWorker

import gunicorn_worker
import uploads
from tests.service import Service, connect, run_service

# Twice as many as the service has threads.
CROWD = 300
HEADERS = b"POST /api/enhance HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
PATIENCE = 10
CONNECTION_SECONDS = 60


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with run_service(tmp_path_factory.mktemp("service"), upload_timeout_seconds=5) as running:
        yield running


@contextlib.contextmanager
def crowd(service: Service, first_bytes: bytes, number: int = CROWD) -> Iterator[None]:
    """Hold connections open that have sent some bytes."""
    with contextlib.ExitStack() as stack:
        for _ in range(number):
            client = stack.enter_context(connect(service, CONNECTION_SECONDS))
            client.sendall(first_bytes)
        time.sleep(0.5)
        yield


def assert_others_are_served(service: Service, photo_jpeg: bytes) -> None:
    for _ in range(3):
        assert httpx.get(f"{service.url}/api/health", timeout=PATIENCE).status_code == 200
    answer = httpx.post(f"{service.url}/api/enhance", files={"image": photo_jpeg}, timeout=PATIENCE)
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
    with crowd(service, b"GET /api/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 40):
        assert_others_are_served(service, photo_jpeg)


def test_idle_kept_connections_take_no_thread(service: Service, photo_jpeg: bytes) -> None:
    with crowd(service, b"GET /api/health HTTP/1.1\r\nHost: x\r\n\r\n"):
        assert_others_are_served(service, photo_jpeg)


def test_silent_connections_do_not_keep_a_stopping_service(tmp_path: Path) -> None:
    with run_service(tmp_path) as stopping, crowd(stopping, b"", 5):
        stopping.process.terminate()
        assert stopping.process.wait(20) == 0


def test_trickled_upload_is_told_that_it_is_too_slow(tmp_path: Path) -> None:
    size = uploads.LEAST_BYTES_PER_SECOND
    with (
        run_service(tmp_path, upload_timeout_seconds=2, max_upload_bytes=size) as slow,
        connect(slow, CONNECTION_SECONDS) as client,
    ):
        client.sendall(HEADERS + b"Content-Length: 30000\r\n\r\n")
        # A byte now and then, never a pause of 2 s; 3 s in all are allowed.
        for _ in range(10):
            with contextlib.suppress(ConnectionError):
                client.sendall(b"x")
            time.sleep(0.5)
        answer = client.recv(65536).decode()
        assert answer.startswith("HTTP/1.1 408 ")
        assert "upload_timeout" in answer
        assert "takes too long" in answer


def test_client_that_never_reads_its_answer_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service's own time-out is half a minute; here it is seen that a time-out there is."""
    worker = object.__new__(gunicorn_worker.Worker)
    worker._reading_headers = {}
    server, client = socket.socketpair()

    class Connection:
        sock = server

    def serve(_self: object, _request: object, connection: Connection) -> bool:
        with pytest.raises(TimeoutError):
            connection.sock.sendall(b"x" * 10_000_000)
        return False

    monkeypatch.setattr(gunicorn_worker, "SEND_SECONDS", 0.2)
    monkeypatch.setattr(ThreadWorker, "handle_request", serve)
    with server, client:
        assert worker.handle_request(object(), Connection()) is False
