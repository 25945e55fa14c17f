"""The service as users see it: real gunicorn, real model, real photographs, real sockets."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image, ImageOps

from super_resolution import SuperResolution
from superres.images.pixels import Pixels
from superres.paths import PROJECT_DIR
from testkit import loopback
from testkit.pictures import encode
from testkit.service import (
    GUNICORN,
    Service,
    find_free_port,
    run_light_service,
    run_service,
    service_environment,
)

# As long as the shipped proxy waits.
WAIT_SECONDS = 300


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with run_service(tmp_path_factory.mktemp("service")) as running:
        yield running


def photo_file(photo: Pixels, left: int, side: int = 100, image_format: str = "JPEG") -> bytes:
    return encode(Image.fromarray(photo[:side, left : left + side, ::-1]), image_format)


def upload(service: Service, content: bytes, **headers: str) -> httpx.Response:
    return loopback.post(
        f"{service.url}/api/enhance",
        files={"image": ("photo.jpg", content)},
        headers=headers,
        timeout=WAIT_SECONDS,
    )


def statistics(service: Service) -> dict[str, int]:
    body: dict[str, int] = loopback.get(f"{service.url}/api/stats").json()
    return body


def wait_for_queue(service: Service) -> None:
    """Wait until an image is being computed."""
    deadline = time.monotonic() + WAIT_SECONDS
    while statistics(service)["queue_length"] == 0:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_photograph_comes_back_as_the_model_computes_it(
    service: Service, photo: Pixels, real_super_resolution: SuperResolution
) -> None:
    content = photo_file(photo, 180, side=200)
    response = upload(service, content)
    assert response.status_code == 200
    assert response.headers["X-Cache-Hit"] == "false"
    result = np.asarray(Image.open(BytesIO(response.content)))
    expected = np.asarray(real_super_resolution.enhance(content))
    assert result.shape == (600, 600, 3)
    assert np.abs(result.astype(int) - expected).max() <= 1

    again = upload(service, content)
    assert again.headers["X-Cache-Hit"] == "true"
    assert again.content == response.content

    url = response.headers["Link"].split(">")[0].removeprefix("<")
    direct = loopback.get(url)
    assert direct.content == response.content
    assert int(loopback.head(url).headers["Content-Length"]) == len(response.content)
    etag = {"If-None-Match": response.headers["ETag"]}
    assert loopback.get(url, headers=etag).status_code == 304


def test_phone_photograph_lying_on_its_side_is_turned_upright(
    service: Service, photo: Pixels
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(photo[:60, 180:280, ::-1])
    content = encode(stored, "MPO", exif=exif, save_all=True, append_images=[stored])
    result = Image.open(BytesIO(upload(service, content).content))
    assert result.size == (180, 300)
    upright = ImageOps.exif_transpose(Image.open(BytesIO(content))).resize(result.size)
    assert np.abs(np.asarray(result).astype(int) - np.asarray(upright)).mean() < 8


def test_logo_keeps_its_transparency(service: Service) -> None:
    logo = Image.new("RGBA", (50, 40), (0, 0, 0, 0))
    logo.paste((200, 30, 30, 255), (10, 10, 40, 30))
    result = Image.open(BytesIO(upload(service, encode(logo, "PNG")).content))
    assert (result.mode, result.size) == ("RGBA", (150, 120))
    assert result.getpixel((5, 5))[3] == 0  # type: ignore[index]
    assert result.getpixel((75, 60))[3] == 255  # type: ignore[index]


def test_identical_uploads_at_once_cost_one_inference(service: Service, photo: Pixels) -> None:
    content = photo_file(photo, 30, side=150)
    before = statistics(service)["inferences"]
    with ThreadPoolExecutor(24) as pool:
        responses = list(pool.map(lambda _: upload(service, content), range(24)))
    assert {response.status_code for response in responses} == {200}
    assert len({response.content for response in responses}) == 1
    assert statistics(service)["inferences"] == before + 1


def test_hit_is_answered_while_inference_runs(service: Service, photo: Pixels) -> None:
    known = photo_file(photo, 0, side=40)
    upload(service, known)
    large = photo_file(photo, 0, side=512, image_format="PNG")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(upload, service, large)
        wait_for_queue(service)
        hit = upload(service, known)
        assert hit.headers["X-Cache-Hit"] == "true"
        assert not running.done()
        assert running.result().status_code == 200


def test_raw_body_and_json_answer(service: Service, photo: Pixels) -> None:
    response = loopback.post(
        f"{service.url}/api/enhance",
        content=photo_file(photo, 90, side=30),
        headers={"Content-Type": "image/jpeg", "Accept": "application/json"},
        timeout=WAIT_SECONDS,
    )
    body = response.json()
    assert (body["width"], body["height"]) == (90, 90)
    assert loopback.get(body["url"]).headers["Content-Type"] == "image/png"


def test_chunked_upload_is_taken_whole(service: Service, photo: Pixels) -> None:
    content = photo_file(photo, 91, side=90)
    response = loopback.post(
        f"{service.url}/api/enhance",
        content=iter([content[:1000], content[1000:]]),
        headers={"Content-Type": "image/jpeg"},
        timeout=WAIT_SECONDS,
    )
    assert Image.open(BytesIO(response.content)).size == (270, 270)


def test_upload_over_the_limit_is_refused_readably(service: Service) -> None:
    for content in (b"x" * (17 * 1024**2), iter([b"x" * 1024**2] * 17)):
        response = loopback.post(
            f"{service.url}/api/enhance",
            content=content,
            headers={"Content-Type": "image/jpeg"},
            timeout=WAIT_SECONDS,
        )
        assert (response.status_code, response.json()["code"]) == (413, "too_large")


def begin_upload(service: Service, path: str = "/api/enhance") -> socket.socket:
    """Send the start of an upload and return the connection."""
    host, port = service.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=WAIT_SECONDS)
    connection.sendall(
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n"
        "Content-Length: 100000\r\n\r\nbeginning".encode()
    )
    return connection


def test_clients_that_leave_in_mid_upload_give_their_places_back(service: Service) -> None:
    for _ in range(40):  # more than the limit of concurrent uploads
        begin_upload(service).close()
    logo = encode(Image.new("L", (5, 5)), "PNG")
    deadline = time.monotonic() + WAIT_SECONDS
    while (response := upload(service, logo)).status_code == 503:
        assert time.monotonic() < deadline
    assert response.status_code == 200


def test_silent_clients_are_told_and_hold_up_neither_health_nor_results(
    tmp_path: Path, photo: Pixels
) -> None:
    with run_light_service(tmp_path, upload_timeout_seconds=2) as service:
        stored = upload(service, photo_file(photo, 0, side=20)).headers["Link"]
        silent = [begin_upload(service) for _ in range(120)]
        address = stored.split(">")[0].removeprefix("<")
        for url in (f"{service.url}/api/health", address):
            assert loopback.get(url, timeout=WAIT_SECONDS).status_code == 200
        answers = [connection.recv(12) for connection in silent]
        for connection in silent:
            connection.close()
        assert {b"HTTP/1.1 408", b"HTTP/1.1 503"} == set(answers)
        assert upload(service, photo_file(photo, 40, side=20)).status_code == 200


def test_refused_upload_that_never_comes_is_answered_all_the_same(service: Service) -> None:
    with begin_upload(service, "/nothing") as connection:
        assert connection.recv(12) == b"HTTP/1.1 404"


# --- starting and stopping


def test_python_app_py_serves_from_any_folder(tmp_path: Path, photo: Pixels) -> None:
    command = (sys.executable, str(PROJECT_DIR / "app.py"))
    with run_light_service(tmp_path, command, working_dir=tmp_path) as running:
        response = upload(running, photo_file(photo, 200, side=30))
        assert Image.open(BytesIO(response.content)).size == (90, 90)


def test_opencv_is_used_in_the_worker_and_not_before_the_fork(service: Service) -> None:
    def loads_opencv(pid: int) -> bool:
        return "cv2" in Path(f"/proc/{pid}/maps").read_text()

    assert loads_opencv(service.worker_pid)
    assert not loads_opencv(service.process.pid)


def test_request_longer_than_gunicorns_timeout_is_answered(
    tmp_path: Path, photo: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With less, gunicorn kills idle workers, too: they tell that they are alive once a second.
    monkeypatch.setenv("GUNICORN_CMD_ARGS", "--timeout 2")
    content = encode(Image.fromarray(np.tile(photo[:, :, ::-1], (1, 2, 1))), "JPEG")
    with run_service(tmp_path, lanes=1) as running:
        response = upload(running, content)
        assert response.status_code == 200
        assert float(response.headers["X-Process-Time"]) > 2.4
        assert "WORKER TIMEOUT" not in running.log


def test_service_tells_that_it_is_loading(tmp_path: Path) -> None:
    with run_service(tmp_path, lanes=3) as running:
        assert set(running.answers_while_starting) == {503}


def test_results_outlive_a_restart(tmp_path: Path, photo: Pixels) -> None:
    content = photo_file(photo, 210, side=30)
    with run_light_service(tmp_path) as running:
        first = upload(running, content)
    with run_light_service(tmp_path) as running:
        second = upload(running, content)
    assert second.headers["X-Cache-Hit"] == "true"
    assert second.content == first.content


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model_path": "/absent.pb"}, "cannot read the model /absent.pb"),
        ({"restore_model_path": "/absent.pb"}, "cannot read the model /absent.pb"),
        ({"model_path": "LICENSE"}, "not an EDSR x3 model that OpenCV can run"),
        ({"lanes": "many"}, "SR_LANES='many': must be a whole number"),
        ({"bind": "127.0.0.1:99999"}, "SR_BIND='127.0.0.1:99999': a port must be at most 65535"),
        ({"api_keys_file": "missing"}, "cannot read the API keys missing"),
    ],
)
def test_wrong_start_ends_with_one_clear_error(
    tmp_path: Path, settings: dict[str, str], words: str
) -> None:
    process = subprocess.run(
        GUNICORN,
        cwd=PROJECT_DIR,
        env=service_environment(tmp_path, find_free_port(), **settings),
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
    )
    assert process.returncode != 0
    assert words in process.stdout + process.stderr
    assert "Traceback" not in process.stdout + process.stderr


def test_stopping_service_answers_what_it_has_begun(tmp_path: Path, photo: Pixels) -> None:
    content = photo_file(photo, 0, side=400, image_format="PNG")
    with ThreadPoolExecutor(1) as pool:
        with run_service(tmp_path) as running:
            answer = pool.submit(upload, running, content)
            wait_for_queue(running)
        assert Image.open(BytesIO(answer.result().content)).size == (1200, 1200)
