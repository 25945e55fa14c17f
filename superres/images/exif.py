"""EXIF: what of it a result keeps, and the orientation."""

import contextlib
import struct
from collections.abc import Mapping
from operator import itemgetter

from PIL import Image
from PIL.ExifTags import GPS, IFD, Base
from PIL.TiffImagePlugin import TiffImageFile

# Cameras only exceed this with previews. A JPEG's segment has less room.
MAX_EXIF_BYTES, MAX_SEGMENT_EXIF = 1024**2, 65_500
XMP_TAG, IPTC_TAG, PHOTOSHOP_TAG, LAYERS_TAG = 700, 33723, 34377, 37724
SUBJECT_AREA = 0x9214  # Pillow has no name for it
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
        # in pixels of the original
        *(SUBJECT_AREA, Base.SubjectLocation, Base.FocalPlaneXResolution),
        *(Base.FocalPlaneYResolution, Base.FocalPlaneResolutionUnit),
        # of TIFF: IPTC and Photoshop's resources, which are read on their own, and its layers
        *(IPTC_TAG, PHOTOSHOP_TAG, LAYERS_TAG),
    }
)

# Types of TIFF (6.0, section 2), and tags for which Pillow writes another of the same size: BYTE
# for any bytes, and RATIONAL for any number that is not negative.
BYTE, RATIONAL, UNDEFINED, SIGNED_RATIONAL = 1, 5, 7, 10
UNDEFINED_TAGS: frozenset[int] = frozenset(
    {
        *(Base.OECF, Base.ExifVersion, Base.ComponentsConfiguration, Base.UserComment),
        *(Base.FlashPixVersion, Base.SpatialFrequencyResponse, Base.FileSource, Base.SceneType),
        *(Base.CFAPattern, Base.DeviceSettingDescription),
    }
)
SIGNED_TAGS = frozenset({Base.ShutterSpeedValue, Base.BrightnessValue, Base.ExposureBiasValue})
UNDEFINED_GPS_TAGS: frozenset[int] = frozenset({GPS.GPSProcessingMethod, GPS.GPSAreaInformation})
ENTRY = struct.Struct(">HHII")


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
    own: Mapping[int, object],
    camera: Mapping[int, object],
    place: Mapping[int, object],
    max_bytes: int = MAX_EXIF_BYTES,
) -> bytes | None:
    """Write EXIF, big-endian; None if it would be empty.

    Parameters
    ----------
    own, camera, place : tags of the first directory, of the Exif one, and of the one for GPS
    max_bytes : of the result; the longest values are left out
    """
    first = {tag: own[tag] for tag in own if tag not in {Base.ExifOffset, Base.GPSInfo}}
    second, third = dict(camera), dict(place)
    comment = second.get(Base.UserComment)
    if isinstance(comment, bytes):
        second[Base.UserComment] = order_comment(comment)
    while first or second or third:
        made = Image.Exif()
        made.endian = ">"
        for tag, value in first.items():
            made[tag] = as_it_was(value)
        for directory, tags in ((IFD.Exif, second), (IFD.GPSInfo, third)):
            if tags:
                made[directory] = {tag: as_it_was(value) for tag, value in tags.items()}
        content = made.tobytes().removeprefix(b"Exif\0\0")
        if len(content) <= max_bytes:
            return correct_types(content)
        _, tag, tags = max(
            (
                (measure_value(value), tag, tags)
                for tags in (first, second, third)
                for tag, value in tags.items()
            ),
            key=itemgetter(0),
        )
        del tags[tag]
    return None


def measure_value(value: object) -> int:
    """Return how many bytes a value takes, roughly."""
    if isinstance(value, tuple):
        return 8 * len(value)
    return len(value) if isinstance(value, str | bytes) else 8


def order_comment(comment: bytes) -> bytes:
    """Return a user comment with its UTF-16 big-endian, as the EXIF that is written."""
    text = comment[len(UNICODE) :]
    # Text in most scripts has a high byte of zero for each space, at least.
    if comment.startswith(UNICODE) and text[1::2].count(0) > text[::2].count(0):
        return UNICODE + text.decode("utf-16-le", "replace").encode("utf-16-be", "replace")
    return comment


def correct_types(content: bytes) -> bytes:
    """Give the tags of written EXIF the types that Exif 2.32 states, of the same size."""
    corrected = bytearray(content)
    (offset,) = struct.unpack_from(">I", content, 4)
    directories: list[tuple[int, frozenset[int]]] = [(offset, UNDEFINED_TAGS)]
    for offset, undefined in directories:
        (count,) = struct.unpack_from(">H", content, offset)
        for at in range(offset + 2, offset + 2 + ENTRY.size * count, ENTRY.size):
            tag, kind, _, value = ENTRY.unpack_from(content, at)
            if tag == Base.ExifOffset:
                directories.append((value, UNDEFINED_TAGS))
            elif tag == Base.GPSInfo:
                directories.append((value, UNDEFINED_GPS_TAGS))
            elif kind == BYTE and tag in undefined:
                struct.pack_into(">H", corrected, at + 2, UNDEFINED)
            elif kind == RATIONAL and tag in SIGNED_TAGS and undefined is UNDEFINED_TAGS:
                struct.pack_into(">H", corrected, at + 2, SIGNED_RATIONAL)
    return bytes(corrected)


def shorten_exif(exif: bytes, max_bytes: int) -> bytes | None:
    """Leave out the longest values of EXIF that is longer than that.

    Parameters
    ----------
    exif : as returned by `read_exif`
    """
    if len(exif) <= max_bytes:
        return exif
    known = Image.Exif()
    known.load(exif)
    return build_exif(known, known.get_ifd(IFD.Exif), known.get_ifd(IFD.GPSInfo), max_bytes)


def add_user_comment(exif: bytes | None, words: str) -> bytes | None:
    """Return EXIF with a user comment, unless it has one.

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
    return build_exif(known, camera | {Base.UserComment: comment}, known.get_ifd(IFD.GPSInfo))
