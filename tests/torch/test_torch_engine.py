"""The GPU's engine, on the CPU: as exact as OpenCV, and the same alone and in a crowd."""

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from app import find_models
from superres.engines import torch_engine
from superres.engines.engine import Engine
from superres.engines.model_files import read_golden_tile
from superres.engines.opencv_engine import load_network
from superres.engines.torch_engine import (
    LARGEST_DIFFERENCE,
    SHAPES,
    TorchModel,
    choose_torch_engine,
)
from superres.engines.torch_network import TorchNetwork, read_convolutions
from superres.engines.upscaler import Upscaler
from superres.images.options import FAITHFUL, RESTORE
from superres.images.pixels import Pixels
from superres.paths import EMBEDDED_MODEL_PATH, RESTORE_MODEL_PATH
from superres.settings import Settings
from testkit.fakes import draw_weights
from testkit.service import run_service
from training.export import build_graph
from training.network import layer_shapes

MODELS = {
    EMBEDDED_MODEL_PATH: "golden_output.png",
    RESTORE_MODEL_PATH: "golden_output_restore.png",
}
SHAPE = SHAPES["cpu"]


def make_engine(path: Path = EMBEDDED_MODEL_PATH) -> Engine:
    engine = choose_torch_engine(path, "cpu")
    assert engine.fallback_reason is None
    return engine


def count_batchers() -> int:
    return sum(thread.name == "batcher" for thread in threading.enumerate())


@pytest.fixture
def engine() -> Engine:
    return make_engine()


@pytest.fixture
def model(engine: Engine) -> Iterator[Upscaler]:
    made = Upscaler(EMBEDDED_MODEL_PATH, engine)
    yield made
    made.close()


def assert_close(expected: Pixels, computed: Pixels, levels: int) -> None:
    np.testing.assert_allclose(computed.astype(int), expected, rtol=0, atol=levels)


def photo(height: int, width: int) -> Pixels:
    return np.ascontiguousarray(data.astronaut()[:height, :width, ::-1])


def noise(height: int, width: int, seed: int) -> Pixels:
    random = np.random.default_rng(seed)
    return random.integers(0, 2, (height, width, 3), np.uint8) * 255


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
@pytest.mark.parametrize("pixels", [photo(150, 170), noise(90, 130, 1)], ids=["photo", "noise"])
def test_pictures_come_out_as_from_opencv(path: Path, pixels: Pixels) -> None:
    model = Upscaler(path, make_engine(path))
    assert model.matches_golden_tile()
    computed = model.upscale(pixels)
    model.close()
    assert_close(load_network(path)(pixels), computed, 2)


@pytest.mark.parametrize("size", [(1, 1), (1, 64), (64, 1), (5, 7), (63, 64), (64, 64)])
def test_edges_come_out_as_from_opencv(size: tuple[int, int], engine: Engine) -> None:
    network = engine.load(EMBEDDED_MODEL_PATH)
    network(
        noise(SHAPE.tile, SHAPE.tile, 2)
    )  # which stays in the batch's memory, beyond the next tile
    network(noise(SHAPE.tile, SHAPE.tile, 3))
    tile = photo(*size)
    assert_close(load_network(EMBEDDED_MODEL_PATH)(tile), network(tile), 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_golden_tile_comes_out_in_both_precisions(path: Path, dtype: torch.dtype) -> None:
    network = TorchNetwork(torch, read_convolutions(path), "cpu", dtype)
    golden_input, expected = read_golden_tile(MODELS[path])
    with torch.inference_mode():
        pixels = torch.from_numpy(golden_input).unsqueeze(0)
        computed = network(pixels, torch.tensor([pixels.shape[1:3]]))[0].numpy()
    assert_close(expected, computed, LARGEST_DIFFERENCE)


def test_tile_has_the_same_bytes_in_every_place_of_every_batch() -> None:
    model = TorchModel(torch, read_convolutions(EMBEDDED_MODEL_PATH), "cpu", SHAPE)
    tile = photo(50, 60)
    (alone,) = model.start([tile]).collect()
    for place in range(SHAPE.size):
        crowd = [noise(SHAPE.tile - index, SHAPE.tile, index) for index in range(SHAPE.size)]
        crowd[place] = tile
        np.testing.assert_array_equal(model.start(crowd).collect()[place], alone)


def test_batch_is_computed_while_another_is_collected() -> None:
    model = TorchModel(torch, read_convolutions(EMBEDDED_MODEL_PATH), "cpu", SHAPE)
    first, second = model.start([photo(50, 60)]), model.start([noise(64, 64, 1)])
    (result,) = first.collect()
    assert second.is_done()
    np.testing.assert_array_equal(result, model.start([photo(50, 60)]).collect()[0])


def test_picture_has_the_same_bytes_alone_and_in_a_crowd(model: Upscaler) -> None:
    pictures = [photo(130, 90), *(noise(40 + 30 * index, 100, index) for index in range(5))]
    alone = [model.upscale(each) for each in pictures]
    with ThreadPoolExecutor(len(pictures)) as pool:
        together = list(pool.map(model.upscale, pictures))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


def test_weights_are_those_that_were_exported(tmp_path: Path) -> None:
    weights = draw_weights(layer_shapes(blocks=2, channels=8))
    path = tmp_path / "small.pb"
    path.write_bytes(build_graph(weights).SerializeToString(deterministic=True))
    tile = photo(30, 40)
    network = make_engine(path).load(path)
    assert_close(load_network(path)(tile), network(tile), 1)


def test_engine_that_computes_something_else_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def read_wrongly(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        layers = read_convolutions(path)
        weight, bias = layers["upsample"]
        return layers | {"upsample": (weight * 1.5, bias)}

    monkeypatch.setattr(torch_engine, "read_convolutions", read_wrongly)
    before = count_batchers()
    engine = choose_torch_engine(EMBEDDED_MODEL_PATH, "cpu")
    assert engine.profile.engine == "cv2.dnn"
    assert "levels from OpenCV's" in str(engine.fallback_reason)
    assert "PyTorch is not used on this machine" in caplog.text
    assert count_batchers() == before  # the device's memory is given back


def test_machine_without_a_gpu_computes_with_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    engine = choose_torch_engine(EMBEDDED_MODEL_PATH, "cuda")
    assert engine.profile.engine == "cv2.dnn"
    assert engine.fallback_reason == "torch is not used: PyTorch finds no GPU"


def test_both_modes_use_the_engine_and_share_its_lanes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    loader = find_models(Settings(engine="torch", device="cpu"))
    faithful, restoring = loader.get(FAITHFUL), loader.get(RESTORE)
    assert {model.profile.engine for model in (faithful, restoring)} == {"torch"}
    assert faithful._lanes is restoring._lanes
    assert faithful.lanes == SHAPE.lanes
    assert faithful.fingerprint != restoring.fingerprint
    assert torch.__version__ in faithful.fingerprint
    assert "misses its golden tile" not in caplog.text
    faithful.close()


def test_service_computes_with_the_engine(tmp_path: Path) -> None:
    pixels = photo(60, 80)
    file = BytesIO()
    Image.fromarray(pixels[:, :, ::-1]).save(file, "PNG")
    with run_service(tmp_path, engine="torch", device="cpu") as service:
        health = httpx.get(f"{service.url}/api/health").json()
        answer = httpx.post(
            f"{service.url}/api/enhance", files={"image": file.getvalue()}, timeout=60
        )
    assert (health["engine"], health["engine_fallback"]) == ("torch", None)
    result = np.asarray(Image.open(BytesIO(answer.content)))[:, :, ::-1]
    assert_close(load_network(EMBEDDED_MODEL_PATH)(pixels), result, 1)
