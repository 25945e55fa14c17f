"""One image from decoded to final: network, transparency, exact size, 16 bits."""

from collections.abc import Callable, Sequence

import numpy as np

from superres.images.image_codec import Picture
from superres.images.metadata import Metadata
from superres.images.pixels import Pixels
from superres.images.resampling import add_detail, resize
from superres.images.transparency import OPAQUE, bleed_colours, keep_extremes

# What JPEG can tell.
MAX_DPI = 65_535
# Enlarges images, colour or grey, three times.
Upscale = Callable[[Sequence[Pixels]], list[Pixels]]


def enlarge_picture(picture: Picture, upscale: Upscale, width: int, height: int) -> Picture:
    """Enlarge an image to an exact size.

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
        # A pixel of a smaller result stands for several, of which some may show.
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
            dpi = None  # it has no meaning, and formats have no room for it
    metadata = Metadata(picture.metadata.icc_profile, picture.metadata.exif, dpi)
    return Picture(enlarged, opacity, deep, metadata)
