"""What a file says of its colours beside a profile: PNG's chunks, AVIF's and HEIC's numbers."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from superres.images.code_points import (
    HLG,
    PQ,
    SRGB_PRIMARIES,
    are_known,
    find_colours,
    find_photo_colours,
)
from superres.images.heif_boxes import read_items
from superres.images.icc_profiles import Colours
from superres.images.png_file import make_chunk

# In a PNG, in the order of their precedence; each has one length (PNG 3rd edition, 11.3.2).
PNG_CHUNKS = {b"cICP": 4, b"sRGB": 1, b"gAMA": 4, b"cHRM": 32}
FULL_RANGE = b"\0\1"
# PNG's numbers are in units of 1/100,000.
UNIT = 100_000
# Programs that mean sRGB write its gamma as 1/2.2; libpng, too, ignores 5 %.
SRGB_GAMMAS = 0.95 / 2.2, 1.05 / 2.2
GAMMAS = 0.1, 10
# Of the triangles between white and two primaries, doubled: sRGB's smallest has 0.02.
LEAST_AREA = 0.0001
# Of chromaticities that still count as sRGB's.
TOLERANCE = 0.003


@dataclass(frozen=True)
class ColourSignal:
    """What a file says of its colours.

    Attributes
    ----------
    colours : None if they are sRGB's
    chunks : of a PNG, which say the same, whole; None if a profile says it all
    overrules_profile : whether they take the place of the file's profile
    """

    colours: Colours | None
    chunks: bytes | None
    overrules_profile: bool = False


def read_png_signal(chunks: Mapping[bytes, bytes]) -> ColourSignal | None:
    """Return what a PNG's chunks beside its profile say; None if nothing.

    Parameters
    ----------
    chunks : contents by name
    """
    said = {
        name: chunks[name]
        for name, length in PNG_CHUNKS.items()
        if len(chunks.get(name, b"")) == length
    }
    # As if they were not there, like those of another length.
    if b"gAMA" in said and not GAMMAS[0] <= int.from_bytes(said[b"gAMA"]) / UNIT <= GAMMAS[1]:
        del said[b"gAMA"]
    if b"cHRM" in said and not is_triangle(said[b"cHRM"]):
        del said[b"cHRM"]
    if not said:
        return None
    content = b"".join(make_chunk(*each) for each in said.items())
    points = said.get(b"cICP", b"")
    if points[2:] == FULL_RANGE and are_known(*points[:2]):
        return ColourSignal(find_colours(*points[:2]), content, overrules_profile=True)
    colours = None
    if b"sRGB" not in said and b"gAMA" in said:
        colours = read_gamma(said[b"gAMA"], said.get(b"cHRM"))
    return ColourSignal(colours, content)


def is_triangle(chromaticities: bytes) -> bool:
    """Tell whether the primaries of a cHRM chunk enclose its white, which has a brightness."""
    points = np.array(struct.unpack(">8i", chromaticities)).reshape(4, 2) / UNIT
    white, *corners = points
    edges = [
        np.linalg.det(np.stack([second - first, white - first]))
        for first, second in zip(corners, [*corners[1:], corners[0]], strict=True)
    ]
    return bool(white[1] > 0 and (min(edges) > LEAST_AREA or max(edges) < -LEAST_AREA))


def read_gamma(gamma: bytes, chromaticities: bytes | None) -> Colours | None:
    """Return the colours of a gAMA and a cHRM chunk; None if they are nearly sRGB's."""
    exponent = int.from_bytes(gamma) / UNIT
    primaries = SRGB_PRIMARIES
    if chromaticities is not None:
        white_x, white_y, *others = (each / UNIT for each in struct.unpack(">8I", chromaticities))
        found = (*others, white_x, white_y)
        if max(abs(np.subtract(found, SRGB_PRIMARIES))) > TOLERANCE:
            primaries = found
    if primaries == SRGB_PRIMARIES and SRGB_GAMMAS[0] < exponent < SRGB_GAMMAS[1]:
        return None
    return Colours(primaries, (1 / exponent,))


def read_code_points(primaries: int, transfer: int) -> ColourSignal:
    """Return what the code points of an AVIF or HEIC say."""
    chunk = None
    if transfer in {PQ, HLG} and max(primaries, transfer) < 256:
        chunk = make_chunk(b"cICP", bytes([primaries, transfer]) + FULL_RANGE)
    return ColourSignal(find_photo_colours(primaries, transfer), chunk)


def read_avif_signal(file: BinaryIO) -> ColourSignal | None:
    """Return what the container of an AVIF says; None if nothing.

    Raises
    ------
    ValueError, struct.error
        Its boxes are damaged.
    """
    items = read_items(file)
    content = items.by_number[items.primary].properties.get(b"colrnclx") if items else None
    return None if content is None else read_code_points(*struct.unpack_from(">HH", content, 4))
