"""Cameras' raw files, most of which are TIFFs whose first picture is a small preview."""

import struct

from PIL.TiffImagePlugin import TiffImageFile

from errors import UnsupportedUpload
from file_kinds import RAW, describe

CANON = b"CR"
CANON_AT = 8
DNG_VERSION, SUB_DIRECTORIES, PHOTOMETRIC, NEW_SUBFILE_TYPE = 50706, 330, 262, 254
# Colour filter array, and what Adobe's converter makes of one.
RAW_PHOTOMETRICS = frozenset({32803, 34892})
MAX_SUB_DIRECTORIES, MAX_ENTRIES = 8, 200


def refuse_raw(image: TiffImageFile) -> None:
    """Refuse a TIFF that is a camera's raw file.

    Raises
    ------
    UnsupportedUpload
    """
    if is_raw(image):
        raise UnsupportedUpload(describe(RAW))


def is_raw(image: TiffImageFile) -> bool:
    """Tell whether a TIFF is a camera's raw file, whose first picture is only a small preview."""
    if DNG_VERSION in image.tag_v2:
        return True
    if image.tag_v2.get(PHOTOMETRIC) in RAW_PHOTOMETRICS:
        return True
    places = image.tag_v2.get(SUB_DIRECTORIES, ())
    places = places if isinstance(places, tuple) else (places,)
    order = "<" if image.tag_v2.prefix == b"II" else ">"
    assert image.fp is not None
    position = image.fp.tell()
    try:
        image.fp.seek(CANON_AT)
        return image.fp.read(len(CANON)) == CANON or any(
            read_photometric(image, place, order) in RAW_PHOTOMETRICS
            for place in places[:MAX_SUB_DIRECTORIES]
            if isinstance(place, int)
        )
    finally:
        image.fp.seek(position)


def read_photometric(image: TiffImageFile, place: int, order: str) -> int | None:
    """Return what the samples of another directory of a TIFF are; None: it does not say."""
    assert image.fp is not None
    image.fp.seek(place)
    (count,) = struct.unpack(order + "H", image.fp.read(2).ljust(2, b"\0"))
    entries = image.fp.read(12 * min(count, MAX_ENTRIES))
    for at in range(0, len(entries) - 11, 12):
        tag, _, _, value = struct.unpack_from(order + "HHIH", entries, at)
        if tag == PHOTOMETRIC:
            return int(value)
    return None
