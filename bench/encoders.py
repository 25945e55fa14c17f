"""Time and size of encoding a result, by encoder, per input pixel.

    python -m bench.encoders

The results are real ones from the embedded model: two photographs and a drawn screenshot.
"""

import time
from collections.abc import Callable
from io import BytesIO
from unittest.mock import patch

import cv2
import numpy as np
from skimage import data

from bench.jobs import make_screenshot
from super_resolution import SuperResolution
from superres.images import png_strips
from superres.images.encoders import encode_picture, to_pil
from superres.images.options import Options
from superres.images.picture import Picture

REPEATS = 9


def save_with_pillow(picture: Picture, level: int) -> bytes:
    """Encode as PNG with Pillow."""
    buffer = BytesIO()
    to_pil(picture).save(buffer, "PNG", compress_level=level)
    return buffer.getvalue()


def save_on_one_cpu(picture: Picture) -> memoryview:
    """Encode as PNG as the service does, one strip at a time."""
    with patch.object(png_strips, "count_threads", lambda: 1):
        return encode_picture(picture, Options())


def save_with_opencv(picture: Picture, *parameters: int) -> bytes:
    """Encode as PNG with OpenCV."""
    return cv2.imencode(".png", picture.pixels, parameters)[1].tobytes()


LEVEL, FILTER, STRATEGY = (
    cv2.IMWRITE_PNG_COMPRESSION,
    cv2.IMWRITE_PNG_FILTER,
    cv2.IMWRITE_PNG_STRATEGY,
)
ENCODERS: dict[str, Callable[[Picture], bytes | memoryview]] = {
    "PNG, Pillow's default (level 6)": lambda picture: save_with_pillow(picture, 6),
    "PNG, Pillow, level 1": lambda picture: save_with_pillow(picture, 1),
    "PNG, OpenCV's default": save_with_opencv,
    "PNG, OpenCV, Paeth and RLE, level 1": lambda picture: save_with_opencv(
        *(picture, LEVEL, 1, FILTER, cv2.IMWRITE_PNG_FILTER_PAETH),
        *(STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE),
    ),
    "PNG, OpenCV, all filters, level 4": lambda picture: save_with_opencv(
        *(picture, LEVEL, 4, FILTER, cv2.IMWRITE_PNG_ALL_FILTERS),
        *(STRATEGY, cv2.IMWRITE_PNG_STRATEGY_FILTERED),
    ),
    "PNG, this service, one CPU": save_on_one_cpu,
    "PNG, this service": lambda picture: encode_picture(picture, Options()),
    "WebP 90": lambda picture: encode_picture(picture, Options("webp", 90)),
    "WebP lossless": lambda picture: encode_picture(picture, Options("webp")),
    "JPEG 92": lambda picture: encode_picture(picture, Options("jpeg", 92)),
    "AVIF 80": lambda picture: encode_picture(picture, Options("avif", 80)),
}


def main() -> None:
    """Print the table."""
    model = SuperResolution()
    sources = {
        "astronaut": data.astronaut(),
        "coffee": data.coffee(),
        "screenshot": np.asarray(make_screenshot()),
    }
    results = {
        name: model.enlarge(Picture(np.ascontiguousarray(pixels[:, :, ::-1])))
        for name, pixels in sources.items()
    }
    names = list(results)
    print(f"| microseconds a pixel; size | {' | '.join(names)} |")
    print("|---|" + "---|" * len(names))
    default_sizes: dict[str, int] = {}
    for encoder, encode in ENCODERS.items():
        cells = []
        for name, picture in results.items():
            seconds = []
            for _ in range(REPEATS):
                started = time.perf_counter()
                size = len(encode(picture))
                seconds.append(time.perf_counter() - started)
            per_pixel = min(seconds) * 1e6 / (picture.pixels.size / 27)
            share = size / default_sizes.setdefault(name, size)
            cells.append(f"{per_pixel:.2f}; {100 * share:.0f} %")
        print(f"| {encoder} | {' | '.join(cells)} |")
    model.close()


if __name__ == "__main__":
    main()
