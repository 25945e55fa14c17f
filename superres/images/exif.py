"""EXIF: what of it a result keeps, and the orientation."""

import contextlib
from collections.abc import Mapping

from PIL import Image
from PIL.ExifTags import IFD, Base
from PIL.TiffImagePlugin import TiffImageFile

# Larger EXIF does not fit into a JPEG, and cameras only exceed it with previews.
MAX_EXIF_BYTES = 60_000
XMP_TAG, IPTC_TAG, PHOTOSHOP_TAG, LAYERS_TAG = 700, 33723, 34377, 37724
# Exif 2.32, tag 37510; its UTF-16 is big-endian in what piexif, and so the generators, write.
UNICODE = b"UNICODE\0"
# Key in a PNG's info if its EXIF is a text chunk written by ImageMagick.
EXIF_IS_TEXT = "exif is text"
# Reading damaged EXIF may fail in any of these ways.
EXIF_ERRORS = (OSError, SyntaxError, ValueError, TypeError, LookupError, AttributeError)
# Who took the image, with what and how; no location and no serial numbers.
SAFE_TAGS = frozenset(
    {
        Base.ImageDescription,
        Base.Make,
        Base.Model,
        Base.Software,
        Base.DateTime,
        Base.Artist,
        Base.Copyright,
    }
)
SAFE_CAMERA_TAGS = frozenset(
    {
        Base.ExposureTime,
        Base.FNumber,
        Base.ExposureProgram,
        Base.ISOSpeedRatings,
        Base.DateTimeOriginal,
        Base.DateTimeDigitized,
        Base.OffsetTime,
        Base.OffsetTimeOriginal,
        Base.ShutterSpeedValue,
        Base.ApertureValue,
        Base.BrightnessValue,
        Base.ExposureBiasValue,
        Base.MaxApertureValue,
        Base.MeteringMode,
        Base.LightSource,
        Base.Flash,
        Base.FocalLength,
        Base.FocalLengthIn35mmFilm,
        Base.WhiteBalance,
        Base.LensMake,
        Base.LensModel,
        Base.UserComment,  # where generators keep the prompt, in JPEG and WebP
    }
)
# These describe the original file: its layout, preview, size and orientation.
STALE_TAGS = frozenset(
    {
        *range(Base.NewSubfileType, Base.PhotometricInterpretation + 1),
        *(Base.StripOffsets, Base.SamplesPerPixel, Base.RowsPerStrip, Base.StripByteCounts),
        *(Base.PlanarConfiguration, Base.Predictor, Base.TileWidth, Base.TileLength),
        *(Base.TileOffsets, Base.TileByteCounts, Base.SampleFormat, Base.ColorMap),
        *(Base.Orientation, Base.JpegIFOffset, Base.JpegIFByteCount, Base.InterColorProfile),
        *(Base.XResolution, Base.YResolution, Base.ResolutionUnit, XMP_TAG),
        *(Base.ExifImageWidth, Base.ExifImageHeight, Base.MakerNote, Base.ExifOffset, Base.GPSInfo),
        # of TIFF: IPTC and Photoshop's resources, which are read on their own, and its layers
        *(IPTC_TAG, PHOTOSHOP_TAG, LAYERS_TAG),
    }
)


class RawText(str):
    """EXIF text that is written back byte for byte.

    Pillow decodes it as Latin-1, and writes a question mark for everything but ASCII, so that `©`
    and names in UTF-8 would be lost.
    """

    def encode(self, encoding: str = "latin-1", errors: str = "strict") -> bytes:
        """Return the original bytes, whatever encoding is asked for."""
        return super().encode("latin-1")


def as_it_was(value: object) -> object:
    """Return an EXIF value so that it is written back unchanged."""
    return RawText(value) if isinstance(value, str) else value


def load_exif(image: Image.Image) -> Image.Exif:
    """Return an image's EXIF as in its file.

    Pillow's own method adds an orientation found only in XMP, which no browser applies.
    """
    if isinstance(image, TiffImageFile):
        return image.getexif()
    exif = Image.Exif()
    if "exif" in image.info:
        exif.load(image.info["exif"])
    return exif


def read_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 if there is none or it is damaged.

    No browser applies the orientation of a PNG whose EXIF is in a text chunk, and a HEIF file
    turns its image by itself: its EXIF, if it is right at all, repeats that.
    """
    if EXIF_IS_TEXT in image.info or image.format == "HEIF":
        return 1
    with contextlib.suppress(*EXIF_ERRORS):
        orientation = load_exif(image).get(Base.Orientation, 1)
        if orientation in range(1, 9):
            return int(orientation)
    return 1


def read_exif(image: Image.Image, keep: str) -> bytes | None:
    """Return the EXIF for the result.

    Parameters
    ----------
    keep : "all" except what would be wrong in the result, "safe" tags only, or "none"
    """
    if keep == "none":
        return None
    with contextlib.suppress(*EXIF_ERRORS):
        found = load_exif(image)
        # Damaged ones of the others must not be looked at: Pillow would warn of each.
        own = {
            tag: found[tag]
            for tag in found
            if tag in SAFE_TAGS or (keep == "all" and tag not in STALE_TAGS)
        }
        camera = {
            tag: value
            for tag, value in found.get_ifd(IFD.Exif).items()
            if tag in SAFE_CAMERA_TAGS or (keep == "all" and tag not in STALE_TAGS)
        }
        return build_exif(own, camera, found.get_ifd(IFD.GPSInfo) if keep == "all" else {})
    return None


def build_exif(
    own: Mapping[int, object], camera: Mapping[int, object], place: Mapping[int, object]
) -> bytes | None:
    """Write EXIF; None if it would be empty or too long.

    Parameters
    ----------
    own, camera, place : tags of the first directory, of the Exif one, and of the one for GPS
    """
    made = Image.Exif()
    for tag, value in own.items():
        if tag not in {Base.ExifOffset, Base.GPSInfo}:
            made[tag] = as_it_was(value)
    for directory, tags in ((IFD.Exif, camera), (IFD.GPSInfo, place)):
        if tags:
            made[directory] = {tag: as_it_was(value) for tag, value in tags.items()}
    content = made.tobytes().removeprefix(b"Exif\x00\x00") if len(made) else b""
    return content if 0 < len(content) <= MAX_EXIF_BYTES else None


def add_user_comment(exif: bytes | None, words: str) -> bytes | None:
    """Return EXIF with a user comment, unless it has one or would become too long.

    Parameters
    ----------
    exif : as returned by `read_exif`
    """
    known = Image.Exif()
    if exif is not None:
        known.load(exif)
    camera = known.get_ifd(IFD.Exif)
    if Base.UserComment in camera:
        return exif
    comment = UNICODE + words.encode("utf-16-be")
    made = build_exif(known, camera | {Base.UserComment: comment}, known.get_ifd(IFD.GPSInfo))
    return made or exif
