"""A PNG's pixel data, filtered and deflated on all CPUs, a strip of rows at a time.

Each strip is compressed by itself and ends at a whole byte (a sync flush), so that the strips
together are one zlib stream (RFC 1950), as pigz makes them. Strips and how they are compressed
depend on the image alone: the bytes are the same for any number of CPUs.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import cv2
import numpy as np
from zlib_ng import zlib_ng

from superres import machine
from superres.images.picture import Picture
from superres.images.pixels import Pixels
from superres.images.png_file import make_chunk
from superres.images.resampling import DEEP_PER_LEVEL

# Of unpacked data; part of the format. Smaller ones would make drawn graphics larger.
STRIP_BYTES = 2**18
# More would only wait for the thread that writes, and each takes memory (`memory_estimate.py`).
MAX_THREADS = 8
# What precedes and ends the deflate stream: 32 KB window, fastest level; an empty last block.
STREAM_HEAD, LAST_BLOCK = b"\x78\x01", b"\x03\x00"
RAW_DEFLATE, MEMORY_LEVEL = -15, 9
ADLER_BASE = 65_521
FILTER_NONE, FILTER_PAETH = 0, 4
# OpenCV has blue first.
CHANNELS = {1: [0, 0], 2: [0, 0, 1, 1], 3: [2, 0, 1, 1, 0, 2], 4: [2, 0, 1, 1, 0, 2, 3, 3]}
# Ways to compress: level and strategy. Runs take half as long again as Huffman codes alone, strings
# four times as long: each must make a sample of a strip smaller by so much.
HUFFMAN = (1, zlib_ng.Z_HUFFMAN_ONLY)
RUNS, RUNS_GAIN = (1, zlib_ng.Z_RLE), 0.98
STRINGS, STRINGS_GAIN = (4, zlib_ng.Z_DEFAULT_STRATEGY), 0.95
SAMPLES, SAMPLE_BYTES = 4, 2**11
# Share of filtered bytes that equal the three before, from which a strip is mostly drawn: its
# strings are too far apart for a sample.
DRAWN_SHARE = 0.5
SAMPLED_ROWS = 4


@dataclass(frozen=True)
class Strip:
    """Some rows, as deflated data.

    Attributes
    ----------
    packed : whole bytes of the deflate stream
    length, adler : of the filtered rows
    """

    packed: bytes
    length: int
    adler: int


@cache
def count_threads() -> int:
    """Return how many strips to compress at once; a sandboxed process could not ask later."""
    return min(machine.count_cpus(), MAX_THREADS)


def make_data_chunks(picture: Picture) -> Iterator[bytes]:
    """Yield the IDAT chunks of an image: 8 or 16 bits, grey or colour, opaque or transparent.

    Rows are forgotten (`Picture.forget_rows`) as soon as they are in a chunk.
    """
    width, height = picture.size
    samples = 1 if picture.is_grey else 3
    samples += picture.alpha is not None
    row_bytes = 1 + width * samples * (1 if picture.deep is None else 2)
    rows = max(1, STRIP_BYTES // row_bytes)
    tops = range(0, height, rows)
    head, adler = STREAM_HEAD, 1
    with ThreadPoolExecutor(count_threads()) as threads:
        strips = threads.map(lambda top: pack_rows(picture, top, min(top + rows, height)), tops)
        for top, strip in zip(tops, strips, strict=True):
            yield make_chunk(b"IDAT", head + strip.packed)
            head, adler = b"", join_checksums(adler, strip.adler, strip.length)
            # The next strip's first row is predicted from the last of this one.
            picture.forget_rows(max(top - 1, 0), min(top + rows, height) - 1)
    yield make_chunk(b"IDAT", LAST_BLOCK + adler.to_bytes(4, "big"))


def pack_rows(picture: Picture, top: int, bottom: int) -> Strip:
    """Filter and compress some rows."""
    bytes_a_pixel, samples = read_samples(picture, top, bottom)
    filtered = filter_paeth(samples, bytes_a_pixel)
    sample = take_sample(filtered)
    by_huffman, by_runs, by_strings = (
        len(deflate(sample, *each).packed) for each in (HUFFMAN, RUNS, STRINGS)
    )
    if (
        by_strings >= STRINGS_GAIN * min(by_huffman, by_runs)
        and measure_runs(filtered) <= DRAWN_SHARE
    ):
        return deflate(filtered, *(RUNS if by_runs < RUNS_GAIN * by_huffman else HUFFMAN))
    # Equal shapes in flat areas are best left unfiltered, gradients are not.
    unfiltered = add_filter_type(samples[1:, bytes_a_pixel:], FILTER_NONE)
    ways = (filtered, RUNS if by_runs < by_strings else STRINGS), (unfiltered, STRINGS)
    return min((deflate(rows, *way) for rows, way in ways), key=lambda strip: len(strip.packed))


def read_samples(picture: Picture, top: int, bottom: int) -> tuple[int, Pixels]:
    """Return bytes per pixel and the bytes of some rows, in PNG's order.

    Returns
    -------
    bytes a pixel, and (bottom - top + 1, (1 + W) * bytes a pixel) uint8: the row above first, and
    the pixel to the left of each; zeros outside the image
    """
    above = max(top - 1, 0)
    colour: Any = picture.pixels if picture.deep is None else picture.deep
    planes = [colour[above:bottom]]
    if picture.alpha is not None:
        alpha = picture.alpha[above:bottom].astype(colour.dtype)
        planes.append(alpha if picture.deep is None else alpha * DEEP_PER_LEVEL)
    count = sum(1 if plane.ndim == 2 else plane.shape[2] for plane in planes)
    samples = np.zeros((bottom - top + 1, 1 + colour.shape[1], count), colour.dtype)
    cv2.mixChannels(planes, [samples[above - bottom :, 1:]], CHANNELS[count])
    if picture.deep is not None:
        samples = samples.astype(">u2")
    return count * samples.itemsize, samples.view(np.uint8).reshape(len(samples), -1)


def filter_paeth(samples: Pixels, bytes_a_pixel: int) -> Pixels:
    """Subtract from each byte the nearest to left + above - upper left of these three (PNG, 9.4).

    Parameters
    ----------
    samples : as `read_samples` returns them
    """
    left, above = samples[1:, :-bytes_a_pixel], samples[:-1, bytes_a_pixel:]
    corner = samples[:-1, :-bytes_a_pixel]
    takes_left, takes_corner = find_nearest(left, above, corner)
    # Masks are 0 or 255: x ^ ((x ^ y) & mask) is y where the mask is set.
    predicted = above ^ ((above ^ left) & takes_left)
    predicted ^= (predicted ^ corner) & takes_corner
    return add_filter_type(samples[1:, bytes_a_pixel:] - predicted, FILTER_PAETH)


def find_nearest(left: Pixels, above: Pixels, corner: Pixels) -> tuple[Pixels, Pixels]:
    """Return masks of where left is nearer than above, and the corner nearer than both.

    By OpenCV, whose operations on bytes are vectorised: a tenth of the time that a literal
    translation takes with NumPy.
    """
    # Distances of left + above - corner from left and from above. From the corner it is their
    # difference if that lies between the two, and otherwise their sum, which is never the least.
    to_left, to_above = cv2.absdiff(above, corner), cv2.absdiff(left, corner)
    to_corner = cv2.absdiff(to_left, to_above)
    is_nearest = cv2.compare(to_corner, cv2.min(to_left, to_above), cv2.CMP_LT)
    is_between = cv2.inRange(corner, cv2.min(left, above), cv2.max(left, above))
    takes_corner: Any = cv2.bitwise_and(is_nearest, is_between)
    takes_left: Any = cv2.compare(to_left, to_above, cv2.CMP_LE)
    return takes_left, takes_corner


def add_filter_type(rows: Pixels, filter_type: int) -> Pixels:
    """Return rows, each with its filter type in front."""
    typed = np.empty((len(rows), 1 + rows.shape[1]), np.uint8)
    typed[:, 0], typed[:, 1:] = filter_type, rows
    return typed


def take_sample(filtered: Pixels) -> Pixels:
    """Return the first bytes of each quarter."""
    quarters = filtered.ravel()[: filtered.size // SAMPLES * SAMPLES].reshape(SAMPLES, -1)
    return np.ascontiguousarray(quarters[:, :SAMPLE_BYTES])


def measure_runs(filtered: Pixels) -> float:
    """Return the share of bytes that equal the three before them, in some of the rows."""
    rows = filtered[::-SAMPLED_ROWS]
    equal = rows[:, 1:] == rows[:, :-1]
    runs = equal[:, 2:] & equal[:, 1:-1] & equal[:, :-2]
    share: float = np.count_nonzero(runs) / max(runs.size, 1)
    return share


def deflate(rows: Pixels, level: int, strategy: int) -> Strip:
    """Compress filtered bytes.

    The result is the same on all CPUs: zlib-ng 2.3 hashes alike with and without SIMD, and Huffman
    coding and runs need no hashes.
    """
    packer = zlib_ng.compressobj(level, zlib_ng.DEFLATED, RAW_DEFLATE, MEMORY_LEVEL, strategy)
    packed = packer.compress(rows.data) + packer.flush(zlib_ng.Z_SYNC_FLUSH)
    return Strip(packed, rows.size, zlib_ng.adler32(rows.data))


def join_checksums(first: int, second: int, second_length: int) -> int:
    """Return the Adler-32 of two pieces of data together (RFC 1950, 8.2)."""
    low = (first & 0xFFFF) + (second & 0xFFFF) - 1
    high = (first >> 16) + (second >> 16) + second_length * ((first & 0xFFFF) - 1)
    return high % ADLER_BASE << 16 | low % ADLER_BASE
