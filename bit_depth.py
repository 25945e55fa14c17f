"""Pictures whose samples have more, or fewer, than 8 bits."""

from typing import BinaryIO

import cv2
import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from resampling import DeepPixels
from tiling import Pixels

# Where a PNG's header has its bit depth.
PNG_BIT_DEPTH_OFFSET = 24
TIFF_BITS_PER_SAMPLE, TIFF_SAMPLE_FORMAT, TIFF_UNSIGNED = 258, 339, 1
DEEP_BITS = 16


def read_depth(image: Image.Image, file: BinaryIO) -> int:
    """Return the bits of a sample as the file has it: 1 to 16."""
    if image.format == "PNG":
        file.seek(PNG_BIT_DEPTH_OFFSET)
        return file.read(1)[0]
    if isinstance(image, TiffImageFile):
        bits = image.tag_v2.get(TIFF_BITS_PER_SAMPLE, (1,))
        formats = image.tag_v2.get(TIFF_SAMPLE_FORMAT, (TIFF_UNSIGNED,))
        if set(bits) == {DEEP_BITS} and set(formats) == {TIFF_UNSIGNED}:
            return DEEP_BITS
    return 8


def read_deep_colour(file: BinaryIO, pixels: Pixels) -> DeepPixels | None:
    """Return 16-bit colour, which Pillow reads as 8 bits; None where OpenCV sees another picture.

    Parameters
    ----------
    pixels : (H, W, 3) what Pillow has read: the upper 8 bits, or the rounded ones

    Returns
    -------
    (H, W, 3) uint16, BGR, as the file has it, not turned upright
    """
    file.seek(0)
    content = np.frombuffer(file.read(), np.uint8)
    try:
        decoded = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)
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


def apply_transparent_colour(image: Image.Image, depth: int) -> Image.Image:
    """Put a PNG's transparent colour on the scale of the 8-bit samples that Pillow gives."""
    colour = image.info.get("transparency")
    if image.format == "PNG" and depth != 8:
        greatest = 2**depth - 1
        if isinstance(colour, tuple):
            image.info["transparency"] = tuple(sample * 255 // greatest for sample in colour)
        elif isinstance(colour, int) and image.mode == "L":
            image.info["transparency"] = colour * 255 // greatest
    return image
