import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from super_resolution import SuperResolution
from superres.engines.engine import Engine, Network
from superres.engines.lanes import Progress
from superres.engines.opencv_engine import EMBEDDED_PROFILE, OTHER_PROFILE, load_network
from superres.engines.speed_meter import SpeedMeter
from superres.engines.upscaler import Upscaler
from superres.errors import ModelError
from superres.images.picture import Picture
from superres.images.pixels import Pixels
from superres.paths import EMBEDDED_MODEL_PATH
from testkit.fakes import FakeModel, draw_weights
from testkit.pictures import encode, largest_difference
from training.export import build_graph
from training.network import layer_shapes


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 500), (500, 1), (7, 7), (129, 65), (145, 300), (289, 431)]
)
def test_tiled_result_is_the_untiled_one_within_one_level(
    real_super_resolution: SuperResolution, photo: Pixels, size: tuple[int, int]
) -> None:
    height, width = size
    image = np.ascontiguousarray(photo[:height, 80 : 80 + width])
    whole = load_network(EMBEDDED_MODEL_PATH)(image)
    assert largest_difference(real_super_resolution.upscale(image), whole) <= 1


def test_tiles_meet_within_one_level_on_binary_noise(
    real_super_resolution: SuperResolution,
) -> None:
    noise = np.random.default_rng(1).integers(0, 2, (200, 200, 1)).astype(np.uint8)
    image = np.ascontiguousarray((noise * 255).repeat(3, axis=2))
    whole = load_network(EMBEDDED_MODEL_PATH)(image)
    assert largest_difference(real_super_resolution.upscale(image), whole) <= 1


def test_pictures_of_several_threads_come_out_as_alone(
    real_super_resolution: SuperResolution, photo: Pixels
) -> None:
    crops = [np.ascontiguousarray(photo[y : y + 150, y : y + 110]) for y in range(0, 160, 20)]
    alone = [real_super_resolution.upscale(crop) for crop in crops]
    with ThreadPoolExecutor(len(crops)) as pool:
        together = list(pool.map(real_super_resolution.upscale, crops))
    for first, second in zip(alone, together, strict=True):
        np.testing.assert_array_equal(first, second)


def test_embedded_model_computes_its_golden_tile(real_super_resolution: SuperResolution) -> None:
    assert real_super_resolution.profile is EMBEDDED_PROFILE
    assert real_super_resolution.matches_golden_tile()


def test_model_that_computes_wrongly_misses_its_golden_tile(photo: Pixels) -> None:
    def load(model_path: Path) -> Network:
        network = load_network(model_path)
        return lambda image: np.where(network(image) > 250, 240, network(image)).astype(np.uint8)

    model = Upscaler(EMBEDDED_MODEL_PATH, Engine(load, EMBEDDED_PROFILE), lanes=1)
    assert not model.matches_golden_tile()
    model.close()


def test_enhance_returns_a_pillow_image_three_times_larger(
    real_super_resolution: SuperResolution, photo_jpeg: bytes
) -> None:
    image = real_super_resolution.enhance(photo_jpeg)
    assert (image.mode, image.size) == ("RGB", (192, 144))


def test_transparency_is_enlarged_with_the_picture(
    fake_super_resolution: Upscaler,
) -> None:
    alpha = np.zeros((10, 12), np.uint8)
    alpha[:, 6:] = 255
    picture = Picture(np.full((10, 12, 3), 90, np.uint8), alpha)
    enlarged = fake_super_resolution.enlarge(picture)
    assert enlarged.alpha is not None
    assert enlarged.alpha.shape == (30, 36)
    assert (enlarged.alpha[:, :12] == 0).all()
    assert (enlarged.alpha[:, 24:] == 255).all()


def test_lane_is_never_shared_between_threads(tmp_path: Path) -> None:
    class Exclusive:
        def __init__(self) -> None:
            self.lock = threading.Lock()

        def __call__(self, image: Pixels) -> Pixels:
            assert self.lock.acquire(blocking=False), "two threads in one network"
            enlarged = image.repeat(3, axis=0).repeat(3, axis=1)
            self.lock.release()
            return enlarged

    path = tmp_path / "model.pb"
    path.write_bytes(b"x")
    model = Upscaler(path, Engine(lambda _path: Exclusive(), OTHER_PROFILE), lanes=3)
    images = [np.full((300, 300, 3), value, np.uint8) for value in range(8)]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(model.upscale, images))
    assert [int(result[0, 0, 0]) for result in results] == list(range(8))
    model.close()


def test_failing_tile_fails_the_picture_and_not_the_lanes(
    fake_super_resolution: Upscaler, fake_model: FakeModel
) -> None:
    image = np.zeros((300, 300, 3), np.uint8)
    fake_model.error = cv2.error("out of memory")
    with pytest.raises(cv2.error):
        fake_super_resolution.upscale(image)
    fake_model.error = None
    assert fake_super_resolution.upscale(image).shape == (900, 900, 3)


def test_speed_is_positive_from_the_start(fake_super_resolution: Upscaler) -> None:
    assert min(fake_super_resolution.speed.now, fake_super_resolution.speed.alone) > 0


def test_tiny_pictures_do_not_make_the_model_look_slow(
    fake_super_resolution: Upscaler,
) -> None:
    before = fake_super_resolution.speed
    for _ in range(50):
        fake_super_resolution.upscale(np.zeros((1, 1, 3), np.uint8))
    assert fake_super_resolution.speed == before
    fake_super_resolution.upscale(np.zeros((300, 300, 3), np.uint8))
    assert fake_super_resolution.speed != before


def test_speed_follows_the_load() -> None:
    now = 0.0
    meter = SpeedMeter(memory_seconds=20, clock=lambda: now)

    def compute(seconds: float, tile_seconds: float) -> None:
        nonlocal now
        for _ in range(round(seconds / tile_seconds)):
            now += tile_seconds
            meter.record(tile_seconds, 1000)

    compute(100, 0.1)
    assert meter.seconds_per_pixel == pytest.approx(1e-4)
    compute(2, 0.2)  # an encoder beside it
    assert 1e-4 < meter.seconds_per_pixel < 1.15e-4
    compute(40, 0.2)
    assert 1.7e-4 < meter.seconds_per_pixel < 2e-4
    now += 120  # nothing to compute
    compute(2, 0.1)
    assert 1e-4 < meter.seconds_per_pixel < 1.15e-4


def test_time_spent_waiting_for_a_cpu_counts_now_and_not_alone(tmp_path: Path) -> None:
    path = tmp_path / "model.pb"
    path.write_bytes(b"x")

    def wait(image: Pixels) -> Pixels:
        time.sleep(0.1)
        return image.repeat(3, axis=0).repeat(3, axis=1)

    model = Upscaler(path, Engine(lambda _path: wait, OTHER_PROFILE), lanes=1)
    model.upscale(np.zeros((300, 300, 3), np.uint8))
    assert model.speed.now > 10 * model.speed.alone
    model.close()


def test_fingerprint_changes_with_the_model(
    fake_super_resolution: Upscaler, real_super_resolution: SuperResolution
) -> None:
    assert fake_super_resolution.fingerprint != real_super_resolution.fingerprint


@pytest.mark.parametrize(
    ("cpus", "memory_bytes", "lanes"), [(4, 64 * 1024**3, 4), (4, 400 * 1024**2, 2), (1, 0, 1)]
)
def test_lanes_are_as_many_as_cpus_and_memory_allow(
    monkeypatch: pytest.MonkeyPatch, cpus: int, memory_bytes: int, lanes: int
) -> None:
    monkeypatch.setattr("superres.machine.count_cpus", lambda: cpus)
    monkeypatch.setattr("superres.machine.available_memory_bytes", lambda: memory_bytes)
    model = Upscaler(EMBEDDED_MODEL_PATH, Engine(FakeModel().load, EMBEDDED_PROFILE))
    assert model.lanes == lanes
    model.close()


# --- invalid model files


def test_missing_model_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot read the model .*absent\.pb: No such file"):
        SuperResolution(tmp_path / "absent.pb")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<!DOCTYPE html><html>404</html>",
        EMBEDDED_MODEL_PATH.read_bytes()[:100_000],
        EMBEDDED_MODEL_PATH.read_bytes()[:-1000],
        encode(Image.new("L", (9, 9)), "PNG"),
    ],
    ids=["empty", "web page", "head only", "truncated", "picture"],
)
def test_file_that_is_no_model_is_a_model_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.pb"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="not an EDSR x3 model that OpenCV can run"):
        SuperResolution(path)


def test_model_of_another_scale_is_a_model_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "EDSR_x2.pb"
    with monkeypatch.context() as patch:
        for module in ("training.network", "training.export"):
            patch.setattr(f"{module}.SCALE", 2)
        weights = draw_weights(layer_shapes(blocks=1, channels=8))
        path.write_bytes(build_graph(weights).SerializeToString())
    with pytest.raises(ModelError, match="not an EDSR x3 model"):
        SuperResolution(path)


def test_damaged_copy_of_the_embedded_model_is_named_as_such(tmp_path: Path) -> None:
    shutil.copy(EMBEDDED_MODEL_PATH.with_name("SHA256SUMS"), tmp_path)
    (tmp_path / "EDSR_x3.pb").write_bytes(EMBEDDED_MODEL_PATH.read_bytes()[:-1] + b"\0")
    with pytest.raises(ModelError, match="is damaged"):
        SuperResolution(tmp_path / "EDSR_x3.pb")


def test_equal_tiles_are_computed_once_and_exact(
    fake_super_resolution: Upscaler, fake_model: FakeModel
) -> None:
    image = np.zeros((900, 900, 3), np.uint8)
    image[:200, :200] = np.random.default_rng(1).integers(0, 256, (200, 200, 3), np.uint8)
    fake_model.tiles = 0
    progress = Progress()
    (enlarged,) = fake_super_resolution.upscale_all([image], progress)
    assert np.array_equal(enlarged, image.repeat(3, axis=0).repeat(3, axis=1))
    assert progress.tiles_done == progress.tiles_total > 100
    assert fake_model.tiles < 12
