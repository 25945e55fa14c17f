"""A fake model that costs nothing, and weights for small real ones."""

import threading
from pathlib import Path

import numpy as np

from superres.engines.lanes import Network
from superres.images.options import MODEL_SCALE
from superres.images.pixels import Pixels
from training.network import Weights


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
        return image.repeat(MODEL_SCALE, axis=0).repeat(MODEL_SCALE, axis=1)


def draw_weights(shapes: dict[str, tuple[int, int]]) -> Weights:
    """Draw weights small enough that a network's output stays within an image's range."""
    random = np.random.default_rng(1)
    weights = {}
    for name, (outputs, inputs) in shapes.items():
        deviation = 0.5 / np.sqrt(9 * inputs)
        weights[f"{name}_weight"] = random.normal(0, deviation, (outputs, inputs, 3, 3))
        weights[f"{name}_bias"] = random.normal(0, 0.1, outputs)
    return {name: array.astype(np.float32) for name, array in weights.items()}
