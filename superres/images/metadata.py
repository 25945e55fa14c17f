"""What an image's file says beside its pixels: colour profile, EXIF, resolution."""

import contextlib
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms
from PIL.ExifTags import IFD, Base
from PIL.TiffImagePlugin import TiffImageFile

from superres.images.pixels import Pixels

# Larger EXIF does not fit into a JPEG, and no camera writes it but for its preview.
MAX_EXIF_BYTES = 60_000
MAX_PROFILE_BYTES = 4 * 1024**2
# Of EXIF and TIFF: a resolution without unit tells the pixels' shape alone, one without its tag is
# by the inch. Of JFIF likewise, by other numbers.
NO_UNIT, INCH, CENTIMETRE = 1, 2, 3
JFIF_INCHES = {1: 1, 2: 2.54}
INCHES = {INCH: 1, CENTIMETRE: 2.54}
# By how many levels a profile may move greys that stand for those of sRGB.
MAX_GREY_SHIFT = 1
# What a PNG's information is called where its EXIF is a text of ImageMagick's.
EXIF_IS_TEXT = "exif is text"
# Reading the bytes of a damaged file may fail in any of these ways.
EXIF_ERRORS = (OSError, SyntaxError, ValueError, TypeError, LookupError, AttributeError)
# They tell who took the image, with what and how; nothing of where, and no serial number.
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
    }
)
# Of the file as it was: its layout, its preview, its size and its orientation.
STALE_TAGS = frozenset(
    {
        *range(Base.NewSubfileType, Base.PhotometricInterpretation + 1),
        *(Base.StripOffsets, Base.SamplesPerPixel, Base.RowsPerStrip, Base.StripByteCounts),
        *(Base.PlanarConfiguration, Base.Predictor, Base.TileWidth, Base.TileLength),
        *(Base.TileOffsets, Base.TileByteCounts, Base.SampleFormat, Base.ColorMap),
        *(Base.Orientation, Base.JpegIFOffset, Base.JpegIFByteCount, Base.InterColorProfile),
        *(Base.XResolution, Base.YResolution, Base.ResolutionUnit, Base.XMLPacket),
        *(Base.ExifImageWidth, Base.ExifImageHeight, Base.MakerNote, Base.ExifOffset, Base.GPSInfo),
    }
)


class RawText(str):
    """Text of EXIF that is written back as the bytes it was.

    Pillow reads each byte as a letter of Latin-1, and writes a question mark for all but ASCII: `©`
    and names in UTF-8 did not survive.
    """

    def encode(self, encoding: str = "latin-1", errors: str = "strict") -> bytes:
        """Return the bytes, whatever encoding is asked for."""
        return super().encode("latin-1")


def as_it_was(value: object) -> object:
    """Return a value of EXIF so that it is written back unchanged."""
    return RawText(value) if isinstance(value, str) else value


@dataclass(frozen=True)
class Metadata:
    """What is carried over into the result.

    Attributes
    ----------
    icc_profile : None means sRGB, or plain grey
    exif : a TIFF structure without the "Exif" header; None: nothing
    dpi : pixels an inch, horizontally and vertically
    """

    icc_profile: bytes | None = None
    exif: bytes | None = None
    dpi: tuple[float, float] | None = None


def load_exif(image: Image.Image) -> Image.Exif:
    """Return an image's EXIF as its file has it.

    Pillow's own adds an orientation that is in XMP alone, by which no browser turns an image.
    """
    if isinstance(image, TiffImageFile):
        return image.getexif()
    exif = Image.Exif()
    if "exif" in image.info:
        exif.load(image.info["exif"])
    return exif


def drop_xmp(image: Image.Image) -> None:
    """Forget an image's XMP: Pillow turns a TIFF by it when its pixels are loaded."""
    for name in ("xmp", "XML:com.adobe.xmp"):
        image.info.pop(name, None)


def read_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 where there is none or it is damaged.

    No browser turns a PNG whose EXIF is written as text.
    """
    if EXIF_IS_TEXT in image.info:
        return 1
    with contextlib.suppress(*EXIF_ERRORS):
        orientation = load_exif(image).get(Base.Orientation, 1)
        if orientation in range(1, 9):
            return int(orientation)
    return 1


def read_exif(image: Image.Image, keep: str) -> bytes | None:
    """Return the EXIF that the result shall have.

    Parameters
    ----------
    keep : "all" but what is wrong in the result, "safe" tags alone, or "none"
    """
    if keep == "none":
        return None
    with contextlib.suppress(*EXIF_ERRORS):
        found = load_exif(image)
        kept = Image.Exif()
        for tag, value in found.items():
            if tag in SAFE_TAGS or (keep == "all" and tag not in STALE_TAGS):
                kept[tag] = as_it_was(value)
        camera = {
            tag: as_it_was(value)
            for tag, value in found.get_ifd(IFD.Exif).items()
            if tag in SAFE_CAMERA_TAGS or (keep == "all" and tag not in STALE_TAGS)
        }
        if camera:
            kept[IFD.Exif] = camera
        place = found.get_ifd(IFD.GPSInfo) if keep == "all" else {}
        if place:
            kept[IFD.GPSInfo] = {tag: as_it_was(value) for tag, value in place.items()}
        content = kept.tobytes().removeprefix(b"Exif\x00\x00") if len(kept) else b""
        if 0 < len(content) <= MAX_EXIF_BYTES:
            return content
    return None


def read_dpi(image: Image.Image) -> tuple[float, float] | None:
    """Return the image's resolution where the file states a sound one."""
    with contextlib.suppress(*EXIF_ERRORS, ZeroDivisionError, OverflowError):
        dpi = find_dpi(image)
        if isinstance(dpi, tuple) and len(dpi) == 2:
            horizontal, vertical = float(dpi[0]), float(dpi[1])
            # One pixel an inch is what writers leave there that know none.
            if 1 < horizontal <= 20_000 and 1 < vertical <= 20_000:
                return horizontal, vertical
    return None


def find_dpi(image: Image.Image) -> object:
    """Return the resolution that the file itself states; Pillow's defaults are no data.

    Pillow says 1 for a TIFF without it, and 72 for a JPEG that has EXIF without it.
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
    """Return the embedded colour profile where it is sound."""
    profile: bytes | None = image.info.get("icc_profile")
    if not profile or len(profile) > MAX_PROFILE_BYTES:
        return None
    with contextlib.suppress(ImageCms.PyCMSError, OSError, ValueError):
        ImageCms.ImageCmsProfile(BytesIO(profile))
        return profile
    return None


def profile_space(profile: bytes) -> str:
    """Return the colour space of a sound profile's samples: RGB, GRAY, CMYK, Lab."""
    return ImageCms.ImageCmsProfile(BytesIO(profile)).profile.xcolor_space.strip()


def fit_profile(profile: bytes | None, is_grey: bool) -> tuple[bytes | None, bool]:
    """Return the profile of the samples, and whether they have to become colour for it.

    As browsers do it: a grey image's RGB profile holds for its greys, a colour image's grey
    profile for nothing. No format but JPEG has grey samples with an RGB profile.
    """
    space = None if profile is None else profile_space(profile)
    if space == ("GRAY" if is_grey else "RGB"):
        return profile, False
    if is_grey and space == "RGB" and profile is not None and moves_greys(profile):
        return profile, True
    return None, False


def moves_greys(profile: bytes) -> bool:
    """Tell whether the greys of an RGB profile are others than sRGB's, which plain greys are."""
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[np.newaxis]).convert("RGB")
    converted = convert_profile(ramp, ImageCms.ImageCmsProfile(BytesIO(profile)))
    if converted is None:
        return False
    shifts = np.asarray(converted).astype(int) - np.asarray(ramp)
    return int(np.abs(shifts).max()) > MAX_GREY_SHIFT


def greys_in_srgb(profile: bytes) -> Pixels:
    """Return what each of the 256 greys of a grey profile is in sRGB, (256,) uint8."""
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[np.newaxis])
    converted = convert_profile(ramp, ImageCms.ImageCmsProfile(BytesIO(profile)))
    return np.asarray(ramp if converted is None else converted.getchannel("G"), np.uint8).ravel()


def convert_profile(image: Image.Image, source: object) -> Image.Image | None:
    """Convert samples to sRGB; None where their profile does not serve."""
    srgb = ImageCms.createProfile("sRGB")
    with contextlib.suppress(ImageCms.PyCMSError, ValueError):
        return ImageCms.profileToProfile(image, source, srgb, outputMode="RGB")  # type: ignore[arg-type]
    return None


def convert_to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert samples that are neither RGB nor grey to sRGB, by their profile where it serves."""
    source: object = None
    if image.mode == "LAB":
        source = ImageCms.createProfile("LAB")
    elif profile is not None and profile_space(profile) == image.mode:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
    converted = None if source is None else convert_profile(image, source)
    return image.convert("RGB") if converted is None else converted
