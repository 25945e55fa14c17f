"""Killed, full, read-only: the service never serves half a result and never loses a response."""

import os
import signal
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from PIL import Image

from superres.paths import PROJECT_DIR
from superres.store.result_cache import ResultCache
from superres.store.stored_result import ResultInfo
from testkit import loopback
from testkit.pictures import encode
from testkit.service import Service, cache_on_tmpfs, run_light_service
from testkit.waiting import wait_until

# Writes results forever, under the same name, so that each write also races a reader.
WRITER = """
import os, sys
from pathlib import Path
from superres.store.result_cache import ResultCache
from superres.store.stored_result import ResultInfo
cache = ResultCache(Path(sys.argv[1]))
name = "a" * 64 + "." + "b" * 12 + ".png"
print("writing", flush=True)
while True:
    payload = os.urandom(2_000_000)
    cache.store(name, payload, ResultInfo.describe(payload, 1, 1))
    cache.remove(name)
"""
NAME = f"{'a' * 64}.{'b' * 12}.png"


def upload(service: Service, shade: int) -> httpx.Response:
    picture = encode(Image.new("RGB", (16, 16), (shade, 9, 9)), "PNG")
    return loopback.post(
        f"{service.url}/api/enhance", files={"image": ("a.png", picture)}, timeout=30
    )


def assert_is_result(response: httpx.Response, shade: int) -> None:
    assert response.status_code == 200
    image = Image.open(BytesIO(response.content))
    assert image.size == (48, 48)
    assert abs(image.getpixel((24, 24))[0] - shade) <= 3  # type: ignore[index]


def test_writer_killed_at_any_moment_leaves_a_whole_result_or_none(tmp_path: Path) -> None:
    leftovers = 0
    for attempt in range(25):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], cwd=PROJECT_DIR, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        with process, process.stdout:
            process.stdout.readline()
            time.sleep(0.002 * attempt)
            process.kill()
        stored = ResultCache(tmp_path).open(NAME)
        if stored is not None:
            with stored.file:
                assert ResultInfo.describe(stored.file.read(), 1, 1) == stored.info
        leftovers += len(list(tmp_path.glob(".writing-*")))
    assert leftovers > 0, "no kill came during a write: the test has shown nothing"


def test_restarted_service_removes_leftovers_and_serves_what_is_whole(tmp_path: Path) -> None:
    cache_dir = tmp_path / "cache"
    with run_light_service(tmp_path) as service:
        assert_is_result(upload(service, 40), 40)
        assert_is_result(upload(service, 80), 80)
        os.kill(service.worker_pid, signal.SIGKILL)
    first, second = sorted(cache_dir.glob("*.png"))
    first.write_bytes(first.read_bytes()[:50])
    leftover = cache_dir / ".writing-abc"
    leftover.write_bytes(b"half a picture")
    os.utime(leftover, (0, 0))
    with run_light_service(tmp_path) as service:
        wait_until(lambda: not leftover.exists())
        url = f"{service.url}/cache/{first.name}"
        assert loopback.get(url).status_code == 404
        assert loopback.get(f"{service.url}/cache/{second.name}").status_code == 200
        assert sorted(upload(service, shade).headers["X-Cache-Hit"] for shade in (40, 80)) == [
            "false",
            "true",
        ]
        assert loopback.get(url).status_code == 200
        assert loopback.get(f"{service.url}/api/stats").json()["cache_damaged"] == 1


def test_killed_worker_is_replaced(tmp_path: Path) -> None:
    with run_light_service(tmp_path) as service:
        os.kill(service.worker_pid, signal.SIGKILL)
        deadline = time.monotonic() + 30
        while True:
            try:
                response = upload(service, 60)
                break
            except httpx.TransportError:
                assert time.monotonic() < deadline
        assert_is_result(response, 60)


@pytest.mark.parametrize("mount_options", ["size=8k", "ro"], ids=["full", "read-only"])
def test_result_is_delivered_where_it_cannot_be_stored(tmp_path: Path, mount_options: str) -> None:
    with (
        cache_on_tmpfs(tmp_path, mount_options) as command,
        run_light_service(tmp_path, command, cache_min_free_mb=0) as service,
    ):
        picture = encode(Image.effect_noise((60, 60), 90), "PNG")
        for _ in range(2):
            response = loopback.post(
                f"{service.url}/api/enhance", files={"image": ("a.png", picture)}, timeout=30
            )
            assert response.status_code == 200
            assert response.headers["X-Cache-Hit"] == "false"
            assert Image.open(BytesIO(response.content)).size == (180, 180)
        statistics = loopback.get(f"{service.url}/api/stats").json()
        assert statistics["cache_write_errors"] == 2
        assert "cannot store a result" in service.log
        assert "Traceback" not in service.log


def test_cache_folder_removed_under_the_running_service_is_made_again(tmp_path: Path) -> None:
    with run_light_service(tmp_path) as service:
        upload(service, 10)
        for path in (tmp_path / "cache").iterdir():
            path.unlink()
        (tmp_path / "cache").rmdir()
        assert_is_result(upload(service, 10), 10)
        assert upload(service, 10).headers["X-Cache-Hit"] == "true"
