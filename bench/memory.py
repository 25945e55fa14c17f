"""Peak memory of the service for one 4-megapixel upload in each format, and for 32 concurrent ones.

    python -m bench.memory [--uploads 32] [--megapixels 4]

The sum for the worker, the helper and the sandboxed processes; shared memory counts once. The
images differ, so that each is computed; limits on waiting are lifted for the concurrent uploads.
"""

import argparse
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
from PIL import Image
from skimage import data

from superres.images.formats import FORMATS
from testkit.service import Service, run_service

SAMPLE_SECONDS = 0.05


def make_photo(megapixels: float, number: int) -> bytes:
    """Return a JPEG of about so many megapixels, made of photographs; each number differs."""
    side = int((megapixels * 1e6) ** 0.5)
    tile = np.roll(data.astronaut(), number * 7, axis=1)
    repeats = -(-side // tile.shape[0])
    pixels = np.tile(tile, (repeats, repeats, 1))[:side, :side]
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def read_memory_bytes(process: int) -> int:
    """Return the memory of a process and its descendants, with a share of shared pages."""
    folder = Path(f"/proc/{process}")
    try:
        rollup = (folder / "smaps_rollup").read_text().splitlines()
        children = (folder / "task").glob("*/children")
        below = [int(child) for path in children for child in path.read_text().split()]
    except OSError:
        return 0  # it has ended
    own = next((int(line.split()[1]) for line in rollup if line.startswith("Pss:")), 0)
    return own * 1024 + sum(read_memory_bytes(child) for child in below)


class MemoryWatch:
    """Samples a service's memory many times per second, and records the peak."""

    def __init__(self, service: Service) -> None:
        self._process = service.worker_pid
        self._peak_bytes = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stopped.wait(SAMPLE_SECONDS):
            self._peak_bytes = max(self._peak_bytes, read_memory_bytes(self._process))

    def take_peak_mb(self) -> float:
        """Return the peak since the last call, in MB (10**6 bytes)."""
        self._stopped.wait(3 * SAMPLE_SECONDS)
        peak, self._peak_bytes = self._peak_bytes, 0
        return peak / 1e6

    def close(self) -> None:
        """Stop sampling."""
        self._stopped.set()
        self._thread.join()


def enhance(client: httpx.Client, photo: bytes, image_format: str = "png") -> int:
    """Upload a photo; return the number of bytes of the result."""
    response = client.post(
        "/api/enhance",
        content=photo,
        params={"format": image_format},
        headers={"Content-Type": "image/jpeg"},
        timeout=7200,
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
        closing(MemoryWatch(service)) as watch,
    ):
        print(f"idle: {watch.take_peak_mb():.0f} MB")
        for number, image_format in enumerate(FORMATS):
            started = time.perf_counter()
            size = enhance(client, make_photo(arguments.megapixels, number), image_format)
            seconds = time.perf_counter() - started
            print(
                f"one upload to {image_format}: {watch.take_peak_mb():.0f} MB, "
                f"{seconds:.1f} s, {size / 1e6:.1f} MB",
                flush=True,
            )
        if arguments.uploads:
            photos = [make_photo(arguments.megapixels, n + 9) for n in range(arguments.uploads)]
            started = time.perf_counter()
            with ThreadPoolExecutor(arguments.uploads) as clients:
                list(clients.map(lambda photo: enhance(client, photo), photos))
            seconds = time.perf_counter() - started
            peak_mb = watch.take_peak_mb()
            print(f"{arguments.uploads} uploads at once: {peak_mb:.0f} MB, {seconds:.1f} s")


if __name__ == "__main__":
    main()
