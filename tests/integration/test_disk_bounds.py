"""The real service's disk usage while somebody tries to fill the disk."""

from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from testkit.service import run_light_service
from testkit.waiting import wait_until

MEGABYTE = 1024**2
ASYNC = {"Prefer": "respond-async"}


def noise(side: int, seed: int) -> bytes:
    """An image whose result cannot be compressed much."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def pixel(number: int) -> bytes:
    """An image of one pixel and 900 kB."""
    file = BytesIO()
    Image.new("RGB", (1, 1), (number, 0, 0)).save(file, "PNG")
    return file.getvalue() + bytes(900_000)


def size_on_disk(folder: Path) -> int:
    """Return the size of a folder's files, even while they come and go."""
    total = 0
    for path in folder.iterdir():
        try:
            total += path.stat().st_blocks * 512 if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def test_uploads_of_jobs_stay_within_their_room_and_others_go_on(tmp_path: Path) -> None:
    with (
        run_light_service(tmp_path, spool_max_mb=16, trusted_proxies=1) as service,
        httpx.Client(base_url=service.url, timeout=120) as client,
    ):

        def send(content: bytes, address: int, **headers: str) -> httpx.Response:
            headers["X-Forwarded-For"] = f"192.0.2.{address}"
            return client.post(
                "/api/enhance",
                content=content,
                headers=headers | {"Content-Type": "application/octet-stream"},
            )

        known = noise(10, 1)
        assert send(known, 1).status_code == 200
        # Keep the lanes busy, so that the uploads after these wait.
        busy = [send(noise(1000, seed), 200 + seed, **ASYNC) for seed in range(4)]
        assert [response.status_code for response in busy] == [202] * 4
        sizes = []

        def flood(number: int) -> httpx.Response:
            answer = send(pixel(number), 10 + number % 6, **ASYNC)
            sizes.append(size_on_disk(tmp_path / "cache" / "spool"))
            return answer

        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(flood, range(90)))
        refused = [answer for answer in answers if answer.status_code != 202]
        assert refused
        for answer in refused:
            assert (answer.status_code, answer.json()["code"]) == (503, "busy")
            assert int(answer.headers["Retry-After"]) >= 1
        assert max(sizes) <= 16 * MEGABYTE
        hit = send(known, 10)
        assert (hit.status_code, hit.headers["X-Cache-Hit"]) == (200, "true")
        assert send(noise(10, 2), 10).status_code == 200
        for response in busy:
            assert client.delete(response.json()["status_url"]).status_code == 204
        wait_until_empty(tmp_path / "cache" / "spool")
        # All release their space, each after its file is gone.
        wait_until(lambda: client.get("/api/stats").json()["spool_bytes"] == 0)
        assert send(pixel(200), 10, **ASYNC).status_code == 202


def wait_until_empty(folder: Path) -> None:
    wait_until(lambda: not any(folder.iterdir()))


def test_use_pins_no_results_beyond_the_limit(tmp_path: Path) -> None:
    with (
        run_light_service(tmp_path, cache_max_mb=1) as service,
        httpx.Client(base_url=service.url, timeout=120) as client,
    ):
        addresses = []
        for seed in range(14):
            answer = client.post(
                "/api/enhance",
                content=noise(160, seed),
                headers={"Content-Type": "application/octet-stream"},
            )
            assert answer.status_code == 200
            addresses.append(answer.links["canonical"]["url"])
            alive = [client.head(address).status_code for address in addresses]
            assert alive[-1] == 200
            assert size_on_disk(tmp_path / "cache") <= 1.1 * MEGABYTE
        assert 404 in alive
