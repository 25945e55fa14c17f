"""What has damaged the images that people upload: blur, noise, resizing and compression, twice.

Second-order degradations after Real-ESRGAN (Wang et al., ICCV Workshops 2021), and what that lacks:
sharpening halos, coarse grain, and few colours with dither.
"""

import cv2
import numpy as np
from PIL import Image

from superres.images.pixels import Pixels
from training.degradations import AREA, BICUBIC, LANCZOS
from training.network import SCALE, Floats

FILTERS = (cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC)
KERNEL_RADIUS = 7
MIDDLE_GREY = 128


def to_levels(values: Floats) -> Pixels:
    """Round to uint8."""
    return np.asarray(values.round().clip(0, 255), np.uint8)


def compress(image: Pixels, quality: float) -> Pixels:
    """Encode as JPEG and decode again."""
    _, file = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
    return np.asarray(cv2.imdecode(file, cv2.IMREAD_COLOR), np.uint8)


def resize(image: Pixels, side: float, random: np.random.Generator) -> Pixels:
    """Resize to a square with one filter or another."""
    size = max(int(side), 8)
    chosen = FILTERS[random.integers(len(FILTERS))]
    return np.asarray(cv2.resize(image, (size, size), interpolation=chosen), np.uint8)


def blur(image: Pixels, random: np.random.Generator, most: float) -> Pixels:
    """Blur with a Gaussian of up to `most` pixels, sometimes in one direction more than another."""
    wide, angle = random.uniform(0.2, most), random.uniform(0, np.pi)
    narrow = random.uniform(0.2, most) if random.random() < 0.4 else wide
    y, x = np.mgrid[-KERNEL_RADIUS : KERNEL_RADIUS + 1, -KERNEL_RADIUS : KERNEL_RADIUS + 1]
    along = np.cos(angle) * x + np.sin(angle) * y
    across = np.cos(angle) * y - np.sin(angle) * x
    kernel = np.exp(-0.5 * ((along / wide) ** 2 + (across / narrow) ** 2))
    blurred = cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT)
    return np.asarray(blurred, np.uint8)


def add_noise(image: Pixels, random: np.random.Generator, most: float) -> Pixels:
    """Add noise of up to `most` levels: grey or coloured, even or growing with brightness."""
    height, width = image.shape[:2]
    channels = 1 if random.random() < 0.45 else 3
    level = random.uniform(1, most)
    if channels == 3 and random.random() < 0.3:  # colours have half the resolution in cameras
        small = random.normal(0, level, (height // 2 + 1, width // 2 + 1, channels))
        noise = cv2.resize(small, (width, height))
    else:
        noise = random.normal(0, level, (height, width, channels))
    if random.random() < 0.3:
        noise = noise * np.sqrt(np.maximum(image, 1) / MIDDLE_GREY)
    return to_levels((image + noise).astype(np.float32))


def sharpen(image: Pixels, random: np.random.Generator) -> Pixels:
    """Add the halos of cameras and careless editing."""
    values = image.astype(np.float32)
    halo = values - cv2.GaussianBlur(values, (0, 0), random.uniform(0.7, 1.6))
    return to_levels(values + random.uniform(0.3, 1.4) * halo)


def denoise(image: Pixels, random: np.random.Generator) -> Pixels:
    """Denoise as telephones do in the dark: what remains are smears and blotches of colour."""
    grey, colour = random.uniform(2, 7), random.uniform(4, 12)
    kept = cv2.fastNlMeansDenoisingColored(image, None, grey, colour, 5, 11)
    return np.asarray(kept, np.uint8)


def dither(image: Pixels, random: np.random.Generator) -> Pixels:
    """Reduce to few colours, as old GIF files have them."""
    few = Image.fromarray(image).quantize(int(random.choice([16, 64, 256])))
    return np.asarray(few.convert("RGB"))


def reduce_somehow(truth: Pixels, random: np.random.Generator) -> Pixels:
    """Reduce a square to a third with one antialiased filter or another."""
    side = truth.shape[0] // SCALE
    chosen = random.choice([BICUBIC, AREA, LANCZOS])
    return np.asarray(Image.fromarray(truth).resize((side, side), Image.Resampling(chosen)))


def damage_mildly(truth: Pixels, random: np.random.Generator) -> Pixels:
    """Reduce to a third, seldom blurred or noisy, half of the time as JPEG 60 to 98."""
    if random.random() < 0.25:
        truth = blur(truth, random, 1.2)
    small = reduce_somehow(truth, random)
    if random.random() < 0.15:
        small = add_noise(small, random, 5)
    return compress(small, random.uniform(60, 98)) if random.random() < 0.5 else small


def send_on(truth: Pixels, random: np.random.Generator) -> Pixels:
    """Reduce to a third and compress up to three times, as messengers do with a picture of text."""
    small = reduce_somehow(truth, random)
    if random.random() < 0.6:
        small = blur(small, random, 1)
    if random.random() < 0.3:
        small = add_noise(small, random, 10)
    for _ in range(int(random.integers(1, 4))):
        small = compress(small, random.uniform(30, 80))
    return small


def damage_badly(truth: Pixels, random: np.random.Generator, level: float) -> Pixels:
    """Blur, resize, add noise and compress, twice over, down to a third of the size.

    Parameters
    ----------
    level : how bad, from 0.35 to 1.3
    """
    full, side = truth.shape[0], truth.shape[0] // SCALE
    lowest_quality = max(95 - 65 * level, 12)
    image = blur(truth, random, 0.3 + 2.4 * level) if random.random() < 0.85 else truth
    image = resize(image, full * random.uniform(0.22, 1), random)
    if random.random() < 0.65:
        image = add_noise(image, random, 2 + 24 * level)
        if random.random() < 0.3:
            image = denoise(image, random)
            image = sharpen(image, random) if random.random() < 0.6 else image
    if random.random() < 0.7:
        image = compress(image, random.uniform(lowest_quality, 95))
    if random.random() < 0.4:
        image = blur(image, random, 0.3 + level)
    if random.random() < 0.5:  # smaller than the result: this detail is lost for good
        image = resize(image, full * random.uniform(0.2, 0.6), random)
        if random.random() < 0.4:  # grows with the image: the coarse grain of scans
            image = add_noise(image, random, 2 + 14 * level)
        if random.random() < 0.3:  # blocks grow, too
            image = compress(image, random.uniform(lowest_quality, 90))
    image = resize(image, side, random)
    if random.random() < 0.5:
        image = add_noise(image, random, 2 + 18 * level)
    if random.random() < 0.2:
        image = sharpen(image, random)
    if random.random() < 0.04:
        return dither(image, random)
    return compress(image, random.uniform(lowest_quality, 98)) if random.random() < 0.75 else image
