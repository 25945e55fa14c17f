"""Camera raw files, most of which are TIFFs whose first image is a small preview."""

from contextlib import suppress

from superres.errors import UnsupportedUpload
from superres.images.file_kinds import RAW, describe
from superres.images.tiff_directory import SUB_DIRECTORIES, Directory, read_at, read_directory
from superres.images.tiff_layout import PHOTOMETRIC

CANON = b"CR"
CANON_AT = 8
DNG_VERSION = 50706
# Colour filter array, and the linear raw that Adobe's converter makes from it.
RAW_PHOTOMETRICS = frozenset({32803, 34892})
MAX_SUB_DIRECTORIES = 8


def refuse_raw(directory: Directory) -> None:
    """Reject a TIFF that is a camera raw file.

    Parameters
    ----------
    directory : of its image

    Raises
    ------
    UnsupportedUpload
    """
    if is_raw(directory):
        raise UnsupportedUpload(describe(RAW))


def is_raw(directory: Directory) -> bool:
    """Tell whether a TIFF is a camera raw file, whose first image is only a small preview."""
    if DNG_VERSION in directory.entries["tag"] or is_of_sensor(directory):
        return True
    # Damage there does not affect the image.
    with suppress(ValueError):
        if read_at(directory.file, CANON_AT, len(CANON)) == CANON:
            return True
        for place in directory.values(SUB_DIRECTORIES)[:MAX_SUB_DIRECTORIES]:
            if is_of_sensor(read_directory(directory.file, directory.form, int(place))):
                return True
    return False


def is_of_sensor(directory: Directory) -> bool:
    """Tell whether the samples are raw sensor data."""
    return directory.value(PHOTOMETRIC, 0) in RAW_PHOTOMETRICS
