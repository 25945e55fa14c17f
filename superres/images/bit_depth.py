"""Images with more, or fewer, than 8 bits per sample."""

from io import BytesIO
from typing import BinaryIO

import cv2
import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from superres.images.pixels import DeepPixels, Pixels

# Where a PNG's header has its bit depth.
PNG_BIT_DEPTH_OFFSET = 24
TIFF_BITS_PER_SAMPLE = 258
TIFF_PHOTOMETRIC, TIFF_WHITE_IS_ZERO = 262, 0
DEEP_BITS, DEEP_WHITE = 16, 65_535


def read_depth(image: Image.Image, file: BinaryIO) -> int:
    """Return the bits per sample of a PNG, 1 to 16, which Pillow does not tell; else 8."""
    if image.format == "PNG":
        file.seek(PNG_BIT_DEPTH_OFFSET)
        return file.read(1)[0]
    return 8


def read_deep_colour(file: BinaryIO, pixels: Pixels) -> DeepPixels | None:
    """Return a PNG's 16-bit colour, which Pillow reduces to 8; None if OpenCV's result differs.

    Parameters
    ----------
    pixels : (H, W, 3) as read by Pillow: the upper 8 bits, or rounded to 8

    Returns
    -------
    (H, W, 3) uint16, BGR, as in the file, EXIF orientation not applied
    """
    file.seek(0)
    # A `PngFile` is already in memory, and is complete.
    content = file.getbuffer() if isinstance(file, BytesIO) else file.read()
    try:
        decoded = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    if decoded is None or decoded.dtype != np.uint16:
        return None
    if decoded.ndim == 2:
        decoded = np.repeat(decoded[:, :, np.newaxis], 3, axis=2)
    deep = np.asarray(decoded[:, :, :3], np.uint16)
    if deep.shape != pixels.shape:
        return None
    difference = (deep >> 8).astype(np.int16) - pixels
    return deep if int(np.abs(difference).max()) <= 1 else None


def scale_transparent_colour(image: Image.Image, depth: int) -> None:
    """Scale a PNG's transparent colour to the 8-bit samples that Pillow returns."""
    colour = image.info.get("transparency")
    if image.format == "PNG" and depth < 8 and isinstance(colour, int) and image.mode == "L":
        image.info["transparency"] = colour * 255 // (2**depth - 1)


def find_transparent_pixels(deep: DeepPixels, colour: object) -> Pixels | None:
    """Return the alpha of 16-bit BGR samples with one transparent RGB colour; None without one."""
    if not isinstance(colour, tuple):
        return None
    shown = (deep != np.array(colour[::-1], np.uint16)).any(axis=2)
    return np.where(shown, 255, 0).astype(np.uint8)


def read_deep_grey(image: Image.Image) -> DeepPixels:
    """Return the samples of an image that Pillow reads as 16 bits, from 0 black to 65535 white.

    A TIFF may have fewer bits, such as 12, and may count from white to black.
    """
    samples = np.asarray(image).astype(np.uint32)
    if isinstance(image, TiffImageFile):
        (bits,) = image.tag_v2.get(TIFF_BITS_PER_SAMPLE, (DEEP_BITS,))[:1]
        greatest = 2 ** min(max(int(bits), 1), DEEP_BITS) - 1
        samples = np.minimum(samples, greatest) * DEEP_WHITE // greatest
        if image.tag_v2.get(TIFF_PHOTOMETRIC) == TIFF_WHITE_IS_ZERO:
            samples = DEEP_WHITE - samples
    return samples.astype(np.uint16)
