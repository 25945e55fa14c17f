"""Peak memory of the service for one 4-megapixel upload, and for 32 of them at once.

    python -m bench.memory [--uploads 32] [--megapixels 4]

The pictures differ, so that each is computed; the waiting limits are lifted for the crowd.
"""

import argparse
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
from PIL import Image
from skimage import data

from tests.service import run_service


def make_photo(megapixels: float, number: int) -> bytes:
    """Return a JPEG of about that many megapixels, made of photographs; each number differs."""
    side = int((megapixels * 1e6) ** 0.5)
    tile = np.roll(data.astronaut(), number * 7, axis=1)
    repeats = -(-side // tile.shape[0])
    pixels = np.tile(tile, (repeats, repeats, 1))[:side, :side]
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def enhance(client: httpx.Client, photo: bytes) -> int:
    """Upload a photo; return the number of bytes of the result."""
    response = client.post(
        "/api/enhance", content=photo, headers={"Content-Type": "image/jpeg"}, timeout=7200
    )
    response.raise_for_status()
    return len(response.content)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--uploads", type=int, default=32)
    parser.add_argument("--megapixels", type=float, default=4)
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        run_service(Path(folder), max_sync_seconds=7200, max_queue_pixels=10**9) as service,
        httpx.Client(base_url=service.url) as client,
    ):
        print(f"idle: {service.peak_memory_mb:.0f} MB")
        started = time.perf_counter()
        size = enhance(client, make_photo(arguments.megapixels, 0))
        print(
            f"one upload: {service.peak_memory_mb:.0f} MB, "
            f"{time.perf_counter() - started:.1f} s, {size / 1e6:.1f} MB of PNG"
        )
        photos = [make_photo(arguments.megapixels, n + 1) for n in range(arguments.uploads)]
        started = time.perf_counter()
        with ThreadPoolExecutor(arguments.uploads) as clients:
            list(clients.map(lambda photo: enhance(client, photo), photos))
        print(
            f"{arguments.uploads} uploads at once: {service.peak_memory_mb:.0f} MB, "
            f"{time.perf_counter() - started:.1f} s"
        )


if __name__ == "__main__":
    main()
