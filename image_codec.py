"""Bytes <-> pixels: header check before decoding, orientation, transparency, encoder.

Pixels are BGR inside the service, since that is what OpenCV's network and encoder want.
Pillow is the only decoder: `cv2.imdecode` turns pictures by their EXIF orientation itself and
drops colour profiles.
"""

import contextlib
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO

import cv2
import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from errors import TooManyPixels, UndecodableImage, UnsupportedUpload
from tiling import Pixels

# Changes whenever the same upload may give other bytes: it is part of every result's name.
CODEC_VERSION = "1"
ACCEPTED_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")
ACCEPTED_NAMES = "PNG, JPEG, WebP, TIFF, BMP"
# Adaptive filters and deflate level 4: 0.7 microseconds per input pixel and 3 % larger than
# Pillow's default, which takes 1.9 (photographs); drawn graphics stay within 10 % too.
PNG_PARAMETERS = (
    cv2.IMWRITE_PNG_COMPRESSION,
    4,
    cv2.IMWRITE_PNG_FILTER,
    cv2.IMWRITE_PNG_ALL_FILTERS,
    cv2.IMWRITE_PNG_STRATEGY,
    cv2.IMWRITE_PNG_STRATEGY_FILTERED,
)
# libpng writes no side of a result longer than 1,000,000.
MAX_SIDE = 333_333
# The tiles of a TIFF may be larger than the picture, and are decoded whole: 16x16 pixels in a tile
# of 14000x14000 took 600 MB.
MAX_TIFF_TILE_PIXELS = 1024**2
TIFF_TILE_WIDTH, TIFF_TILE_LENGTH = 322, 323
# Where a PNG's header has its bit depth.
PNG_BIT_DEPTH_OFFSET = 24
# What Pillow's decoders raise for damaged files, each seen or documented there.
DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    EOFError,
    struct.error,
    zlib.error,
)
# The size is checked here, against the settings, before any pixel is decoded.
Image.MAX_IMAGE_PIXELS = None


@dataclass(frozen=True)
class ImageHeader:
    """What a picture's header says, before decoding: size in pixels, transparency."""

    width: int
    height: int
    has_alpha: bool

    @property
    def pixels(self) -> int:
        """Number of pixels."""
        return self.width * self.height


@dataclass(frozen=True)
class Picture:
    """A decoded picture, upright.

    Attributes
    ----------
    bgr : (H, W, 3) uint8
    alpha : (H, W) uint8, 255 is opaque; None where the file has no transparency
    icc_profile : the RGB colour profile of `bgr`; None means sRGB
    """

    bgr: Pixels
    alpha: Pixels | None = None
    icc_profile: bytes | None = None


@contextlib.contextmanager
def translate_decoder_errors(message: str) -> Iterator[None]:
    """Turn what a decoder raises for damaged files into UndecodableImage."""
    try:
        yield
    except DECODER_ERRORS as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # reading the file failed: a fault of this machine
        raise UndecodableImage(message) from None


def open_image(file: BinaryIO) -> Image.Image:
    """Read a picture's header and refuse what the service does not take.

    Raises
    ------
    UnsupportedUpload
        No accepted format, or an animation or several pages.
    UndecodableImage
        An accepted format with a damaged header.
    """
    file.seek(0)
    with translate_decoder_errors("The picture's header is damaged."):
        try:
            image = Image.open(file, formats=ACCEPTED_FORMATS)
        except UnidentifiedImageError:
            raise UnsupportedUpload(
                f"The file is no picture of an accepted format ({ACCEPTED_NAMES})."
            ) from None
        # MPO is what Pillow calls the multi-picture JPEG of phones: its first picture is the photo.
        if getattr(image, "is_animated", False) and image.format != "MPO":
            raise UnsupportedUpload("Animations and files of several pages are not accepted.")
        if isinstance(image, TiffImageFile):
            tile = image.tag_v2.get(TIFF_TILE_WIDTH, 0) * image.tag_v2.get(TIFF_TILE_LENGTH, 0)
            if tile > max(image.width * image.height, MAX_TIFF_TILE_PIXELS):
                raise UndecodableImage("The picture's tiles are larger than the picture.")
    return image


def read_header(file: BinaryIO, max_pixels: int) -> ImageHeader:
    """Check format and size without decoding.

    Raises
    ------
    TooManyPixels
        More than `max_pixels`, or a side that no result can have.
    UnsupportedUpload, UndecodableImage
        As `open_image`.
    """
    image = open_image(file)
    width, height = image.size
    if width < 1 or height < 1:
        raise UndecodableImage("The picture has no pixels.")
    if width * height > max_pixels or max(width, height) > MAX_SIDE:
        raise TooManyPixels(
            f"The picture has {width} x {height} pixels; at most {max_pixels:,} are accepted, "
            f"and {MAX_SIDE:,} a side."
        )
    return ImageHeader(width, height, image.has_transparency_data)


def read_greatest_sample(image: Image.Image, file: BinaryIO) -> int:
    """Return what stands for white in the file: 2**bits - 1 for a PNG, else 255."""
    if image.format != "PNG":
        return 255
    file.seek(PNG_BIT_DEPTH_OFFSET)
    return int(2 ** file.read(1)[0]) - 1


def to_eight_bits(image: Image.Image, greatest_sample: int) -> Image.Image:
    """Convert 16-bit grey to 8 bits, and a transparent colour to the scale of 8-bit samples.

    Pillow's own conversion clips at 255, and its transparent colour stays on the file's scale.
    """
    colour = image.info.get("transparency")
    if image.mode.startswith("I;16"):
        samples = np.asarray(image).astype(np.uint32)
        grey = Image.fromarray(((samples + 128) // 257).astype(np.uint8))
        if colour is None:
            return grey
        opaque = Image.fromarray(np.where(samples == colour, 0, 255).astype(np.uint8))
        return Image.merge("LA", (grey, opaque))
    if image.mode in {"I", "F"}:
        raise UnsupportedUpload("Pictures of 32 bits a sample are not accepted.")
    if isinstance(colour, tuple):
        image.info["transparency"] = tuple(sample * 255 // greatest_sample for sample in colour)
    elif isinstance(colour, int) and image.mode == "L":
        image.info["transparency"] = colour * 255 // greatest_sample
    return image


def read_rgb_profile(image: Image.Image) -> bytes | None:
    """Return the embedded colour profile where it is sound and describes RGB samples."""
    profile: bytes | None = image.info.get("icc_profile")
    if not profile or image.mode not in {"RGB", "RGBA", "P"}:
        return None
    try:
        space = ImageCms.ImageCmsProfile(BytesIO(profile)).profile.xcolor_space
    except (ImageCms.PyCMSError, OSError):
        return None
    return profile if space.strip() == "RGB" else None


def decode_image(file: BinaryIO) -> Picture:
    """Decode a picture: turned upright by its EXIF orientation, 8 bits, BGR.

    Raises
    ------
    UndecodableImage
        The pixels are damaged or cut short.
    UnsupportedUpload
        As `open_image`, or a sample format that 8 bits cannot show.
    """
    image = open_image(file)
    with translate_decoder_errors("The picture is damaged or cut short."):
        greatest_sample = read_greatest_sample(image, file)
        image.load()
        with contextlib.suppress(*DECODER_ERRORS):  # damaged EXIF says nothing of orientation
            image = ImageOps.exif_transpose(image)
        profile = read_rgb_profile(image)
        image = to_eight_bits(image, greatest_sample)
        has_alpha = image.has_transparency_data
        rgb = np.asarray(image.convert("RGBA" if has_alpha else "RGB"))
    bgr = np.ascontiguousarray(rgb[:, :, 2::-1])
    alpha = np.ascontiguousarray(rgb[:, :, 3]) if has_alpha else None
    return Picture(bgr, alpha, profile)


def stack_alpha(picture: Picture) -> Pixels:
    """Return (H, W, 3) BGR, or (H, W, 4) BGRA where the picture has transparency."""
    if picture.alpha is None:
        return picture.bgr
    return np.dstack([picture.bgr, picture.alpha])


def encode_png(picture: Picture) -> memoryview:
    """Encode as PNG with the picture's colour profile."""
    pixels = stack_alpha(picture)
    if picture.icc_profile is not None:
        profile = np.frombuffer(picture.icc_profile, np.uint8)
        written, encoded = cv2.imencodeWithMetadata(
            ".png", pixels, [cv2.IMAGE_METADATA_ICCP], [profile], PNG_PARAMETERS
        )
        if written:
            return encoded.data
        # libpng refuses some profiles that decoders pass on; the picture is worth more.
    written, encoded = cv2.imencode(".png", pixels, PNG_PARAMETERS)
    if not written:
        raise MemoryError("OpenCV could not encode the result")
    return encoded.data


def to_pil(picture: Picture) -> Image.Image:
    """Return the picture as a Pillow image, RGB or RGBA."""
    pixels = stack_alpha(picture)
    order = [2, 1, 0, 3][: pixels.shape[2]]
    image = Image.fromarray(np.ascontiguousarray(pixels[:, :, order]))
    if picture.icc_profile is not None:
        image.info["icc_profile"] = picture.icc_profile
    return image
