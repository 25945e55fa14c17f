"""The command-line client against the real service, and against one that misbehaves."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from api_keys import hash_key, make_key
from tests.service import PROJECT_DIR, Service, run_service

WAIT_SECONDS = 60


def draw(path: Path, seed: int, side: int = 48) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).resize((side, side)).save(path)
    return path


def command(*arguments: object) -> list[str]:
    return [sys.executable, str(PROJECT_DIR / "enhance.py"), *(str(each) for each in arguments)]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=WAIT_SECONDS, check=False
    )


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with run_service(tmp_path_factory.mktemp("service")) as running:
        yield running


def test_files_and_folders_are_made_and_not_made_again(service: Service, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    draw(source / "a.png", 1)
    draw(source / "deep" / "b.jpg", 2)
    draw(source / "same.png", 3)
    draw(source / "same.jpg", 4)
    (source / "notes.txt").write_text("no picture")
    single = draw(tmp_path / "single.png", 5)
    arguments = (source, single, "-o", out, "--url", service.url)
    first = run(*arguments)
    assert first.returncode == 0, first.stderr
    assert "5 of 5 pictures made" in first.stderr
    made = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    expected = {"a_x3.png", "deep/b_x3.png", "same.png_x3.png", "same.jpg_x3.png", "single_x3.png"}
    assert made == expected
    with Image.open(out / "a_x3.png") as result:
        assert result.size == (144, 144)
    again = run(*arguments)
    assert "0 of 0 pictures made" in again.stderr
    assert "5 were there" in again.stderr


def test_upload_is_skipped_where_the_result_exists(service: Service, tmp_path: Path) -> None:
    picture = draw(tmp_path / "a.png", 11)
    assert run(picture, "-o", tmp_path / "one", "--url", service.url).returncode == 0
    posts = service.log.count("POST /api/enhance")
    assert run(picture, "-o", tmp_path / "two", "--url", service.url).returncode == 0
    assert service.log.count("POST /api/enhance") == posts
    one, two = ((tmp_path / name / "a_x3.png").read_bytes() for name in ("one", "two"))
    assert one == two


def test_local_result_has_the_bytes_of_the_services(service: Service, tmp_path: Path) -> None:
    picture = draw(tmp_path / "a.png", 12)
    assert run(picture, "-o", tmp_path / "remote", "--url", service.url).returncode == 0
    local = run(picture, "-o", tmp_path / "local", "--local")
    assert local.returncode == 0, local.stderr
    remote = (tmp_path / "remote" / "a_x3.png").read_bytes()
    assert (tmp_path / "local" / "a_x3.png").read_bytes() == remote


def test_options_are_those_of_the_service(service: Service, tmp_path: Path) -> None:
    picture = draw(tmp_path / "a.png", 17)
    options = ("--format", "webp", "--scale", "2")
    for name, where in (("remote", ("--url", service.url)), ("local", ("--local",))):
        done = run(picture, "-o", tmp_path / name, *where, *options)
        assert done.returncode == 0, done.stderr
        with Image.open(tmp_path / name / "a_x2.webp") as result:
            assert (result.format, result.size) == ("WEBP", (96, 96))
    assert run(picture, "--format", "gif").returncode == 2


@pytest.mark.parametrize("where", ["remote", "local"])
def test_bad_picture_fails_alone(service: Service, tmp_path: Path, where: str) -> None:
    draw(tmp_path / "in" / "good.png", 13)
    (tmp_path / "in" / "bad.png").write_bytes(b"no picture")
    options = ("--local",) if where == "local" else ("--url", service.url)
    done = run(tmp_path / "in", "-o", tmp_path / "out", *options)
    assert done.returncode == 1
    assert "bad.png" in done.stderr
    assert "PNG, JPEG" in " ".join(done.stderr.split())
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good_x3.png"]


def test_no_result_overwrites_another(tmp_path: Path) -> None:
    first, second = (draw(tmp_path / name / "photo.png", 20) for name in "ab")
    done = run(tmp_path / "a", tmp_path / "b", "-o", tmp_path / "out")
    assert done.returncode == 2
    assert "2 of the pictures would have the result" in done.stderr
    assert run(first, second, "-o", tmp_path / "out").returncode == 2
    once = run(first, first, tmp_path / "a", "-o", tmp_path / "out", "--local")
    assert "1 of 1 pictures made" in once.stderr


def test_wrong_arguments_end_with_2(tmp_path: Path) -> None:
    assert run(tmp_path / "missing.png").returncode == 2
    assert run(tmp_path, "--parallel", "0").returncode == 2


def test_interrupted_run_withdraws_its_job_and_goes_on_later(
    service: Service, tmp_path: Path
) -> None:
    draw(tmp_path / "in" / "small.png", 14)
    noise = np.random.default_rng(15).integers(0, 256, (90, 90, 3), np.uint8)
    Image.fromarray(noise).resize((1800, 1800)).save(tmp_path / "in" / "large.jpg")
    arguments = (tmp_path / "in", "-o", tmp_path / "out", "--url", service.url)
    process = subprocess.Popen(command(*arguments), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + WAIT_SECONDS
    while not (tmp_path / "out" / "small_x3.png").exists() or " 202 " not in service.log:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, output = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 130, output
    assert "the same command goes on" in output
    while httpx.get(f"{service.url}/api/stats").json()["queue_pixels"]:
        assert time.monotonic() < deadline
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["small_x3.png"]


class BusyHandler(BaseHTTPRequestHandler):
    """Is busy twice, then has the result."""

    attempts: list[float]

    def do_GET(self) -> None:
        if self.path.startswith("/api/result"):
            self.attempts.append(time.monotonic())
            if len(self.attempts) < 3:
                return self.answer(503, b'{"error": "later"}', {"Retry-After": "1"})
            url = f"http://{self.headers['Host']}/cache/x.png"
            return self.answer(200, json.dumps({"exists": True, "url": url}).encode())
        return self.answer(200, b"the result")

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        pass


def test_busy_service_is_asked_again_when_it_says(tmp_path: Path) -> None:
    BusyHandler.attempts = []
    picture = draw(tmp_path / "a.png", 16)
    with ThreadingHTTPServer(("127.0.0.1", 0), BusyHandler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        done = run(picture, "-o", tmp_path / "out", "--url", url)
        server.shutdown()
        thread.join()
    assert done.returncode == 0, done.stderr
    first, second, third = BusyHandler.attempts
    assert second - first >= 1
    assert third - second >= 1
    assert (tmp_path / "out" / "a_x3.png").read_bytes() == b"the result"
    assert os.listdir(tmp_path / "out") == ["a_x3.png"]  # noqa: PTH208


def test_key_goes_to_the_api_and_nowhere_else(tmp_path: Path) -> None:
    key = make_key()
    keys = tmp_path / "keys"
    keys.write_text(f"anna:{hash_key(key)}\n")
    picture = draw(tmp_path / "a.png", 1)
    with run_service(tmp_path / "service", api_keys_file=keys) as service:
        arguments = command(picture, "-o", tmp_path / "out", "--url", service.url)
        for sent, code in (("", 1), (key, 0), (key, 0)):
            done = subprocess.run(
                [*arguments, "--overwrite"],
                env={**os.environ, "SR_API_KEY": sent},
                capture_output=True,
                text=True,
                timeout=WAIT_SECONDS,
                check=False,
            )
            assert done.returncode == code, done.stderr
            assert ("Authorization: Bearer KEY" in done.stderr) == (code == 1)
        # The third time from /cache/, which takes no key.
        assert "key=anna" in service.log
        fetched = [line for line in service.log.splitlines() if "GET /cache/" in line]
        assert fetched
        assert not [line for line in fetched if "key=" in line]
