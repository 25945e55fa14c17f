"""Pure geometry: cuts an image into overlapping tiles of one shape, and joins the results.

A tile is computed with a border, the halo, that is thrown away, so that the kept parts meet
as if the image had been computed whole. All tiles of an image have one shape, since `cv2.dnn`
reallocates its buffers whenever the shape changes. It is the smallest shape that needs no more
tiles than the largest allowed one: one shape for all images took 20 to 30 % longer.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from superres.images.pixels import Pixels

# An image of one tile is cut into two to four where their halos cost no more than this share of
# computing: 128 pixels, with a halo of 10, into two.
MOST_EXTRA, MOST_PARTS = 0.16, 4


@dataclass(frozen=True)
class Span:
    """One tile's extent along one axis, in input pixels."""

    start: int
    stop: int
    keep_start: int
    keep_stop: int


@dataclass(frozen=True)
class Tile:
    """A rectangle to compute, and the part of it to keep."""

    rows: Span
    columns: Span

    @property
    def kept_pixels(self) -> int:
        """Input pixels that only this tile covers."""
        rows = self.rows.keep_stop - self.rows.keep_start
        return rows * (self.columns.keep_stop - self.columns.keep_start)

    def crop(self, image: Pixels) -> Pixels:
        """Cut the tile with its halo out of an (H, W) or (H, W, C) image; contiguous."""
        rows, columns = self.rows, self.columns
        return np.ascontiguousarray(image[rows.start : rows.stop, columns.start : columns.stop])

    def place(self, enlarged: Pixels, output: Pixels, scale: int) -> None:
        """Copy the kept part of the enlarged tile to its place in the enlarged image."""
        rows, columns = self.rows, self.columns
        top = (rows.keep_start - rows.start) * scale
        left = (columns.keep_start - columns.start) * scale
        target = output[
            rows.keep_start * scale : rows.keep_stop * scale,
            columns.keep_start * scale : columns.keep_stop * scale,
        ]
        target[:] = enlarged[top : top + target.shape[0], left : left + target.shape[1]]


def split_axis(length: int, max_side: int, halo: int) -> list[Span]:
    """Cut an axis into as few overlapping spans of one side as possible.

    Parameters
    ----------
    length : length of the axis in pixels, at least 1
    max_side : longest allowed span; an axis not longer than this is one span
    halo : pixels at a span's inner ends that are not kept; ``2 * halo < max_side``
    """
    if length <= max_side:
        return [Span(0, length, 0, length)]
    count = math.ceil((length - 2 * halo) / (max_side - 2 * halo))
    side = math.ceil((length + 2 * halo * (count - 1)) / count)
    spans = []
    keep_start = 0
    for index in range(count):
        # The last span is shifted inwards by the excess from rounding up.
        start = min(index * (side - 2 * halo), length - side)
        keep_stop = length if index == count - 1 else start + side - halo
        spans.append(Span(start, start + side, keep_start, keep_stop))
        keep_start = keep_stop
    return spans


def split_image(height: int, width: int, max_side: int, halo: int) -> Iterator[Tile]:
    """Yield the tiles of an image, row by row; their kept parts cover it exactly once."""
    max_height = max_width = max_side
    if max(height, width) <= max_side:
        # One tile would leave all lanes but one idle.
        if height >= width:
            max_height = find_part(height, halo)
        else:
            max_width = find_part(width, halo)
    columns = split_axis(width, max_width, halo)
    for rows in split_axis(height, max_height, halo):
        for span in columns:
            yield Tile(rows, span)


def find_part(length: int, halo: int) -> int:
    """Return the side of the parts that an axis of one tile is cut into; `length` if it is not.

    The length alone decides, not the number of lanes: a result's bytes must not depend on it.
    """
    for parts in range(MOST_PARTS, 1, -1):
        side = math.ceil((length + 2 * halo * (parts - 1)) / parts)
        if parts * side <= (1 + MOST_EXTRA) * length:
            return side
    return length
