"""The 8-bit model: accurate enough, never used where it would do damage, and only on request."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw
from skimage import data

from app import find_models
from bench.machine_facts import read_cpu_field
from super_resolution import SuperResolution
from superres.engines import openvino_engine
from superres.engines.engine import Network
from superres.engines.model_files import read_golden_tile
from superres.engines.opencv_engine import EMBEDDED_PROFILE, load_network
from superres.engines.openvino_engine import (
    choose_fastest_engine,
    find_fault,
    load_guarded,
    load_quantised,
)
from superres.engines.upscaler import Upscaler
from superres.errors import ModelError
from superres.images.pixels import Pixels
from superres.paths import EMBEDDED_MODEL_PATH, PROJECT_DIR, RESTORE_MODEL_PATH
from superres.settings import Settings
from testkit import loopback
from testkit.fakes import draw_weights
from testkit.pictures import largest_difference
from testkit.service import run_service
from training.degradations import DAMAGED
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


@contextlib.contextmanager
def load_unconditionally(model_path: Path, lanes: int) -> Iterator[Upscaler]:
    """Load a model into the engine on any machine, even if it would gain nothing."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(openvino_engine, "find_fault", lambda *_arguments: None)
        model = Upscaler(model_path, choose_fastest_engine(model_path), lanes)
    yield model
    model.close()


@pytest.fixture(scope="module")
def unconditional() -> Iterator[Upscaler]:
    with load_unconditionally(EMBEDDED_MODEL_PATH, lanes=2) as model:
        yield model


@pytest.fixture(scope="module")
def restoring() -> Iterator[Upscaler]:
    with load_unconditionally(RESTORE_MODEL_PATH, lanes=1) as model:
        yield model


@pytest.fixture(scope="module")
def exactly_restoring() -> Network:
    return load_network(RESTORE_MODEL_PATH)


def dither(pixels: Pixels) -> Pixels:
    """Return an image of only black and white pixels, as shown by fax machines and e-readers."""
    dithered = Image.fromarray(pixels).convert("1").convert("RGB")
    return np.asarray(dithered, np.uint8)


@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea", "camera", "text", "page"])
def test_pictures_come_out_as_from_opencv(
    name: str, exact: Network, unconditional: Upscaler
) -> None:
    pixels = np.asarray(Image.fromarray(getattr(data, name)()).convert("RGB"))
    picture = np.ascontiguousarray(pixels[:190, 20:230, ::-1])
    expected, computed = exact(picture), unconditional.upscale(picture)
    assert cv2.PSNR(expected, computed) >= 50
    assert largest_difference(expected, computed) <= 10


@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea", "camera", "text", "page"])
def test_damaged_pictures_are_restored_as_by_opencv(
    name: str, restoring: Upscaler, exactly_restoring: Network
) -> None:
    photo = Image.fromarray(getattr(data, name)()).convert("RGB").crop((20, 0, 440, 380))
    damaged = DAMAGED["messenger"](photo)
    picture = np.ascontiguousarray(np.asarray(damaged)[:, :, ::-1])
    expected, computed = exactly_restoring(picture), restoring.upscale(picture)
    assert cv2.PSNR(expected, computed) >= 50
    assert largest_difference(expected, computed) <= 10


def test_golden_tile_is_close_with_vnni_and_refused_without(
    quantised: Network, exact: Network
) -> None:
    golden_input, expected = read_golden_tile()
    computed = quantised(golden_input)
    if "_vnni" in read_cpu_field("flags"):
        assert cv2.PSNR(expected, computed) >= openvino_engine.LEAST_PSNR
        assert largest_difference(expected, computed) <= openvino_engine.LARGEST_DIFFERENCE
    else:
        assert find_fault(quantised, exact) is not None


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (4, 1), (7, 5), (193, 60), (250, 400)])
def test_any_size_is_tiled_without_seams(
    unconditional: Upscaler, quantised: Network, photo: Pixels, size: tuple[int, int]
) -> None:
    picture = np.ascontiguousarray(photo[: size[0], 80 : 80 + size[1]])
    assert largest_difference(unconditional.upscale(picture), quantised(picture)) <= 5


def test_same_picture_gives_the_same_pixels_again(unconditional: Upscaler, photo: Pixels) -> None:
    first = unconditional.upscale(photo)
    np.testing.assert_array_equal(first, unconditional.upscale(photo))


def draw_patterns() -> dict[str, Pixels]:
    """Return images that 8 bits would damage."""
    row, column = np.indices((96, 96))
    text = Image.new("RGB", (96, 96), "blue")
    ImageDraw.Draw(text).multiline_text((2, 2), "The quick brown\nfox 0123456\n" * 6, "yellow")
    corner = np.full((96, 96, 3), (255, 0, 0), np.uint8)
    corner[90:96, 90:96] = np.where((row + column)[90:, 90:, None] % 2, (0, 255, 255), (255, 0, 0))
    dots = np.where(((row % 3 == 0) & (column % 3 == 0))[:, :, None], (0, 255, 255), (255, 0, 0))
    chequered = np.where(((row // 2 + column // 2) % 2)[:, :, None], (255, 0, 0), (0, 0, 0))
    return {
        "dithered photograph": dither(data.camera()[100:250, 200:350]),
        "coloured text": np.ascontiguousarray(np.asarray(text)[:, :, ::-1]),
        "small chequerboard in a corner": corner,
        "coloured dots": dots.astype(np.uint8),
        "coloured chequerboard of 2": chequered.astype(np.uint8),
    }


@pytest.mark.parametrize("name", draw_patterns())
def test_what_8_bits_would_damage_is_left_to_opencv(
    exact: Network, quantised: Network, guarded: Network, name: str
) -> None:
    picture = draw_patterns()[name]
    expected = exact(picture)
    assert largest_difference(expected, quantised(picture)) > 20
    assert largest_difference(expected, guarded(picture)) <= 1


def test_tile_beside_a_damaged_one_meets_it_without_a_seam(
    unconditional: Upscaler, exact: Network, photo: Pixels
) -> None:
    picture = np.ascontiguousarray(photo[:190, :360])
    picture[:, 300:] = dither(data.camera()[100:290, 200:260])
    assert largest_difference(unconditional.upscale(picture), exact(picture)) <= 10


def test_photographs_are_computed_in_8_bits(
    quantised: Network, guarded: Network, photo: Pixels
) -> None:
    picture = np.ascontiguousarray(photo[:190, :190])
    np.testing.assert_array_equal(quantised(picture), guarded(picture))


@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea", "rocket", "camera", "page"])
def test_no_part_of_a_photograph_is_extreme(name: str) -> None:
    pixels = np.asarray(Image.fromarray(getattr(data, name)()).convert("RGB"))
    contrast, colour_contrast = openvino_engine.measure_contrasts(pixels)
    assert 0 < contrast < 0.9 * openvino_engine.MOST_CONTRAST
    assert 0 <= colour_contrast < 0.9 * openvino_engine.MOST_COLOUR_CONTRAST


def test_many_shapes_do_not_fill_the_memory(quantised: Network) -> None:
    def read_memory_mb() -> float:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    shapes = [(height, width) for height in range(8, 48, 2) for width in range(8, 48, 3)]
    half = len(shapes) // 2
    for shape in shapes[:half]:
        quantised(np.zeros((*shape, 3), np.uint8))
    before = read_memory_mb()
    for shape in shapes[half:]:
        quantised(np.zeros((*shape, 3), np.uint8))
    # With OpenVINO's default it would grow by 2 MB per shape.
    assert half == 140
    assert read_memory_mb() - before < 100


def test_lanes_are_not_tied_to_one_cpu(quantised: Network, photo: Pixels) -> None:
    tile, all_cpus = np.ascontiguousarray(photo[:96, :96]), os.sched_getaffinity(0)
    seen: list[set[int]] = []
    ended = threading.Event()

    def compute() -> None:
        for _ in range(10):
            quantised(tile)
        ended.set()

    thread = threading.Thread(target=compute)
    thread.start()
    while not ended.wait(0.002):
        with contextlib.suppress(ProcessLookupError):
            seen.append(os.sched_getaffinity(thread.native_id or 0))
    thread.join()
    assert seen
    assert all(cpus == all_cpus for cpus in seen)


def test_results_have_a_name_of_their_own(
    unconditional: Upscaler, real_super_resolution: SuperResolution
) -> None:
    assert unconditional.model_sha256 == real_super_resolution.model_sha256
    assert unconditional.fingerprint != real_super_resolution.fingerprint


def test_engine_is_sound_by_its_golden_tiles(unconditional: Upscaler, restoring: Upscaler) -> None:
    assert unconditional.matches_golden_tile()
    assert restoring.matches_golden_tile()


def test_other_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "EDSR_x3.pb"
    weights = draw_weights(layer_shapes(blocks=1, channels=8))
    path.write_bytes(build_graph(weights).SerializeToString())
    with pytest.raises(ModelError, match="works with the embedded models only"):
        choose_fastest_engine(path)


def test_missing_package_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ModelError, match=r"pip install '\.\[openvino\]'"):
        choose_fastest_engine(EMBEDDED_MODEL_PATH)


def test_damaged_8_bit_model_is_named_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("EDSR_x3_int8.xml", "EDSR_x3_int8.bin", "SHA256SUMS"):
        content = EMBEDDED_MODEL_PATH.with_name(name).read_bytes()
        (tmp_path / name).write_bytes(content + b"\0" if name.endswith("bin") else content)
    quantised_path = tmp_path / "EDSR_x3_int8.xml"
    monkeypatch.setattr(openvino_engine, "find_quantised", lambda _model_path: quantised_path)
    with pytest.raises(ModelError, match="is damaged"):
        choose_fastest_engine(EMBEDDED_MODEL_PATH)


def test_engine_that_is_a_little_wrong_everywhere_is_found_out(exact: Network) -> None:
    def brighter(tile: Pixels) -> Pixels:
        return np.minimum(exact(tile), 252) + np.uint8(3)

    fault = find_fault(brighter, exact)
    assert fault is not None
    assert "golden tile is 3" in fault


def test_engine_that_is_very_wrong_somewhere_is_found_out(exact: Network) -> None:
    def spotted(tile: Pixels) -> Pixels:
        enlarged = exact(tile)
        enlarged[7, 7, 0] ^= 32
        return enlarged

    golden_input, expected = read_golden_tile()
    difference = largest_difference(spotted(golden_input), expected)
    assert difference > openvino_engine.LARGEST_DIFFERENCE
    assert cv2.PSNR(spotted(golden_input), expected) > openvino_engine.LEAST_PSNR
    fault = find_fault(spotted, exact)
    assert fault is not None
    assert f"{difference} levels" in fault


def test_engine_that_gains_nothing_is_found_out(exact: Network) -> None:
    def slower(tile: Pixels) -> Pixels:
        exact(tile)
        return exact(tile)

    fault = find_fault(slower, exact)
    assert fault is not None
    assert "times as fast" in fault


def test_engine_that_gains_something_has_no_fault(exact: Network) -> None:
    def slower(tile: Pixels) -> Pixels:
        for _ in range(3):
            exact(tile)
        return exact(tile)

    assert find_fault(exact, slower) is None


def test_tile_that_takes_less_than_a_tick_of_the_cpu_clock_is_no_fault(
    exact: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some sandboxes and systems count CPU time in ticks of 10 or 16 ms."""
    started = time.process_time()
    monkeypatch.setattr(time, "process_time", lambda: started)
    assert find_fault(exact, exact) is None


def test_restoring_model_is_in_the_engine_of_the_other_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is loaded at its first request, when lanes may be at work, and is not timed."""
    loader = find_models(Settings(engine="openvino", lanes=1, cache_dir=tmp_path))
    with monkeypatch.context() as unconditionally:
        unconditionally.setattr(openvino_engine, "find_fault", lambda *_arguments: None)
        loader.get("faithful")
    monkeypatch.setattr(openvino_engine, "LEAST_PSNR", 0)
    monkeypatch.setattr(openvino_engine, "LARGEST_DIFFERENCE", 255)
    monkeypatch.setattr(openvino_engine, "LEAST_SPEED_UP", 1000)
    assert loader.get("restore").profile.engine == "openvino"
    for model in loader.models.values():
        model.close()


@pytest.mark.parametrize("fails", [True, False])
def test_service_stays_with_opencv_where_the_engine_is_no_use(
    fails: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def find(*_arguments: object) -> str:
        if fails:
            raise RuntimeError("can't protect")
        return "it is only 1.2 times as fast as OpenCV"

    monkeypatch.setattr(openvino_engine, "find_fault", find)
    assert choose_fastest_engine(EMBEDDED_MODEL_PATH).profile is EMBEDDED_PROFILE
    assert "OpenVINO is not used on this machine: it" in caplog.text


def test_import_tells_nobody_and_leaves_nothing_in_the_home_folder(tmp_path: Path) -> None:
    code = (
        "import sys; from superres.engines.openvino_engine import *;"
        "load_quantised(EMBEDDED_MODEL_PATH);"
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
    names: dict[str, set[str]] = {}
    for engine in ("openvino", "opencv"):
        with run_service(tmp_path, engine=engine) as service:
            health = loopback.get(f"{service.url}/api/health").json()
            for mode in ("faithful", "restore"):
                form: dict[str, Any] = {"files": {"image": photo_jpeg}, "data": {"mode": mode}}
                answer = loopback.post(f"{service.url}/api/enhance", **form, timeout=60)
                assert answer.status_code == 200
                name = answer.links["canonical"]["url"].rpartition("/")[2]
                names.setdefault(health["engine"], set()).add(name)
            if health["engine"] == "cv2.dnn" and engine == "openvino":
                assert "OpenVINO is not used on this machine" in service.log
    assert len(set.union(*names.values())) == 2 * len(names)
    assert "cv2.dnn" in names
