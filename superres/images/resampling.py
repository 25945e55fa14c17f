"""Sizes other than the network's, and 16-bit results.

`cv2.dnn_superres` takes and returns 8 bits and scales by 3. Other sizes are resampled from its
result; 16 bits are a 16-bit resample of the input to which the network's detail is added.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image

from superres.images.pixels import DeepPixels, Pixels
from superres.images.shared_arrays import allocate

LANCZOS, BICUBIC = Image.Resampling.LANCZOS, Image.Resampling.BICUBIC
Floats = npt.NDArray[np.float32]
STRIP_ROWS = 256
# 16-bit levels per 8-bit level: 65535 / 255.
DEEP_PER_LEVEL = 257
# Detail below one 8-bit level is rounding of the input and of the network's result, and would show
# as banding in gradients; larger detail counts in full (firm shrinkage, Gao and Bruce 1997).
ROUNDING_LEVELS, FULL_DETAIL_LEVELS = 0.75, 1.5


def resize(pixels: Pixels, width: int, height: int) -> Pixels:
    """Resample (H, W) or (H, W, C) uint8 to an exact size with Lanczos, antialiased."""
    if pixels.shape[:2] == (height, width):
        return pixels
    channels = np.atleast_3d(pixels)
    resized: Pixels = allocate((height, width, channels.shape[2]))
    for channel in range(channels.shape[2]):
        plane = Image.fromarray(np.ascontiguousarray(channels[:, :, channel]))
        resized[:, :, channel] = np.asarray(plane.resize((width, height), LANCZOS))
    return resized[:, :, 0] if pixels.ndim == 2 else resized


def resize_deep(deep: DeepPixels, width: int, height: int) -> DeepPixels:
    """Resample (H, W, C) uint16 to an exact size with Lanczos, antialiased."""
    channels = deep.shape[2]
    resized: DeepPixels = allocate((height, width, channels), np.uint16)
    for channel in range(channels):
        plane = Image.fromarray(deep[:, :, channel].astype(np.float32))
        for rows, box in split_rows(deep.shape, height):
            size = (width, rows.stop - rows.start)
            strip = np.rint(np.asarray(plane.resize(size, LANCZOS, box)))
            resized[rows, :, channel] = np.clip(strip, 0, np.iinfo(np.uint16).max)
    return resized


def to_levels(deep: DeepPixels, levels: Pixels | None = None) -> Pixels:
    """Round 16-bit samples to 8 bits, in an array of the same shape or a new one."""
    if levels is None:
        levels = np.empty(deep.shape, np.uint8)
    for start in range(0, len(deep), STRIP_ROWS):
        strip = deep[start : start + STRIP_ROWS].astype(np.uint32)
        levels[start : start + STRIP_ROWS] = (strip + DEEP_PER_LEVEL // 2) // DEEP_PER_LEVEL
    return levels


def add_detail(deep: DeepPixels, enlarged: Pixels) -> DeepPixels:
    """Upscale 16-bit samples with the detail that the network found in their 8-bit rounding.

    The result is the bicubic upscale of the 16-bit samples, plus the difference between the
    network's result and the bicubic upscale of the 8-bit samples, minus what may be rounding.

    Parameters
    ----------
    deep : (H, W, C) uint16
    enlarged : (h, w, C) uint8, the network's result for `to_levels(deep)`

    Returns
    -------
    (h, w, C) uint16
    """
    height, width, channels = enlarged.shape
    result: DeepPixels = allocate((height, width, channels), np.uint16)
    for channel in range(channels):
        samples = deep[:, :, channel]
        exact = Image.fromarray(samples.astype(np.float32))
        rounded = Image.fromarray(to_levels(samples).astype(np.float32))
        for rows, box in split_rows(samples.shape, height):
            size = (width, rows.stop - rows.start)
            base, levels = (
                np.asarray(plane.resize(size, BICUBIC, box)) for plane in (exact, rounded)
            )
            detail = enlarged[rows, :, channel] - levels
            strip = np.rint(base + DEEP_PER_LEVEL * shrink(detail))
            result[rows, :, channel] = np.clip(strip, 0, np.iinfo(np.uint16).max)
    return result


def shrink(detail: Floats) -> Floats:
    """Suppress detail, in 8-bit levels, that may be rounding."""
    size = np.abs(detail)
    share = (size - ROUNDING_LEVELS) / (FULL_DETAIL_LEVELS - ROUNDING_LEVELS)
    return np.sign(detail) * np.clip(share, 0, 1) * np.maximum(size, FULL_DETAIL_LEVELS)


def split_rows(
    shape: tuple[int, ...], height: int
) -> Iterator[tuple[slice, tuple[float, float, float, float]]]:
    """Yield strips of a result's rows, each with the part of the input that it shows."""
    ratio = shape[0] / height
    for start in range(0, height, STRIP_ROWS):
        stop = min(start + STRIP_ROWS, height)
        yield slice(start, stop), (0, start * ratio, shape[1], stop * ratio)
