"""The degradations of `training.degradations` as operations on batches, for a GPU.

Every function takes and returns either NumPy arrays or PyTorch tensors, (N, C, H, W) float32 from 0
to 255: it uses only what both have. The tests compare NumPy's results with Pillow's and libjpeg's.
"""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np

from training.network import SCALE, Floats

Batch = Any  # np.ndarray or torch.Tensor
# Moves a constant to where the batch is, as the batch's type.
Place = Callable[[Floats], Batch]
BLOCK = 8

# ITU-T T.81, tables K.1 and K.2, which libjpeg scales by the quality.
LUMA_TABLE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    np.float32,
)
CHROMA_TABLE = np.full((BLOCK, BLOCK), 99, np.float32)
CHROMA_TABLE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]

# JFIF's conversion from RGB, levels from -128 to 127.
TO_YCC = np.array(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32
)
FROM_YCC = np.linalg.inv(TO_YCC.astype(np.float64)).astype(np.float32)


def bicubic(x: Floats) -> Floats:
    """Keys' filter with a = -0.5, as in Pillow."""
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def box(x: Floats) -> Floats:
    """Averages an area."""
    return np.where((x > -0.5) & (x <= 0.5), 1.0, 0.0)


def lanczos(x: Floats) -> Floats:
    """Sinc, windowed to three lobes."""
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)


FILTERS: Mapping[str, tuple[Callable[[Floats], Floats], float]] = {
    "bicubic": (bicubic, 2),
    "area": (box, 0.5),
    "lanczos": (lanczos, 3),
}


@cache
def resize_matrix(length: int, new_length: int, name: str) -> Floats:
    """Return the (new, old) matrix of an antialiased resampling along one side, as in Pillow."""
    weigh, radius = FILTERS[name]
    ratio = length / new_length
    scale = max(ratio, 1)
    matrix = np.zeros((new_length, length), np.float32)
    for row in range(new_length):
        centre = (row + 0.5) * ratio
        first = max(int(centre - radius * scale + 0.5), 0)
        last = min(int(centre + radius * scale + 0.5), length)
        weights = weigh((np.arange(first, last) + 0.5 - centre) / scale)
        matrix[row, first:last] = weights / weights.sum()
    return matrix


def to_levels(batch: Batch) -> Batch:
    """Round to whole levels, and clip."""
    return batch.round().clip(0, 255)


def reduce(batch: Batch, name: str, place: Place) -> Batch:
    """Reduce to a third; like Pillow, rounding after each direction."""
    height, width = batch.shape[-2:]
    across = place(resize_matrix(width, width // SCALE, name).T.copy())
    down = place(resize_matrix(height, height // SCALE, name))
    return to_levels(down @ to_levels(batch @ across))


def blur(batch: Batch, deviation: float, place: Place) -> Batch:
    """Blur with a Gaussian of this standard deviation, in pixels, mirrored at the borders."""

    def matrix(length: int) -> Floats:
        at = np.arange(length)
        mirrored = np.abs(at[:, None] - np.arange(-length, 2 * length)[None])
        weights = np.exp(-0.5 * (mirrored / deviation) ** 2)
        before, inside, after = np.split(weights, 3, axis=1)
        folded = inside + before[:, ::-1] + after[:, ::-1]
        return np.asarray(folded / folded.sum(1, keepdims=True), np.float32)

    height, width = batch.shape[-2:]
    return to_levels(place(matrix(height)) @ batch @ place(matrix(width).T.copy()))


@cache
def dct_matrix() -> Floats:
    """Return the orthonormal DCT-II of eight values."""
    frequency, position = np.mgrid[:BLOCK, :BLOCK]
    matrix = np.cos(np.pi * (2 * position + 1) * frequency / (2 * BLOCK)) / 2
    matrix[0] /= np.sqrt(2)
    return np.asarray(matrix, np.float32)


@cache
def upsample_matrix(length: int) -> Floats:
    """Return the (2 n, n) matrix of libjpeg's "fancy" upsampling: 3/4 near, 1/4 far."""
    matrix = np.zeros((2 * length, length), np.float32)
    at = np.arange(length)
    matrix[2 * at, at] = matrix[2 * at + 1, at] = 0.75
    matrix[2 * at, np.maximum(at - 1, 0)] += 0.25
    matrix[2 * at + 1, np.minimum(at + 1, length - 1)] += 0.25
    return matrix


def quantisation_tables(qualities: Floats) -> tuple[Floats, Floats]:
    """Return libjpeg's tables of luma and chroma, (N, 1, 1, 8, 1, 8) each, for N qualities."""
    scale = np.where(qualities < 50, 5000 // qualities, 200 - 2 * qualities)[:, None, None]
    luma, chroma = (
        np.floor((table * scale + 50) / 100).clip(1, 255).astype(np.float32)
        for table in (LUMA_TABLE, CHROMA_TABLE)
    )
    shape = (-1, 1, 1, BLOCK, 1, BLOCK)
    return luma.reshape(shape), chroma.reshape(shape)


def quantise(planes: Batch, table: Batch, place: Place) -> Batch:
    """Pass (N, C, H, W) planes through quantised DCT coefficients; sides divisible by 8."""
    number, channels, height, width = planes.shape
    dct = place(dct_matrix())
    inverse = place(dct_matrix().T.copy())
    blocks = planes.reshape(number, channels, height // BLOCK, BLOCK, width // BLOCK, BLOCK)
    # Rows and columns of each block last.
    blocks = blocks.swapaxes(3, 4)
    table = table.swapaxes(3, 4)
    coefficients = ((dct @ blocks @ inverse) / table).round() * table
    blocks = (inverse @ coefficients @ dct).swapaxes(3, 4)
    return blocks.reshape(number, channels, height, width)


def compress(batch: Batch, qualities: Floats, subsample: bool, place: Place) -> Batch:
    """Pass RGB images through JPEG, each with its own quality.

    Parameters
    ----------
    batch : sides divisible by 16
    qualities : (N,) whole numbers
    subsample : 4:2:0 instead of 4:4:4
    """
    number, channels, height, width = batch.shape
    luma_table, chroma_table = map(place, quantisation_tables(qualities))
    to_ycc, from_ycc = place(TO_YCC), place(FROM_YCC)
    levels = (to_ycc @ batch.reshape(number, channels, height * width)).round()
    levels = levels.reshape(number, channels, height, width)
    luma, chroma = levels[:, :1] - 128, levels[:, 1:]
    if subsample:
        halves = chroma.reshape(number, 2, height // 2, 2, width // 2, 2)
        chroma = halves.mean(5).mean(3).round()
    luma = quantise(luma, luma_table, place).round().clip(-128, 127) + 128
    chroma = quantise(chroma, chroma_table, place).round().clip(-128, 127)
    if subsample:
        down, across = upsample_matrix(height // 2), upsample_matrix(width // 2)
        chroma = (place(down) @ chroma @ place(across.T.copy())).round()
    colours = [luma.reshape(number, 1, -1), chroma.reshape(number, 2, -1)]
    stacked = place(np.eye(3, 1, dtype=np.float32)) @ colours[0]
    stacked = stacked + place(np.eye(3, 2, -1, dtype=np.float32)) @ colours[1]
    return to_levels((from_ycc @ stacked).reshape(number, channels, height, width))
