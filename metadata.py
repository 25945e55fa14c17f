"""What a picture's file says beside its pixels: colour profile, EXIF, resolution."""

import contextlib
from dataclasses import dataclass
from io import BytesIO

from PIL import Image, ImageCms
from PIL.ExifTags import IFD, Base

# Larger EXIF does not fit into a JPEG, and no camera writes it but for its preview.
MAX_EXIF_BYTES = 60_000
MAX_PROFILE_BYTES = 4 * 1024**2
# Reading the bytes of a damaged file may fail in any of these ways.
EXIF_ERRORS = (OSError, SyntaxError, ValueError, TypeError, LookupError, AttributeError)
# They tell who took the picture, with what and how; nothing of where, and no serial number.
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


def read_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 where there is none or it is damaged.

    What a PNG has behind its pixels counts when these are loaded: Pillow's own `getexif` would load
    them for it, a header check of 16 megapixels included.
    """
    with contextlib.suppress(*EXIF_ERRORS):
        orientation = Image.Image.getexif(image).get(Base.Orientation, 1)
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
        found = image.getexif()
        kept = Image.Exif()
        for tag, value in found.items():
            if tag in SAFE_TAGS or (keep == "all" and tag not in STALE_TAGS):
                kept[tag] = value
        camera = {
            tag: value
            for tag, value in found.get_ifd(IFD.Exif).items()
            if tag in SAFE_CAMERA_TAGS or (keep == "all" and tag not in STALE_TAGS)
        }
        if camera:
            kept[IFD.Exif] = camera
        place = found.get_ifd(IFD.GPSInfo) if keep == "all" else {}
        if place:
            kept[IFD.GPSInfo] = place
        content = kept.tobytes().removeprefix(b"Exif\x00\x00") if len(kept) else b""
        if 0 < len(content) <= MAX_EXIF_BYTES:
            return content
    return None


def read_dpi(image: Image.Image) -> tuple[float, float] | None:
    """Return the picture's resolution where the file states a sound one."""
    dpi = image.info.get("dpi")
    with contextlib.suppress(TypeError, ValueError, ZeroDivisionError, OverflowError):
        if isinstance(dpi, tuple) and len(dpi) == 2:
            horizontal, vertical = float(dpi[0]), float(dpi[1])
            if 1 <= horizontal <= 20_000 and 1 <= vertical <= 20_000:
                return horizontal, vertical
    return None


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


def convert_to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert samples that are neither RGB nor grey to sRGB, by their profile where it serves."""
    srgb = ImageCms.createProfile("sRGB")
    source: object = None
    if image.mode == "LAB":
        source = ImageCms.createProfile("LAB")
    elif profile is not None and profile_space(profile) == image.mode:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
    if source is not None:
        with contextlib.suppress(ImageCms.PyCMSError, ValueError):
            converted = ImageCms.profileToProfile(image, source, srgb, outputMode="RGB")  # type: ignore[arg-type]
            assert converted is not None
            return converted
    return image.convert("RGB")
