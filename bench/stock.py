"""The service against what people glue together: OpenCV's stock EDSR_x3 by `upsample`.

    python -m bench.stock models/stock/EDSR_x3.pb

Alternates between a 192x192 picture through `DnnSuperResImpl.upsample` with OpenCV's own
threads, and a 512x512 photograph through the running service by HTTP (each time another one, so
that each is computed), and prints medians with their spread.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import httpx
import numpy as np
from skimage import data

from bench.memory import enhance, make_photo
from tests.service import run_service

STOCK_SIDE = 192
SERVICE_SIDE = 512


def measure_seconds(call: Callable[[], object]) -> float:
    """Return how long a call takes."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def show(name: str, seconds: list[float], side: int) -> float:
    """Print one line of the table; return microseconds per input pixel."""
    median = statistics.median(seconds)
    per_pixel = median / side**2 * 1e6
    print(
        f"{name:<42} {side}x{side}: {median:8.3f} s ({min(seconds):.3f}-{max(seconds):.3f})"
        f" {per_pixel:8.2f} us/pixel"
    )
    return per_pixel


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stock_model", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()

    stock = cv2.dnn_superres.DnnSuperResImpl.create()
    stock.readModel(str(arguments.stock_model))
    stock.setModel("edsr", 3)
    image = np.ascontiguousarray(data.astronaut()[:STOCK_SIDE, 150 : 150 + STOCK_SIDE, ::-1])
    stock.upsample(image)

    stock_seconds, cold_seconds, hit_seconds = [], [], []
    with (
        tempfile.TemporaryDirectory() as folder,
        run_service(Path(folder)) as service,
        httpx.Client(base_url=service.url) as client,
    ):
        for run in range(arguments.runs):
            stock_seconds.append(measure_seconds(lambda: stock.upsample(image)))
            send = partial(enhance, client, make_photo(SERVICE_SIDE**2 / 1e6, run))
            cold_seconds.append(measure_seconds(send))
            hit_seconds.append(measure_seconds(send))

    stock_rate = show("stock EDSR_x3, DnnSuperResImpl.upsample", stock_seconds, STOCK_SIDE)
    cold_rate = show("service by HTTP, not in the cache", cold_seconds, SERVICE_SIDE)
    show("service by HTTP, hit", hit_seconds, SERVICE_SIDE)
    print(f"the service is {stock_rate / cold_rate:.0f} times faster per pixel")


if __name__ == "__main__":
    main()
