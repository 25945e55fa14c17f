"""What the fair order and deduplicated tiles gain, on the real service.

    python -m bench.jobs

A 128x128 photograph on an idle service, then while a 4-megapixel one is computed; a screenshot with
flat areas against a photograph of the same size.
"""

import statistics
import tempfile
import threading
import time
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
from PIL import Image, ImageDraw
from skimage import data

from bench.memory import make_photo
from testkit.service import run_service

SMALL = 128
REPEATS = 9
SCREEN = (1280, 800)


def encode(image: Image.Image) -> bytes:
    """Return an image as a PNG file."""
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def make_small(number: int) -> bytes:
    """Return one of several different small photographs."""
    pixels = np.roll(data.astronaut(), number * 5, axis=0)
    return encode(Image.fromarray(pixels[:SMALL, 150 : 150 + SMALL]))


def make_screenshot() -> Image.Image:
    """Draw a window with a toolbar, a list and a text, like an office program's."""
    image = Image.new("RGB", SCREEN, (245, 246, 248))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, SCREEN[0], 36), fill=(40, 60, 110))
    draw.text((12, 12), "Report.txt - Editor", fill="white")
    draw.rectangle((0, 37, 220, SCREEN[1]), fill=(230, 233, 238))
    for row in range(18):
        draw.text((16, 60 + 26 * row), f"Chapter {row + 1}", fill=(30, 30, 30))
    for row in range(14):
        draw.text((250, 70 + 18 * row), "The quick brown fox jumps over the lazy dog. " * 2, fill=0)
    return image


def enhance(url: str, content: bytes) -> float:
    """Upload an image and return how long the response took, in seconds."""
    started = time.perf_counter()
    headers = {"Content-Type": "application/octet-stream"}
    httpx.post(f"{url}/api/enhance", content=content, headers=headers, timeout=600)
    return time.perf_counter() - started


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as folder, run_service(Path(folder)) as service:
        enhance(service.url, make_small(99))
        idle = [enhance(service.url, make_small(number)) for number in range(REPEATS)]
        large = threading.Thread(target=enhance, args=[service.url, make_photo(4, 1)])
        started = time.perf_counter()
        large.start()
        while not httpx.get(f"{service.url}/api/stats").json()["queue_pixels"]:
            time.sleep(0.05)
        time.sleep(1)
        beside = [enhance(service.url, make_small(100 + number)) for number in range(REPEATS)]
        assert large.is_alive()
        large.join()
        took = time.perf_counter() - started
        print(f"{SMALL}x{SMALL} on an idle service: {describe(idle)}")
        print(f"{SMALL}x{SMALL} while 4 megapixels are computed: {describe(beside)}")
        print(f"ratio of the medians: {statistics.median(beside) / statistics.median(idle):.1f}")
        print(f"the 4 megapixels at the same time: {took:.1f} s")

        photo = Image.fromarray(data.astronaut()).resize(SCREEN)
        seconds = {
            "photograph": enhance(service.url, encode(photo)),
            "screenshot": enhance(service.url, encode(make_screenshot())),
        }
        for name, value in seconds.items():
            print(f"{name} of {SCREEN[0]}x{SCREEN[1]}: {value:.2f} s")


def describe(seconds: list[float]) -> str:
    """Return median and extremes in milliseconds."""
    values = [1000 * value for value in seconds]
    return f"{statistics.median(values):.0f} ms ({min(values):.0f}-{max(values):.0f})"


if __name__ == "__main__":
    main()
