"""Jobs with real gunicorn, the real model and both databases, and workers that are killed."""

import os
import random
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from superres.jobs.database import Database
from superres.jobs.jobs_schema import SCHEMA
from superres.jobs.postgres_database import PostgresDatabase
from superres.jobs.sqlite_database import SqliteDatabase
from testkit import loopback
from testkit.pictures import encode
from testkit.service import Service, run_light_service, run_service
from testkit.waiting import WAIT_SECONDS, wait_until

RETRIED = frozenset({502, 503})


def make_picture(number: int, side: int = 64) -> bytes:
    random_numbers = np.random.default_rng(number)
    small = random_numbers.integers(0, 256, (8, 8, 3), np.uint8)
    return encode(Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC), "PNG")


@pytest.fixture(params=["sqlite", "postgres"])
def database_settings(request: pytest.FixtureRequest) -> dict[str, Any]:
    if request.param == "sqlite":
        return {}
    return {"database_url": request.getfixturevalue("postgres_url")}


def connect(folder: Path, settings: dict[str, Any]) -> Database:
    if settings:
        return PostgresDatabase(settings["database_url"], SCHEMA)
    return SqliteDatabase(folder / "state" / "jobs.sqlite3", SCHEMA)


def ask(client: httpx.Client, method: str, url: str, **options: Any) -> httpx.Response:
    """Retry a request until the service, which is being killed, responds."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            response = client.request(method, url, **options)
            if response.status_code not in RETRIED:
                return response
        except httpx.TransportError:
            pass
        if time.monotonic() > deadline:
            raise TimeoutError(url)
        time.sleep(random.uniform(0.05, 0.2))


def send(client: httpx.Client, content: bytes, prefer: str = "") -> httpx.Response:
    headers = {"Content-Type": "image/png"} | ({"Prefer": prefer} if prefer else {})
    return ask(client, "POST", "/api/enhance", content=content, headers=headers)


def fetch_result(client: httpx.Client, accepted: httpx.Response) -> bytes:
    """Wait until an accepted job ends and return its result."""
    status = accepted.json()
    while status["state"] in {"queued", "running"}:
        status = ask(client, "GET", status["status_url"], headers={"Prefer": "wait=5"}).json()
    assert status["state"] == "done", status
    return ask(client, "GET", status["result"]).content


@pytest.fixture
def undisturbed(tmp_path: Path) -> Iterator[httpx.Client]:
    """Another service, which is not killed."""
    with (
        run_light_service(tmp_path / "undisturbed") as service,
        httpx.Client(base_url=service.url, timeout=WAIT_SECONDS) as client,
    ):
        yield client


def test_every_accepted_job_ends_though_the_worker_is_killed_three_times(
    tmp_path: Path, database_settings: dict[str, Any], undisturbed: httpx.Client
) -> None:
    pictures = [make_picture(number) for number in range(60)]
    # 100 uploads: each of the first 40 twice, for cache hits and identical concurrent uploads.
    numbers = [*range(60), *range(40)]
    random.Random(1).shuffle(numbers)
    done = Counter[str]()
    with (
        run_light_service(tmp_path / "killed", **database_settings) as service,
        httpx.Client(base_url=service.url, timeout=WAIT_SECONDS) as client,
        ThreadPoolExecutor(16) as pool,
    ):

        def enhance(index: int) -> tuple[int, bytes]:
            number = numbers[index]
            if index % 2:
                response = send(client, pictures[number])
            else:
                response = send(client, pictures[number], "respond-async")
            done[str(response.status_code)] += 1
            if response.status_code == 202:
                return number, fetch_result(client, response)
            assert response.status_code == 200, response.text
            return number, response.content

        futures = [pool.submit(enhance, index) for index in range(len(numbers))]
        for share in (0.2, 0.4, 0.6):
            enough = share * len(numbers)
            wait_until(lambda enough=enough: done.total() >= enough)  # type: ignore[misc]
            kill_worker(service)
        results = dict(future.result() for future in futures)
        assert done["202"] > 10
        wait_until(lambda: list((tmp_path / "killed" / "cache" / "spool").iterdir()) == [])
        database = connect(tmp_path / "killed", database_settings)
        wait_until(
            lambda: (
                database.execute("SELECT count(*) FROM jobs WHERE state IN ('queued', 'running')")
                == [(0,)]
            )
        )
        states: dict[str, int] = dict(
            database.execute("SELECT state, count(*) FROM jobs GROUP BY state")
        )
        database.close()
        assert set(states) <= {"done", "cancelled"}
    with ThreadPoolExecutor(4) as pool:
        expected = list(pool.map(lambda picture: send(undisturbed, picture).content, pictures))
    assert [results[number] for number in range(60)] == expected


def kill_worker(service: Service) -> None:
    """Kill the worker, and wait until there is another one."""
    worker = service.worker_pid
    os.kill(worker, signal.SIGKILL)

    def is_replaced() -> bool:
        try:
            return service.worker_pid != worker
        except (IndexError, OSError):
            return False

    wait_until(is_replaced)


def test_accepted_job_survives_the_whole_service(tmp_path: Path) -> None:
    large = make_picture(1, side=500)
    with run_service(tmp_path / "service", lanes=1) as service:
        accepted = loopback.post(
            f"{service.url}/api/enhance",
            content=large,
            headers={"Content-Type": "image/png", "Prefer": "respond-async"},
            timeout=WAIT_SECONDS,
        )
        assert accepted.status_code == 202
        ticket = accepted.json()["id"]
        os.kill(service.worker_pid, signal.SIGKILL)
        os.kill(service.process.pid, signal.SIGKILL)
        service.process.wait()
    with (
        run_service(tmp_path / "service", lanes=1) as service,
        httpx.Client(base_url=service.url) as client,
    ):
        response = client.get(f"/api/jobs/{ticket}")
        assert response.status_code == 200
        status = response.json()
        while status["state"] in {"queued", "running"}:
            status = client.get(f"/api/jobs/{ticket}", headers={"Prefer": "wait=1"}).json()
        assert status["state"] == "done"


def test_terminated_service_hands_its_job_over_and_says_that_it_stops(tmp_path: Path) -> None:
    large = make_picture(1, side=2500)
    headers = {"Content-Type": "image/png", "Prefer": "respond-async"}
    with run_service(tmp_path / "service", lanes=1) as service:
        accepted = loopback.post(f"{service.url}/api/enhance", content=large, headers=headers)
        ticket = accepted.json()["id"]
        wait_until(
            lambda: loopback.get(f"{service.url}/api/jobs/{ticket}").json()["tiles_done"] > 0
        )
        service.process.terminate()
        service.process.wait(WAIT_SECONDS)
    database = connect(tmp_path / "service", {})
    rows = database.execute("SELECT state, owner, attempts FROM jobs")
    database.close()
    assert rows == [("queued", None, 0)]


def test_ctrl_c_ends_the_service_at_once_though_a_picture_is_computed(tmp_path: Path) -> None:
    large = make_picture(1, side=2500)
    headers = {"Content-Type": "image/png", "Prefer": "respond-async"}
    with run_service(tmp_path / "service", lanes=1) as service:
        loopback.post(f"{service.url}/api/enhance", content=large, headers=headers)
        for pid in (service.worker_pid, service.process.pid):  # as a terminal does
            os.kill(pid, signal.SIGINT)
        service.process.wait(WAIT_SECONDS)
    database = connect(tmp_path / "service", {})
    assert database.execute("SELECT state, owner FROM jobs") == [("queued", None)]
    database.close()


# --- clients that leave


def post_and_leave(
    url: httpx.URL, content: bytes, after_seconds: float, behind: bytes = b""
) -> None:
    """Send an upload, and something after it, and close without reading the response."""
    head = (
        f"POST /api/enhance HTTP/1.1\r\nHost: {url.host}:{url.port}\r\n"
        f"Content-Type: image/png\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    with socket.create_connection((str(url.host), url.port or 80), timeout=10) as connection:
        connection.sendall(head.encode() + content + behind)
        time.sleep(after_seconds)


@pytest.mark.parametrize("behind", [b"", b"\r\n"], ids=["plainly", "with bytes unread"])
def test_client_that_leaves_frees_the_lanes(tmp_path: Path, behind: bytes) -> None:
    with run_service(tmp_path / "service", lanes=1) as service:
        # Some 30 seconds of work.
        post_and_leave(httpx.URL(service.url), make_picture(1, side=2200), 1.0, behind)
        wait_until(lambda: loopback.get(f"{service.url}/api/stats").json()["queue_pixels"] == 0)
        assert loopback.get(f"{service.url}/api/stats").json()["inferences"] == 0
        assert " 408 " in service.log


def test_client_that_waits_is_not_taken_for_one_that_left(tmp_path: Path) -> None:
    with run_service(tmp_path / "service", lanes=1) as service, httpx.Client() as client:
        done = threading.Event()

        def leave() -> None:
            post_and_leave(httpx.URL(service.url), make_picture(1, side=450), 0.5)
            done.set()

        threading.Thread(target=leave).start()
        response = client.post(
            f"{service.url}/api/enhance",
            content=make_picture(1, side=450),
            headers={"Content-Type": "image/png"},
            timeout=WAIT_SECONDS,
        )
        assert response.status_code == 200
        assert done.wait(10)
