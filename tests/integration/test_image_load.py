"""Images by their addresses from a real service, while many sources hang or are dead."""

import asyncio
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from testkit import loopback
from testkit.image_addresses import KEY, picture, sign
from testkit.service import Service, find_free_port, run_light_service
from testkit.source_server import Page, SourceServer
from testkit.waiting import WAIT_SECONDS, wait_until

FRESH = {"Cache-Control": "max-age=600"}
# Most requests that wait for sources of one host.
OF_ONE = 192
# With time for sources, so that none of them is given up before the test lets it go on.
SERVE = """
from superres.sources import fetcher
fetcher.FETCH_SECONDS = 600.0
from gunicorn.app.wsgiapp import run
run()
"""
# Of the same little server.
OTHER_NAME = "127.1"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    command = (sys.executable, "-c", SERVE, "app:app")
    with run_light_service(
        tmp_path, command, url_key=KEY, source_networks="127.0.0.0/8"
    ) as running:
        yield running


def count_files(service: Service) -> int:
    """Return how many descriptors the worker has open."""
    return len([*Path(f"/proc/{service.worker_pid}/fd").iterdir()])


class Crowd:
    """Clients that have all sent their requests, and wait."""

    def __init__(self, service: Service, paths: Sequence[str]) -> None:
        self._port = int(service.url.rpartition(":")[2])
        self._paths = paths
        self._loop = asyncio.new_event_loop()
        self._tasks: list[asyncio.Task[None]] = []
        self.statuses: Counter[str] = Counter()
        self.sent = 0
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._loop.call_soon_threadsafe(self._begin)

    def _begin(self) -> None:
        self._tasks = [self._loop.create_task(self._get(path)) for path in self._paths]

    async def _get(self, path: str) -> None:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            try:
                writer.write(
                    f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode()
                )
                self.sent += 1
                line = await reader.readline()
                while await reader.read(65536):
                    pass
            finally:
                writer.close()
            self.statuses[line[9:12].decode() or "closed"] += 1
        except OSError as error:
            self.statuses[type(error).__name__] += 1

    def leave(self) -> None:
        """Close all connections."""
        for task in self._tasks:
            self._loop.call_soon_threadsafe(task.cancel)

    def end(self) -> None:
        """Wait until all have been answered, or have left."""
        wait_until(
            lambda: len(self._tasks) == len(self._paths) and all(t.done() for t in self._tasks)
        )
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@contextmanager
def crowd(service: Service, paths: Sequence[str]) -> Iterator[Crowd]:
    found = Crowd(service, paths)
    try:
        yield found
    finally:
        found.leave()
        found.end()


def upload(service: Service, shade: int) -> int:
    files = {"image": ("a.png", picture(shade), "image/png")}
    return loopback.post(
        f"{service.url}/api/enhance", files=files, timeout=WAIT_SECONDS
    ).status_code


def get(service: Service, path: str) -> httpx.Response:
    return loopback.get(service.url + path, timeout=WAIT_SECONDS)


def hang(sources: SourceServer, number: int, until: Callable[[], object], name: str) -> list[str]:
    """Return paths of sources that send nothing until something has happened."""
    for each in range(number):
        sources.pages[f"/{name}/{each}"] = Page(picture(80), headers=FRESH, before=until)
    return [sign(sources.url(f"/{name}/{each}")) for each in range(number)]


def test_service_answers_while_hundreds_of_sources_hang(
    service: Service, sources: SourceServer
) -> None:
    sources.pages["/other"] = Page(picture(90), headers=FRESH)
    assert upload(service, 1) == 200
    assert get(service, sign(sources.url("/other"))).status_code == 200
    before, may_end = count_files(service), threading.Event()
    dead = f"http://127.0.0.1:{find_free_port()}/"
    paths = hang(sources, 300, may_end.wait, "hang")
    paths += [sign(f"{dead}{number}") for number in range(50)]
    paths += [sign(f"http://10.0.0.1/{number}") for number in range(50)]
    try:
        with crowd(service, paths) as clients:
            # Those for which there are places wait; the others have been told to come again.
            wait_until(lambda: clients.statuses.total() >= len(paths) - OF_ONE)
            for shade in range(2, 7):
                assert get(service, "/api/health").status_code == 200
                assert upload(service, shade) == 200
            other = sign(sources.url("/other", OTHER_NAME), width="48")
            assert get(service, other).status_code == 200
            assert len([path for path, _ in sources.requests if "/hang/" in path]) <= 6
            may_end.set()
            wait_until(lambda: clients.statuses.total() == len(paths))
        assert clients.statuses.keys() <= {"200", "403", "502", "503"}
        assert clients.statuses["200"] >= 6
        assert clients.statuses["503"] >= 300 - OF_ONE
        wait_until(lambda: count_files(service) <= before, "descriptors have been left open")
        assert get(service, paths[-51]).status_code == 502
    finally:
        may_end.set()
    assert "Traceback" not in service.log


def test_clients_that_leave_take_no_places(service: Service, sources: SourceServer) -> None:
    may_end = threading.Event()
    before = count_files(service)
    try:
        with crowd(service, hang(sources, 60, may_end.wait, "hang")) as clients:
            wait_until(lambda: len(sources.requests) == 6)
            wait_until(lambda: clients.sent == 60)
        # Whoever fetches goes on, for others who may come.
        wait_until(lambda: count_files(service) <= before + 6 * 3)
        with crowd(service, hang(sources, 50, may_end.wait, "next")) as clients:
            wait_until(lambda: clients.sent == 50)
            assert clients.statuses["503"] == 0
            may_end.set()
            wait_until(lambda: clients.statuses["200"] == 50)
        wait_until(lambda: count_files(service) <= before)
    finally:
        may_end.set()
    assert "Traceback" not in service.log


def test_others_get_the_image_though_the_first_client_has_left(
    service: Service, sources: SourceServer
) -> None:
    may_end = threading.Event()
    (path,) = hang(sources, 1, may_end.wait, "hang")
    try:
        with crowd(service, [path]) as first:
            wait_until(lambda: len(sources.requests) == 1)
            with crowd(service, [path] * 3) as others:
                wait_until(lambda: others.sent == 3)
                first.leave()
                may_end.set()
                wait_until(lambda: others.statuses["200"] == 3)
    finally:
        may_end.set()
    assert len(sources.requests) == 1


def test_service_that_stops_answers_those_whose_image_is_being_fetched(
    service: Service, sources: SourceServer
) -> None:
    may_end = threading.Event()
    (path,) = hang(sources, 1, may_end.wait, "hang")
    try:
        with crowd(service, [path]) as clients:
            wait_until(lambda: len(sources.requests) == 1)
            service.process.send_signal(signal.SIGTERM)
            may_end.set()
            wait_until(lambda: clients.statuses.total() == 1)
        assert clients.statuses.keys() <= {"200", "503"}
        assert service.process.wait(WAIT_SECONDS) == 0
    finally:
        may_end.set()
    assert "Traceback" not in service.log
