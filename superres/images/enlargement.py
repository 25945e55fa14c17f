"""Takes a decoded image to its final form: network, transparency, 16 bits, exact size.

In two steps, since the first takes seconds and the second milliseconds: `enlarge_picture` gives the
network's x3, which is what a PNG result of that size holds, and `resample_picture` makes any other
size from it. So a result can also be made from a stored PNG (`png_result.py`), with equal bytes.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from superres.images.options import MODEL_SCALE
from superres.images.picture import Picture
from superres.images.pixels import Pixels
from superres.images.png_file import METRES_AN_INCH
from superres.images.resampling import add_detail, resize, resize_deep, to_levels
from superres.images.shared_arrays import allocate
from superres.images.transparency import OPAQUE, bleed_colours, keep_extremes

# The most that JPEG can state.
MAX_DPI = 65_535
Resolution = tuple[float, float] | None
# Upscales images, colour or grey, x3.
Upscale = Callable[[Sequence[Pixels]], list[Pixels]]


def enlarge_picture(picture: Picture, upscale: Upscale) -> Picture:
    """Upscale an image x3.

    Parameters
    ----------
    upscale : the network
    """
    pixels, alpha = picture.pixels, picture.alpha
    if alpha is None or (alpha == OPAQUE).all():
        (enlarged,) = upscale([pixels])
        opacity = None
        if alpha is not None:
            opacity = allocate(enlarged.shape[:2])
            opacity[:] = OPAQUE
    else:
        if picture.is_grey:
            pixels = bleed_colours(np.repeat(pixels[:, :, np.newaxis], 3, axis=2), alpha)[:, :, 0]
        else:
            pixels = bleed_colours(pixels, alpha)
        enlarged, opacity = upscale([np.ascontiguousarray(pixels), alpha])
        opacity = keep_extremes(opacity, alpha)
    deep = None
    if picture.deep is not None:
        deep = add_detail(picture.deep, np.atleast_3d(enlarged))
        to_levels(deep, np.atleast_3d(enlarged))
    dpi = scale_resolution(picture.metadata.dpi, MODEL_SCALE, MODEL_SCALE)
    return Picture(enlarged, opacity, deep, replace(picture.metadata, dpi=dpi))


def resample_picture(picture: Picture, width: int, height: int) -> Picture:
    """Resample an enlarged image to an exact size.

    Parameters
    ----------
    picture : as returned by `enlarge_picture`
    width, height : of the result, in pixels
    """
    columns, rows = picture.size
    if (columns, rows) == (width, height):
        return picture
    alpha: Pixels | None = None
    if picture.alpha is not None:
        alpha = resize(picture.alpha, width, height)
        # A pixel of a result smaller than the upload covers several, some of which may be visible.
        if MODEL_SCALE * width >= columns and MODEL_SCALE * height >= rows:
            alpha = keep_extremes(alpha, picture.alpha)
    deep = None
    if picture.deep is None:
        pixels = resize(picture.pixels, width, height)
    else:
        deep = resize_deep(picture.deep, width, height)
        pixels = to_levels(deep, allocate(deep.shape))
        pixels = pixels.reshape(height, width, *picture.pixels.shape[2:])
    dpi = scale_resolution(picture.metadata.dpi, width / columns, height / rows)
    return Picture(pixels, alpha, deep, replace(picture.metadata, dpi=dpi))


def scale_resolution(dpi: Resolution, horizontally: float, vertically: float) -> Resolution:
    """Scale a resolution, in whole pixels per metre as PNG states it; None if out of range."""
    if dpi is None:
        return None
    scaled = [dpi[0] * horizontally, dpi[1] * vertically]
    if not all(1 <= value <= MAX_DPI for value in scaled):
        return None  # meaningless, and out of range for the formats
    first, second = (round(value / METRES_AN_INCH) * METRES_AN_INCH for value in scaled)
    return first, second
