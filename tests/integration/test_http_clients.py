"""Third-party caching clients reuse and revalidate results of the real service."""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
import requests
from cachecontrol import CacheControl
from hishel import SqliteStorage
from hishel.httpx import CacheClient
from PIL import Image

from testkit.pictures import encode
from testkit.service import Service, run_light_service


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with run_light_service(tmp_path_factory.mktemp("service")) as running:
        yield running


@pytest.fixture
def result_url(service: Service, request: pytest.FixtureRequest) -> str:
    """The URL of a result, a different one for each test."""
    shade = sum(request.node.name.encode()) % 256
    picture = encode(Image.new("RGB", (16, 16), (shade, 9, 9)), "PNG")
    response = requests.post(
        f"{service.url}/api/enhance",
        files={"image": ("a.png", BytesIO(picture))},
        headers={"Accept": "application/json"},
        timeout=30,
    )
    url: str = response.json()["url"]
    return url


def answered(service: Service, url: str) -> list[str]:
    """Return the statuses that the service itself has returned for GETs of a URL."""
    path = url.removeprefix(service.url)
    start = f" request: GET {path} "
    return [line.split(start)[1].split()[0] for line in service.log.splitlines() if start in line]


def test_cachecontrol_reuses_a_result_and_revalidates_when_asked(
    service: Service, result_url: str
) -> None:
    with CacheControl(requests.Session()) as session:
        contents = {session.get(result_url, timeout=30).content for _ in range(3)}
        assert answered(service, result_url) == ["200"]
        again = session.get(result_url, headers={"Cache-Control": "max-age=0"}, timeout=30)
        assert answered(service, result_url) == ["200", "304"]
    assert contents == {again.content}
    assert Image.open(BytesIO(again.content)).size == (48, 48)


def test_hishel_reuses_a_result_and_revalidates_when_asked(
    service: Service, result_url: str, tmp_path: Path
) -> None:
    storage = SqliteStorage(database_path=tmp_path / "hishel.db")
    with CacheClient(storage=storage, rfc=True) as client:
        contents = {client.get(result_url).content for _ in range(3)}
        assert answered(service, result_url) == ["200"]
        again = client.get(result_url, headers={"Cache-Control": "no-cache"})
        assert again.extensions["caching"]["revalidated"]
        assert answered(service, result_url) == ["200", "304"]
    assert contents == {again.content}


@pytest.mark.parametrize("path", ["/api/health", "/api/stats", "/cache/none"])
def test_caching_client_asks_anew_for_what_changes(
    service: Service, path: str, tmp_path: Path
) -> None:
    storage = SqliteStorage(database_path=tmp_path / "hishel.db")
    url = f"{service.url}{path}"
    before = len(answered(service, url))
    with CacheClient(storage=storage, rfc=True) as client:
        for _ in range(3):
            assert not client.get(url).extensions["caching"]["from_cache"]
    assert len(answered(service, url)) == before + 3
