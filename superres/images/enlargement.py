"""Takes a decoded image to its final form: network, transparency, exact size, 16 bits."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from superres.images.image_codec import Picture
from superres.images.pixels import Pixels
from superres.images.resampling import add_detail, resize
from superres.images.transparency import OPAQUE, bleed_colours, keep_extremes

# The most that JPEG can state.
MAX_DPI = 65_535
# Upscales images, colour or grey, x3.
Upscale = Callable[[Sequence[Pixels]], list[Pixels]]


def enlarge_picture(picture: Picture, upscale: Upscale, width: int, height: int) -> Picture:
    """Upscale an image to an exact size.

    Parameters
    ----------
    upscale : the network
    width, height : of the result, in pixels
    """
    pixels, alpha = picture.pixels, picture.alpha
    if alpha is None or (alpha == OPAQUE).all():
        (enlarged,) = upscale([pixels])
        opacity = None if alpha is None else np.full((height, width), OPAQUE, np.uint8)
    else:
        if picture.is_grey:
            pixels = bleed_colours(np.repeat(pixels[:, :, np.newaxis], 3, axis=2), alpha)[:, :, 0]
        else:
            pixels = bleed_colours(pixels, alpha)
        enlarged, enlarged_alpha = upscale([np.ascontiguousarray(pixels), alpha])
        opacity = resize(enlarged_alpha, width, height)
        columns, rows = picture.size
        # A pixel of a smaller result covers several, some of which may be visible.
        if width >= columns and height >= rows:
            opacity = keep_extremes(opacity, alpha)
    enlarged = resize(enlarged, width, height)
    deep = None
    if picture.deep is not None:
        deep = add_detail(picture.deep, np.atleast_3d(enlarged))
    dpi = picture.metadata.dpi
    if dpi is not None:
        columns, rows = picture.size
        dpi = dpi[0] * width / columns, dpi[1] * height / rows
        if not all(1 <= value <= MAX_DPI for value in dpi):
            dpi = None  # meaningless, and out of range for the formats
    return Picture(enlarged, opacity, deep, replace(picture.metadata, dpi=dpi))
