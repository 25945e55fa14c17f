"""Nginx while the service behind it is down, frozen, overloaded or restarted."""

import os
import re
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from PIL import Image

from superres.paths import PROJECT_DIR
from superres.web.job_routes import MAX_LONG_POLL_SECONDS
from testkit.pictures import encode
from testkit.service import find_free_port, run_light_service
from tests.e2e.nginx import HOST, assert_problem, run_nginx

LISTED = "https://a.example"


def upload(client: httpx.Client, shade: int = 0, **headers: str) -> httpx.Response:
    picture = encode(Image.new("RGB", (16, 16), (shade, 50, 60)), "PNG")
    return client.post("/api/enhance", files={"image": ("a.png", picture)}, headers=headers)


def test_service_that_is_down_is_502(tmp_path: Path) -> None:
    with run_nginx(tmp_path / "nginx", find_free_port()) as nginx, nginx.client() as client:
        response = client.get("/api/health", headers={"Origin": LISTED})
        assert_problem(response, 502, "unavailable")
        assert response.headers["Retry-After"] == "5"


def test_service_that_does_not_answer_in_time_is_504(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with (
            run_nginx(tmp_path / "nginx", port, proxy_read_timeout="1s") as nginx,
            nginx.client() as client,
        ):
            response = client.get("/api/health", headers={"Origin": LISTED})
    assert_problem(response, 504, "timed_out")
    assert response.headers["Retry-After"] == "30"


def test_machine_that_is_frozen_is_passed_over(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0), backlog=64) as frozen,
        run_light_service(tmp_path / "service", trusted_proxies=1, trusted_hosts=HOST) as service,
        run_nginx(
            tmp_path / "nginx",
            frozen.getsockname()[1],
            int(service.url.rsplit(":", 1)[1]),
            proxy_read_timeout="1s",
        ) as nginx,
        nginx.client() as client,
    ):
        assert {client.get("/api/health").status_code for _ in range(6)} == {200}
        assert "upstream timed out" in (tmp_path / "nginx" / "error.log").read_text()


def test_who_asks_a_machine_that_is_frozen_has_time_for_the_next_one() -> None:
    text = (PROJECT_DIR / "nginx.conf").read_text()
    patience, *of_images = (
        int(each) for each in re.findall(r"proxy_read_timeout ([0-9]+)s;", text)
    )
    (to_pass_on,) = re.findall(r"proxy_next_upstream_timeout ([0-9]+)s;", text)
    assert MAX_LONG_POLL_SECONDS < patience < int(to_pass_on) < min(of_images)


def test_503_of_the_service_passes_through_with_its_own_words(tmp_path: Path) -> None:
    with (
        run_light_service(
            tmp_path / "service", trusted_proxies=1, trusted_hosts=HOST, max_queue_pixels=100
        ) as service,
        run_nginx(
            tmp_path / "nginx", int(service.url.rsplit(":", 1)[1]), rate="100000r/s"
        ) as nginx,
        nginx.client() as client,
        ThreadPoolExecutor(1) as pool,
    ):
        large = encode(Image.new("RGB", (600, 600)), "PNG")
        whole = pool.submit(client.post, "/api/enhance", files={"image": ("a.png", large)})
        while not client.get("/api/stats").json()["queue_pixels"]:
            assert not whole.done()
        response = upload(client, Origin=LISTED)
        assert response.status_code == 503
        assert response.json()["code"] == "busy"
        assert response.headers.get_list("Access-Control-Allow-Origin") == ["*"]
        assert int(response.headers["Retry-After"]) > 0


# --- while the service or Nginx is restarted


def test_post_into_a_connection_that_is_closing_is_sent_again(tmp_path: Path) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

    def answer_one_request_a_connection(listener: socket.socket) -> None:
        for _ in range(2):
            connection, _address = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)
                connection.recv(65536)

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        listener.settimeout(10)
        server = pool.submit(answer_one_request_a_connection, listener)
        port = listener.getsockname()[1]
        with run_nginx(tmp_path / "nginx", port) as nginx, nginx.client() as client:
            for _ in range(2):
                response = client.post("/api/enhance", content=b"x")
                assert (response.status_code, response.content) == (200, b"ok")
        server.result(timeout=10)


def test_restart_under_load_loses_no_request(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0), backlog=128) as listener,
        run_nginx(tmp_path / "nginx", listener.getsockname()[1], rate="100000r/s") as nginx,
        nginx.client() as client,
        ThreadPoolExecutor(8) as pool,
    ):
        with run_light_service(tmp_path / "first", listener=listener, trusted_proxies=1):
            sent = [pool.submit(upload, client, number % 4) for number in range(200)]
            sent[50].result()
        assert not sent[-1].done()
        with run_light_service(tmp_path / "second", listener=listener, trusted_proxies=1):
            assert {future.result().status_code for future in sent} == {200}


@pytest.mark.parametrize("who", ["gunicorn", "nginx"])
def test_graceful_reload_under_load_loses_no_request(tmp_path: Path, who: str) -> None:
    with (
        run_light_service(tmp_path / "service", trusted_proxies=1) as service,
        run_nginx(
            tmp_path / "nginx", int(service.url.rsplit(":", 1)[1]), rate="100000r/s"
        ) as nginx,
        nginx.client() as client,
    ):
        upload(client, 9)
        first_worker = service.worker_pid

        def send(number: int) -> int:
            if number == 50:
                master = service.process.pid if who == "gunicorn" else nginx.process.pid
                os.kill(master, signal.SIGHUP)
            # A new connection each time: on reload Nginx closes idle ones, and a client that is
            # sending on one at that moment has to retry, which no server can prevent.
            shade = number if number % 4 == 0 else 9
            return upload(client, shade, Connection="close").status_code

        with ThreadPoolExecutor(8) as pool:
            statuses = list(pool.map(send, range(200)))
        assert set(statuses) == {200}
        assert (service.worker_pid != first_worker) == (who == "gunicorn")
