"""A fake model that costs nothing, and small real ones."""

import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from superres.engines.engine import Network
from superres.images.options import MODEL_SCALE
from superres.images.pixels import Pixels
from training.export import build_graph
from training.network import Floats, Weights, layer_shapes


class FakeModel:
    """Stands in for a model: upscales by repeating pixels; can be told to wait or to fail."""

    def __init__(self) -> None:
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.started = threading.Event()
        self.error: Exception | None = None
        self.tiles = 0

    def load(self, _model_path: Path) -> Network:
        return self.upsample

    def upsample(self, image: Pixels) -> Pixels:
        self.started.set()
        assert self.may_go_on.wait(30)
        if self.error is not None:
            raise self.error
        self.tiles += 1
        return repeat_pixels(image)


class FakeBatch:
    """A batch of `FakeDevice`."""

    def __init__(self, device: "FakeDevice", tiles: Sequence[Pixels]) -> None:
        self._device = device
        self._tiles = tiles

    def is_done(self) -> bool:
        return self._device.may_go_on.is_set()

    def collect(self) -> list[Pixels]:
        assert self._device.may_go_on.wait(30)
        if len(self._device.batches) > self._device.good_batches:
            raise RuntimeError("CUDA error: secret")
        return [255 - repeat_pixels(tile) for tile in self._tiles]


class FakeDevice:
    """Stands in for a model on a GPU: negatives of repeated pixels; can wait, or fail.

    Attributes
    ----------
    batches : numbers of tiles of all batches
    good_batches : after these, all fail
    """

    def __init__(self, batch_size: int = 4) -> None:
        self.batch_size = batch_size
        self.batches: list[int] = []
        self.good_batches = sys.maxsize
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def start(self, tiles: Sequence[Pixels]) -> FakeBatch:
        self.batches.append(len(tiles))
        return FakeBatch(self, tiles)


def repeat_pixels(image: Pixels) -> Pixels:
    return image.repeat(MODEL_SCALE, axis=0).repeat(MODEL_SCALE, axis=1)


def write_small_model(folder: Path) -> Path:
    """Write an EDSR of one block that repeats each pixel 3x3, for what does not depend on pixels.

    A service starts with it, and computes, in a fraction of the embedded model's time.
    """
    weights: dict[str, Floats] = {}
    for name, shape in layer_shapes(blocks=1, channels=8).items():
        weights[f"{name}_weight"] = np.zeros((*shape, 3, 3), np.float32)
        weights[f"{name}_bias"] = np.zeros(shape[0], np.float32)
    path = folder / "small.pb"
    path.write_bytes(build_graph(weights).SerializeToString(deterministic=True))
    return path


def draw_weights(shapes: dict[str, tuple[int, int]]) -> Weights:
    """Draw weights small enough that a network's output stays within an image's range."""
    random = np.random.default_rng(1)
    weights = {}
    for name, (outputs, inputs) in shapes.items():
        deviation = 0.5 / np.sqrt(9 * inputs)
        weights[f"{name}_weight"] = random.normal(0, deviation, (outputs, inputs, 3, 3))
        weights[f"{name}_bias"] = random.normal(0, 0.1, outputs)
    return {name: array.astype(np.float32) for name, array in weights.items()}
