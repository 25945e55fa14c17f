"""SR_ENGINE=torch on a machine with a GPU: speed by shape of batch and by HTTP, and exactness.

    python -m bench.gpu [--json gpu.json]

Some minutes, without a network; needs the extra gpu and the group training. First the input pixels
a second for tiles and batches of several sizes, copies included, then for a whole picture and by
HTTP, and the largest difference from OpenCV. Small, to try it on a CPU:

    python -m bench.gpu --device cpu --tiles 32,64 --batches 1,2 --seconds 0.2 --megapixels 0.02
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import httpx
import numpy as np
from PIL import Image

from bench.machine_facts import describe_machine
from superres.engines.opencv_engine import EMBEDDED_PROFILE, make_opencv_engine
from superres.engines.torch_engine import (
    SHAPES,
    BatchShape,
    TorchModel,
    choose_torch_engine,
    describe_device,
    import_torch,
)
from superres.engines.torch_network import read_convolutions
from superres.engines.upscaler import Upscaler
from superres.images.pixels import Pixels
from superres.paths import EMBEDDED_MODEL_PATH
from testkit.service import run_service

FORMATS = ("png", "webp", "jpeg")
# By HTTP, at once: enough that encoders keep 16 CPUs busy.
UPLOADS = 16
# Compared with OpenCV, which takes six seconds a megapixel.
COMPARED_SIDE = 512


def draw_picture(height: int, width: int, seed: int) -> Pixels:
    """Draw smooth shapes with grain, of which no two tiles are the same: (H, W, 3) uint8."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    grain = random.integers(0, 16, (height, width, 3), np.uint8)
    return np.asarray(cv2.add(smooth, grain), np.uint8)


def measure_batches(
    torch: ModuleType, device: str, shape: BatchShape, seconds: float
) -> dict[str, float] | None:
    """Measure batches of one shape, one computed while the other is collected.

    Returns
    -------
    Computed and kept input pixels a second, and megabytes of the GPU's memory; None if it is short
    of memory.
    """
    tiles = [draw_picture(shape.tile, shape.tile, seed) for seed in range(shape.size)]
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        model = TorchModel(torch, read_convolutions(EMBEDDED_MODEL_PATH), device, shape)
        model.start(tiles).collect()  # warms up
        started, batches = time.perf_counter(), 1
        running = model.start(tiles)
        while time.perf_counter() - started < seconds:
            following = model.start(tiles)
            running.collect()
            running, batches = following, batches + 1
        running.collect()
        rate = batches * shape.size / (time.perf_counter() - started)
    except torch.OutOfMemoryError:
        return None
    memory = torch.cuda.max_memory_reserved() / 1e6 if device == "cuda" else 0.0
    return {
        "computed": rate * shape.tile**2,
        "kept": rate * (shape.tile - 2 * EMBEDDED_PROFILE.halo) ** 2,
        "device_mb": memory,
    }


def measure_picture(model: Upscaler, megapixels: float) -> float:
    """Return the input pixels a second of one picture, cut and joined as the service does."""
    side = int((megapixels * 1e6) ** 0.5)
    pixels = draw_picture(side, side, 0)
    started = time.perf_counter()
    model.upscale(pixels)
    return side**2 / (time.perf_counter() - started)


def measure_http(folder: Path, device: str, megapixels: float) -> dict[str, float]:
    """Return the input pixels a second of concurrent uploads, by format of the results."""
    side = int((megapixels * 1e6) ** 0.5)
    speeds = {}
    with (
        run_service(folder, engine="torch", device=device) as service,
        ThreadPoolExecutor(UPLOADS) as pool,
    ):
        for index, name in enumerate(FORMATS):
            uploads = []
            for number in range(UPLOADS):
                buffer = BytesIO()
                picture = draw_picture(side, side, 1000 * index + number)
                Image.fromarray(picture).save(buffer, "JPEG", quality=90)
                uploads.append(buffer.getvalue())

            def enhance(upload: bytes, name: str = name) -> None:
                form: dict[str, Any] = {"files": {"image": upload}, "data": {"format": name}}
                url = f"{service.url}/api/enhance"
                httpx.post(url, **form, timeout=300).raise_for_status()

            started = time.perf_counter()
            list(pool.map(enhance, uploads))
            speeds[name] = UPLOADS * side**2 / (time.perf_counter() - started)
        assert httpx.get(f"{service.url}/api/health").json()["engine"] == "torch", service.log
    return speeds


def compare(model: Upscaler, exact: Upscaler) -> dict[str, int]:
    """Return the largest difference from OpenCV, in levels."""
    random = np.random.default_rng(0)
    side = COMPARED_SIDE
    pictures = {
        "shapes": draw_picture(side, side, 1),
        "noise": random.integers(0, 256, (side // 2, side // 2, 3), np.uint8),
        "black and white": random.integers(0, 2, (side // 2, side // 2, 3), np.uint8) * 255,
    }
    return {
        name: int(np.abs(model.upscale(each).astype(np.int16) - exact.upscale(each)).max())
        for name, each in pictures.items()
    }


def is_same_in_a_crowd(model: Upscaler) -> bool:
    """Tell whether pictures come out with the same bytes alone and together."""
    pictures = [draw_picture(100 + 60 * index, 300, index) for index in range(8)]
    alone = [model.upscale(each) for each in pictures]
    with ThreadPoolExecutor(len(pictures)) as pool:
        together = list(pool.map(model.upscale, pictures))
    return all(np.array_equal(one, other) for one, other in zip(alone, together, strict=True))


def measure_all(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure everything, printing it as it comes."""
    torch, device = import_torch(), arguments.device
    facts = describe_machine() | {"device": describe_device(torch, device)}
    print(json.dumps(facts), flush=True)
    batches = []
    print("tile batch computed MP/s kept MP/s device MB", flush=True)
    for tile in arguments.tiles:
        for size in arguments.batches:
            measured = measure_batches(torch, device, BatchShape(size, tile), arguments.seconds)
            batches.append({"tile": tile, "batch": size} | (measured or {}))
            figures = "too little memory"
            if measured:
                computed, kept = measured["computed"] / 1e6, measured["kept"] / 1e6
                figures = f"{computed:13.2f} {kept:9.2f} {measured['device_mb']:9.0f}"
            print(f"{tile:4} {size:5} {figures}", flush=True)
    engine = choose_torch_engine(EMBEDDED_MODEL_PATH, device)
    assert engine.fallback_reason is None, engine.fallback_reason
    model = Upscaler(EMBEDDED_MODEL_PATH, engine)
    exact = Upscaler(EMBEDDED_MODEL_PATH, make_opencv_engine(EMBEDDED_MODEL_PATH))
    levels, same = compare(model, exact), is_same_in_a_crowd(model)
    print(f"{SHAPES[device]}: levels from OpenCV {levels}; the same in a crowd: {same}", flush=True)
    picture = measure_picture(model, 4 * arguments.megapixels)
    print(f"one picture: {picture / 1e6:.2f} MP/s", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        http = measure_http(Path(folder), device, arguments.megapixels)
    print(*(f"HTTP, {name}: {speed / 1e6:.2f} MP/s" for name, speed in http.items()), sep="\n")
    return {
        "machine": facts,
        "batches": batches,
        "levels_from_opencv": levels,
        "same_in_a_crowd": same,
        "picture": picture,
        "http": http,
    }


def read_numbers(text: str) -> Sequence[int]:
    """Read whole numbers separated by commas."""
    return [int(number) for number in text.split(",")]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", choices=[*SHAPES], default="cuda")
    parser.add_argument("--tiles", type=read_numbers, default=[128, 192, 256, 384, 512])
    parser.add_argument("--batches", type=read_numbers, default=[1, 4, 8, 16, 32, 64])
    parser.add_argument("--seconds", type=float, default=1.0, help="for each shape of batch")
    parser.add_argument("--megapixels", type=float, default=2.0, help="of each upload")
    parser.add_argument("--json", type=Path, help="where to write all figures, in pixels a second")
    arguments = parser.parse_args()
    figures = measure_all(arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
