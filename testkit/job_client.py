"""Asynchronous requests through Flask's test client."""

import sqlite3
import time
from typing import Any

import numpy as np
from flask.testing import FlaskClient
from PIL import Image
from werkzeug.test import TestResponse

from superres.jobs.job_records import JobStatus
from superres.service.runner import Runner
from superres.settings import Settings
from testkit.app_client import upload
from testkit.pictures import encode
from testkit.waiting import WAIT_SECONDS

ASYNC = {"Prefer": "respond-async"}


def picture(shade: int, side: int = 20) -> bytes:
    return encode(Image.new("RGB", (side, side), (shade, 50, 60)), "PNG")


def noise(side: int, seed: int = 1) -> bytes:
    """An image whose tiles all differ."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side // 20, side // 20, 3), np.uint8)
    return encode(Image.fromarray(pixels).resize((side, side)), "JPEG", quality=50)


def send(client: FlaskClient, content: bytes, prefer: str = "respond-async") -> TestResponse:
    return upload(client, content=content, headers={"Prefer": prefer})


def path_of(response: TestResponse) -> str:
    location = response.headers["Location"]
    assert location.startswith("http://localhost/api/jobs/")
    return location.removeprefix("http://localhost")


def wait_for(client: FlaskClient, path: str, *states: str) -> dict[str, Any]:
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        status: dict[str, Any] = client.get(path).get_json()
        if status["state"] in states:
            return status
        time.sleep(0.02)
    raise TimeoutError(status)


def spooled(settings: Settings) -> list[str]:
    return sorted(path.name for path in (settings.cache_dir / "spool").glob("*"))


def status_of(runner: Runner, path: str) -> JobStatus:
    status = runner.jobs.find(path.rsplit("/", 1)[1])
    assert status is not None
    return status


def open_rows(settings: Settings) -> list[Any]:
    with sqlite3.connect(settings.state_dir / "jobs.sqlite3") as connection:
        rows = connection.execute("SELECT name FROM jobs WHERE state IN ('queued', 'running')")
        found = rows.fetchall()
    connection.close()
    return found
