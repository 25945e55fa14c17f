"""Previews: uploads at their own size, or smaller, as every browser can show them."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from superres.images.encoders import to_pil
from superres.images.image_codec import MAX_SIDE
from superres.images.metadata import Metadata
from superres.images.options import read_texts, read_whole_number
from superres.images.picture import Picture
from superres.images.resampling import LANCZOS

LONGEST = "max_side"


def read_longest(values: Mapping[str, Sequence[str]], files: Collection[str]) -> int:
    """Read the longest side that a preview may have, in pixels: see `read_texts`."""
    given = read_texts(values, files, [LONGEST])
    return read_whole_number(LONGEST, given.get(LONGEST, str(MAX_SIDE)), 1, MAX_SIDE)


def make_preview(picture: Picture, max_side: int) -> Picture:
    """Return what the network sees of an image: 8 bits and the colour profile.

    Parameters
    ----------
    max_side : longest side in pixels; larger images are reduced to it
    """
    kept = picture.metadata
    metadata = Metadata(icc_profile=kept.icc_profile, colour_chunks=kept.colour_chunks)
    pixels, alpha = picture.pixels, picture.alpha
    share = max_side / max(picture.size)
    if share >= 1:
        return Picture(pixels, alpha, metadata=metadata)
    width, height = (max(round(side * share), 1) for side in picture.size)
    # Pillow weighs colours by their opacity, so that hidden ones do not show at edges.
    reduced = np.asarray(to_pil(Picture(pixels, alpha)).resize((width, height), LANCZOS))
    if alpha is not None:
        reduced, alpha = reduced[:, :, :-1], reduced[:, :, -1]
    pixels = reduced.reshape(height, width) if picture.is_grey else reduced[:, :, ::-1]
    return Picture(pixels, alpha, metadata=metadata)
