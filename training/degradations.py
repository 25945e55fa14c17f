"""How training and validation inputs are made from full-size images.

Nearly all uploads are JPEG files that have already been reduced, with one filter or another. The
network is trained on that mixture and measured on each part of it.
"""

from collections.abc import Callable
from io import BytesIO

import numpy as np
from PIL import Image, ImageFilter

from training.network import SCALE

Degradation = Callable[[Image.Image], Image.Image]

# Chroma subsampling in JPEG files: 4:4:4, 4:2:2, 4:2:0 (Pillow's numbers).
JPEG_SUBSAMPLINGS = (0, 1, 2)
JPEG_SHARE, JPEG_QUALITIES = 0.4, (60, 101)
BICUBIC, AREA, LANCZOS = (
    Image.Resampling.BICUBIC,
    Image.Resampling.BOX,
    Image.Resampling.LANCZOS,
)
FILTERS = {"bicubic": BICUBIC, "area": AREA, "lanczos": LANCZOS}
# As often as they are drawn.
FILTER_NAMES = ["bicubic"] * 4 + ["area"] * 2 + ["lanczos"]


def reduce(image: Image.Image, resampling: Image.Resampling = BICUBIC) -> Image.Image:
    """Reduce an image to a third with an antialiased filter."""
    return image.resize((image.width // SCALE, image.height // SCALE), resampling)


def compress(image: Image.Image, quality: int, subsampling: int = 2) -> Image.Image:
    """Encode an image as JPEG and decode it again."""
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    return Image.open(buffer).convert("RGB")


def blur(image: Image.Image, deviation: float) -> Image.Image:
    """Blur an image with a Gaussian of this standard deviation, in pixels."""
    return image.filter(ImageFilter.GaussianBlur(deviation))


def add_noise(image: Image.Image, deviation: float) -> Image.Image:
    """Add Gaussian noise of this standard deviation, in levels; always the same."""
    noise = np.random.default_rng(0).normal(0, deviation, (image.height, image.width, 3))
    return Image.fromarray((np.asarray(image) + noise).round().clip(0, 255).astype(np.uint8))


# The degradations that are measured, under the names used in tables.
MEASURED: dict[str, Degradation] = {
    "bicubic": reduce,
    "area": lambda image: reduce(image, AREA),
    "JPEG-95": lambda image: compress(reduce(image), 95),
    "JPEG-85": lambda image: compress(reduce(image), 85),
    "JPEG-70": lambda image: compress(reduce(image), 70),
}
# Damage that the restoring model is for: out of focus, a dark room, a telephone, sent on twice.
DAMAGED: dict[str, Degradation] = {
    "blur": lambda image: compress(blur(reduce(image), 1.2), 90),
    "noise": lambda image: compress(add_noise(reduce(image), 12), 85),
    "phone": lambda image: compress(add_noise(blur(reduce(image), 0.8), 6), 60),
    "messenger": lambda image: compress(compress(blur(reduce(image), 0.8), 60), 35),
}


def degrade_at_random(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Make a training input: 4 in 7 bicubic, 2 area, 1 Lanczos; then 4 in 10 as JPEG 60-100."""
    small = reduce(image, FILTERS[random.choice(FILTER_NAMES)])
    if random.random() < JPEG_SHARE:
        quality = int(random.integers(*JPEG_QUALITIES))
        small = compress(small, quality, int(random.choice(JPEG_SUBSAMPLINGS)))
    return small
