"""An image's metadata; its colour profile and resolution."""

import contextlib
import struct
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms
from PIL.ExifTags import Base

from superres.images.exif import EXIF_ERRORS, load_exif
from superres.images.pixels import Pixels

MAX_PROFILE_BYTES = 4 * 1024**2
# LittleCMS reads as many tags, and real profiles have up to five processing elements.
MAX_TAGS, MAX_ELEMENTS = 100, 16
PROFILE_TABLE_AT = 128
# EXIF and TIFF: a resolution with no unit only gives the pixels' aspect ratio; a missing unit tag
# means inches. JFIF has the same units under other numbers.
INCH, CENTIMETRE = 2, 3
JFIF_INCHES = {1: 1, 2: 2.54}
INCHES = {INCH: 1, CENTIMETRE: 2.54}
# By how many levels a profile may shift greys that still count as those of sRGB.
MAX_GREY_SHIFT = 1


@dataclass(frozen=True)
class Metadata:
    """Metadata that is carried over into the result.

    Attributes
    ----------
    icc_profile : None means sRGB, or plain grey
    exif : a TIFF structure without the "Exif" header, or None
    dpi : pixels per inch, horizontally and vertically
    xmp : a packet, or None
    iptc : datasets of IPTC-IIM, or None
    texts : text chunks as in a PNG, or None
    colour_chunks : PNG chunks, whole, that say beside the profile what the samples mean, or None
    """

    icc_profile: bytes | None = None
    exif: bytes | None = None
    dpi: tuple[float, float] | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    texts: bytes | None = None
    colour_chunks: bytes | None = None


def read_dpi(image: Image.Image) -> tuple[float, float] | None:
    """Return the image's resolution if the file states a plausible one."""
    with contextlib.suppress(*EXIF_ERRORS, ZeroDivisionError, OverflowError):
        dpi = find_dpi(image)
        if isinstance(dpi, tuple) and len(dpi) == 2:
            horizontal, vertical = float(dpi[0]), float(dpi[1])
            # Writers that do not know the resolution leave one pixel per inch.
            if 1 < horizontal <= 20_000 and 1 < vertical <= 20_000:
                return horizontal, vertical
    return None


def find_dpi(image: Image.Image) -> object:
    """Return the resolution that the file itself states, rather than Pillow's defaults.

    Pillow reports 1 for a TIFF without one, and 72 for a JPEG whose EXIF has none.
    """
    if image.format in {"PNG", "BMP"} and "dpi" in image.info:
        return image.info["dpi"]
    density = image.info.get("jfif_density")
    inches = JFIF_INCHES.get(image.info.get("jfif_unit", 0))
    if density is not None and inches is not None:
        return tuple(each * inches for each in density)
    exif = load_exif(image)
    unit = INCHES.get(exif.get(Base.ResolutionUnit, INCH))
    if unit is None or Base.XResolution not in exif or Base.YResolution not in exif:
        return None
    return float(exif[Base.XResolution]) * unit, float(exif[Base.YResolution]) * unit


def read_profile(image: Image.Image) -> bytes | None:
    """Return the embedded colour profile if it is valid."""
    profile: bytes | None = image.info.get("icc_profile")
    if not profile or len(profile) > MAX_PROFILE_BYTES or is_overlong(profile):
        return None
    with contextlib.suppress(ImageCms.PyCMSError, OSError, ValueError):
        profile_space(profile)  # a damaged name of the colour space is a UnicodeDecodeError
        return profile
    return None


def is_overlong(profile: bytes) -> bool:
    """Tell whether a profile lists many processing elements (ICC.1:2022, 10.16).

    Each may name the same few bytes: 10,000 of them in 500 bytes cost LittleCMS five seconds.
    """
    (count,) = struct.unpack_from(">I", profile.ljust(PROFILE_TABLE_AT + 4), PROFILE_TABLE_AT)
    for at in range(PROFILE_TABLE_AT + 4, PROFILE_TABLE_AT + 4 + 12 * min(count, MAX_TAGS), 12):
        entry = profile[at : at + 8]
        if len(entry) == 8 and entry[:3] in {b"D2B", b"B2D"}:
            (offset,) = struct.unpack(">I", entry[4:])
            if int.from_bytes(profile[offset + 12 : offset + 16], "big") > MAX_ELEMENTS:
                return True
    return bool(count > MAX_TAGS)


def profile_space(profile: bytes) -> str:
    """Return the colour space of a valid profile's samples: RGB, GRAY, CMYK, Lab."""
    return ImageCms.ImageCmsProfile(BytesIO(profile)).profile.xcolor_space.strip()


def fit_profile(profile: bytes | None, is_grey: bool) -> tuple[bytes | None, bool]:
    """Return the profile of the samples, and whether they must be converted to colour for it.

    As in browsers: a grey image's RGB profile applies to its greys, and a colour image's grey
    profile is ignored. Only JPEG can have grey samples with an RGB profile.
    """
    space = None if profile is None else profile_space(profile)
    if space == ("GRAY" if is_grey else "RGB"):
        return profile, False
    if is_grey and space == "RGB" and profile is not None and moves_greys(profile):
        return profile, True
    return None, False


def moves_greys(profile: bytes) -> bool:
    """Tell whether the greys of an RGB profile differ from sRGB's, the default for greys."""
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[np.newaxis]).convert("RGB")
    converted = convert_profile(ramp, ImageCms.ImageCmsProfile(BytesIO(profile)))
    if converted is None:
        return False
    shifts = np.asarray(converted).astype(int) - np.asarray(ramp)
    return int(np.abs(shifts).max()) > MAX_GREY_SHIFT


def greys_in_srgb(profile: bytes) -> Pixels:
    """Return the sRGB value of each of the 256 greys of a grey profile, (256,) uint8."""
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[np.newaxis])
    converted = convert_profile(ramp, ImageCms.ImageCmsProfile(BytesIO(profile)))
    return np.asarray(ramp if converted is None else converted.getchannel("G"), np.uint8).ravel()


def convert_profile(image: Image.Image, source: object) -> Image.Image | None:
    """Convert samples to sRGB; None if their profile is unusable."""
    srgb = ImageCms.createProfile("sRGB")
    with contextlib.suppress(ImageCms.PyCMSError, ValueError):
        return ImageCms.profileToProfile(image, source, srgb, outputMode="RGB")  # type: ignore[arg-type]
    return None


def convert_to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert samples that are neither RGB nor grey to sRGB, with their profile if usable."""
    source: object = None
    if image.mode == "LAB":
        source = ImageCms.createProfile("LAB")
    elif profile is not None and profile_space(profile) == image.mode:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
    converted = None if source is None else convert_profile(image, source)
    return image.convert("RGB") if converted is None else converted
