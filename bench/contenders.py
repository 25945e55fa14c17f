"""One way to upscale an image x3, measured in its own process.

    python -m bench.contenders pillow|ours|stock|stock-tiled SIDE

Prints JSON: seconds of one call after a warm-up, and the process's peak memory in MB (10**6 bytes).
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from skimage import data

from super_resolution import SuperResolution
from superres.engines.opencv_engine import load_network
from superres.images.options import MODEL_SCALE
from superres.images.pixels import Pixels
from superres.paths import EMBEDDED_MODEL_PATH, PROJECT_DIR
from testkit.service import read_peak_memory_mb

STOCK_MODEL = PROJECT_DIR / "data" / "stock" / "EDSR_x3.pb"
WARM_UP_SIDE = 128

Enlarge = Callable[[Pixels], object]


def make_pixels(side: int) -> Pixels:
    """Return a square photograph, (side, side, 3) BGR."""
    photo = data.astronaut()[:, :, ::-1]
    repeats = -(-side // photo.shape[0])
    return np.ascontiguousarray(np.tile(photo, (repeats, repeats, 1))[:side, :side])


def enlarge_with_pillow(pixels: Pixels) -> object:
    """Upscale with bicubic interpolation."""
    height, width = pixels.shape[:2]
    size = (width * MODEL_SCALE, height * MODEL_SCALE)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def load_whole(model_path: Path) -> Enlarge:
    """Return a function that upscales a whole image with `DnnSuperResImpl.upsample` on all CPUs."""
    cv2.setNumThreads(len(os.sched_getaffinity(0)))
    return load_network(model_path)


CONTENDERS: dict[str, Callable[[], Enlarge]] = {
    "pillow": lambda: enlarge_with_pillow,
    "ours": lambda: load_whole(EMBEDDED_MODEL_PATH),
    "stock": lambda: load_whole(STOCK_MODEL),
    "stock-tiled": lambda: SuperResolution(STOCK_MODEL).upscale,
}


def main() -> None:
    """Command line."""
    name, side = sys.argv[1], int(sys.argv[2])
    enlarge = CONTENDERS[name]()
    enlarge(make_pixels(min(side, WARM_UP_SIDE)))
    pixels = make_pixels(side)
    started = time.perf_counter()
    enlarge(pixels)
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "peak_mb": read_peak_memory_mb("self")}))


if __name__ == "__main__":
    main()
