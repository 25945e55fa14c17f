"""Images by their addresses from two services that share database and store."""

import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from testkit import loopback
from testkit.image_addresses import KEY, picture, shade_of_file, sign
from testkit.service import Service, run_light_service
from testkit.source_server import Page, SourceServer
from testkit.waiting import WAIT_SECONDS, wait_until

FRESH, STALE = {"Cache-Control": "max-age=600"}, {"Cache-Control": "max-age=0"}


@pytest.fixture
def replicas(tmp_path: Path, postgres_url: str) -> Iterator[tuple[Service, Service]]:
    shared = {
        "url_key": KEY,
        "source_networks": "127.0.0.0/8",
        "database_url": postgres_url,
        "store_url": f"file://{tmp_path / 'store'}",
    }
    (tmp_path / "store").mkdir()
    with (
        run_light_service(tmp_path / "first", **shared) as first,
        run_light_service(tmp_path / "second", **shared) as second,
    ):
        yield first, second


def get(service: Service, path: str) -> httpx.Response:
    return loopback.get(service.url + path, timeout=WAIT_SECONDS)


def shade(service: Service, path: str) -> int:
    response = get(service, path)
    assert response.status_code == 200, response.text
    return shade_of_file(response.content)


def count(service: Service, name: str) -> int:
    number: int = loopback.get(f"{service.url}/api/stats").json()[name]
    return number


def test_what_one_has_fetched_the_others_know(
    replicas: tuple[Service, Service], sources: SourceServer
) -> None:
    first, second = replicas
    page = Page(picture(80), headers={"ETag": '"1"', **FRESH})
    sources.pages["/a"] = page
    path = sign(sources.url("/a"))
    one, two = get(first, path), get(second, path)
    assert shade_of_file(one.content) == 80
    assert two.content == one.content
    assert two.headers["ETag"] == one.headers["ETag"]
    assert len(sources.asked("/a")) == 1
    assert (count(second, "source_hits"), count(second, "inferences")) == (1, 0)
    # Other options need the file again, and the picture's hash names both results.
    assert get(second, sign(sources.url("/a"), width="48")).status_code == 200
    assert get(first, sign(sources.url("/a"), width="48")).status_code == 200
    assert len(sources.asked("/a")) == 2


def test_one_revalidates_what_the_other_has_fetched(
    replicas: tuple[Service, Service], sources: SourceServer
) -> None:
    first, second = replicas
    sources.pages["/a"] = Page(picture(80), headers={"ETag": '"1"', **STALE})
    path = sign(sources.url("/a"))
    assert shade(first, path) == 80
    assert shade(second, path) == 80
    assert [each.get("If-None-Match") for each in sources.asked("/a")] == [None, '"1"']
    assert (count(second, "source_revalidations"), count(second, "inferences")) == (1, 0)
    sources.pages["/a"] = Page(picture(90), headers={"ETag": '"2"', **FRESH})
    assert shade(second, path) == 90
    assert shade(first, path) == 90
    assert len(sources.asked("/a")) == 3
    sources.is_down = True
    assert shade(first, path) == 90


def test_image_that_one_finds_gone_is_gone_for_the_others(
    replicas: tuple[Service, Service], sources: SourceServer
) -> None:
    first, second = replicas
    sources.pages["/a"] = Page(picture(80), headers=STALE)
    path = sign(sources.url("/a"))
    assert shade(first, path) == 80
    del sources.pages["/a"]
    assert get(first, path).status_code == 404
    sources.is_down = True
    assert get(second, path).status_code == 502


def test_both_compute_one_result_though_both_fetch_at_once(
    replicas: tuple[Service, Service], sources: SourceServer
) -> None:
    arrived = threading.Event()
    sources.pages["/a"] = Page(picture(80), headers=FRESH, before=arrived.wait)
    path = sign(sources.url("/a"))
    shades: list[int] = []
    threads = [
        threading.Thread(target=lambda each=each: shades.append(shade(each, path)))
        for each in replicas
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(sources.asked("/a")) == 2)
    arrived.set()
    for thread in threads:
        thread.join()
    assert shades == [80, 80]
    assert sum(count(each, "inferences") for each in replicas) == 1
