"""Transparency: colours of transparent pixels, and upscaling the alpha channel."""

import cv2
import numpy as np

from superres.images.pixels import Pixels

OPAQUE = 255
# A result's pixel depends on the neighbourhood of its input pixel; where that is all opaque, or all
# transparent, so is the result, exactly.
SURROUNDINGS = np.ones((3, 3), np.uint8)


def bleed_colours(bgr: Pixels, alpha: Pixels) -> Pixels:
    """Give every fully transparent pixel the colour of the nearest visible one.

    Editors leave black or white there; the network would smear it into the edges as a fringe.

    Parameters
    ----------
    bgr : (H, W, 3) uint8
    alpha : (H, W) uint8
    """
    hidden = (alpha == 0).astype(np.uint8)
    if not hidden.any() or hidden.all():
        return bgr
    _, labels = cv2.distanceTransformWithLabels(
        hidden, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    colours = np.zeros((int(labels.max()) + 1, 3), np.uint8)
    shown = hidden == 0
    colours[labels[shown]] = bgr[shown]
    bled = bgr.copy()
    bled[hidden == 1] = colours[labels[hidden == 1]]
    return bled


def keep_extremes(enlarged: Pixels, alpha: Pixels) -> Pixels:
    """Make an upscaled alpha exactly 0 or 255 wherever its whole input neighbourhood was.

    Parameters
    ----------
    enlarged : (s H, s W) uint8, changed in place
    alpha : (H, W) uint8
    """
    height, width = enlarged.shape
    for value, extreme in ((OPAQUE, cv2.erode), (0, cv2.dilate)):
        inside = (extreme(alpha, SURROUNDINGS) == value).astype(np.uint8)
        mask = cv2.resize(inside, (width, height), interpolation=cv2.INTER_NEAREST)
        enlarged[mask == 1] = value
    return enlarged
