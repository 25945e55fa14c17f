"""The 8-bit model: exact enough, never where it would damage, and never against the user's will."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
from PIL import Image
from skimage import data

import openvino_engine
from errors import ModelError
from lanes import Network
from openvino_engine import find_fault, load_fastest, load_guarded, load_quantised
from settings import EMBEDDED_MODEL_PATH
from super_resolution import SuperResolution, load_network, read_golden_tile
from tests.conftest import draw_weights
from tests.service import PROJECT_DIR, run_service
from tiling import Pixels
from training.export import build_graph
from training.network import layer_shapes


@pytest.fixture(scope="module")
def exact() -> Network:
    return load_network(EMBEDDED_MODEL_PATH)


@pytest.fixture(scope="module")
def quantised() -> Network:
    return load_quantised(EMBEDDED_MODEL_PATH)


@pytest.fixture(scope="module")
def guarded() -> Network:
    return load_guarded(EMBEDDED_MODEL_PATH)


@pytest.fixture
def unconditional(monkeypatch: pytest.MonkeyPatch) -> Iterator[SuperResolution]:
    """The engine on any machine, also where it would gain nothing."""
    monkeypatch.setattr(openvino_engine, "find_fault", lambda *_networks: None)
    model = load_fastest(EMBEDDED_MODEL_PATH, lanes=2)
    yield model
    model.close()


def largest_difference(first: Pixels, second: Pixels) -> int:
    assert first.shape == second.shape
    return int(np.abs(first.astype(np.int16) - second).max())


def dither(pixels: Pixels) -> Pixels:
    """Return a picture of black and white pixels only, as fax machines and e-readers show it."""
    dithered = Image.fromarray(pixels).convert("1").convert("RGB")
    return np.asarray(dithered, np.uint8)


@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea", "camera", "text", "page"])
def test_pictures_come_out_as_from_opencv(
    name: str, exact: Network, unconditional: SuperResolution
) -> None:
    pixels = np.asarray(Image.fromarray(getattr(data, name)()).convert("RGB"))
    picture = np.ascontiguousarray(pixels[:190, 20:230, ::-1])
    expected, computed = exact(picture), unconditional.upscale(picture)
    assert cv2.PSNR(expected, computed) >= 50
    assert largest_difference(expected, computed) <= 10


def test_golden_tile_is_as_close_as_the_engine_asks_for(quantised: Network) -> None:
    golden_input, expected = read_golden_tile()
    computed = quantised(golden_input)
    assert cv2.PSNR(expected, computed) >= 50
    assert largest_difference(expected, computed) <= 8


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (4, 1), (7, 5), (193, 60), (250, 400)])
def test_any_size_is_tiled_without_seams(
    unconditional: SuperResolution, quantised: Network, photo: Pixels, size: tuple[int, int]
) -> None:
    picture = np.ascontiguousarray(photo[: size[0], 80 : 80 + size[1]])
    assert largest_difference(unconditional.upscale(picture), quantised(picture)) <= 5


def test_same_picture_gives_the_same_pixels_again(
    unconditional: SuperResolution, photo: Pixels
) -> None:
    first = unconditional.upscale(photo)
    np.testing.assert_array_equal(first, unconditional.upscale(photo))


def test_dithering_is_left_to_opencv_because_8_bits_would_damage_it(
    exact: Network, quantised: Network, guarded: Network
) -> None:
    picture = dither(data.camera()[100:250, 200:350])
    expected = exact(picture)
    assert cv2.PSNR(expected, quantised(picture)) < 35
    assert largest_difference(expected, guarded(picture)) <= 1


def test_dithered_corner_is_enough_for_the_guard(
    exact: Network, guarded: Network, photo: Pixels
) -> None:
    picture = photo[:190, :190].copy()
    picture[150:, 150:] = dither(data.camera()[100:140, 200:240])
    assert largest_difference(exact(picture), guarded(picture)) <= 1


def test_photographs_do_not_meet_the_guard(
    quantised: Network, guarded: Network, photo: Pixels
) -> None:
    picture = np.ascontiguousarray(photo[:190, :190])
    np.testing.assert_array_equal(quantised(picture), guarded(picture))


def test_results_have_a_name_of_their_own(
    unconditional: SuperResolution, real_super_resolution: SuperResolution
) -> None:
    assert unconditional.model_sha256 == real_super_resolution.model_sha256
    assert unconditional.fingerprint != real_super_resolution.fingerprint


def test_engine_is_sound_by_its_golden_tile(unconditional: SuperResolution) -> None:
    assert unconditional.matches_golden_tile()


def test_other_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "EDSR_x3.pb"
    weights = draw_weights(layer_shapes(blocks=1, channels=8))
    path.write_bytes(build_graph(weights).SerializeToString())
    with pytest.raises(ModelError, match="made for the embedded model"):
        load_fastest(path)


def test_missing_package_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ModelError, match=r"pip install -r requirements-openvino\.txt"):
        load_fastest(EMBEDDED_MODEL_PATH)
    assert (PROJECT_DIR / "requirements-openvino.txt").is_file()


def test_damaged_8_bit_model_is_named_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("EDSR_x3_int8.xml", "EDSR_x3_int8.bin", "SHA256SUMS"):
        content = EMBEDDED_MODEL_PATH.with_name(name).read_bytes()
        (tmp_path / name).write_bytes(content + b"\0" if name.endswith("bin") else content)
    quantised_path = tmp_path / "EDSR_x3_int8.xml"
    monkeypatch.setattr(openvino_engine, "QUANTISED_MODEL_PATH", quantised_path)
    with pytest.raises(ModelError, match="is damaged"):
        load_fastest(EMBEDDED_MODEL_PATH)


def test_engine_that_computes_wrongly_is_found_out(exact: Network) -> None:
    def brighter(tile: Pixels) -> Pixels:
        return np.minimum(exact(tile), 245) + np.uint8(10)

    fault = find_fault(brighter, exact)
    assert fault is not None
    assert "golden tile" in fault


def test_engine_that_gains_nothing_is_found_out(exact: Network) -> None:
    def slower(tile: Pixels) -> Pixels:
        time.sleep(0.2)
        return exact(tile)

    fault = find_fault(slower, exact)
    assert fault is not None
    assert "times as fast" in fault


def test_engine_that_gains_something_has_no_fault(exact: Network) -> None:
    def slower(tile: Pixels) -> Pixels:
        time.sleep(0.5)
        return exact(tile)

    assert find_fault(exact, slower) is None


@pytest.mark.parametrize("fails", [True, False])
def test_service_stays_with_opencv_where_the_engine_is_no_use(
    fails: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def find(*_networks: Network) -> str:
        if fails:
            raise RuntimeError("can't protect")
        return "it is only 1.2 times as fast as OpenCV"

    monkeypatch.setattr(openvino_engine, "find_fault", find)
    model = load_fastest(EMBEDDED_MODEL_PATH, lanes=1)
    assert model.profile.engine == "cv2.dnn"
    assert model.matches_golden_tile()
    assert "OpenVINO is not used on this machine: it" in caplog.text
    model.close()


def test_import_tells_nobody_and_leaves_nothing_in_the_home_folder(tmp_path: Path) -> None:
    code = (
        "import sys; from openvino_engine import *; load_quantised(EMBEDDED_MODEL_PATH);"
        "print([name for name in sys.modules if name.startswith('openvino_telemetry.')])"
    )
    environment = {**os.environ, "HOME": str(tmp_path)}
    environment.pop("CI", None)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PROJECT_DIR,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "[]\n"
    assert list(tmp_path.iterdir()) == []


def test_service_says_what_it_computes_with(tmp_path: Path, photo_jpeg: bytes) -> None:
    urls = {}
    for engine in ("openvino", "opencv"):
        with run_service(tmp_path, engine=engine) as service:
            health = httpx.get(f"{service.url}/api/health").json()
            answer = httpx.post(f"{service.url}/api/enhance", files={"image": photo_jpeg})
            assert answer.status_code == 200
            urls[health["engine"]] = answer.links["canonical"]["url"].rpartition("/")[2]
            if health["engine"] == "cv2.dnn" and engine == "openvino":
                assert "OpenVINO is not used on this machine" in service.log
    assert len(set(urls.values())) == len(urls)
    assert "cv2.dnn" in urls
