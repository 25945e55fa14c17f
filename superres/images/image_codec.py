"""Bytes -> pixels: header check before decoding, orientation, transparency, bit depth, profile.

Pixels are BGR inside the service, since that is what OpenCV's network and encoder expect.
Pillow is the decoder: `cv2.imdecode` applies the EXIF orientation of some images itself and
drops colour profiles. OpenCV only supplies the lower 8 bits of a PNG's 16-bit colour, which Pillow
drops; a TIFF's samples are assembled in `tiff.py`.
"""

from dataclasses import replace
from typing import BinaryIO, TypeVar

import numpy as np
from PIL import Image

from superres.errors import TooManyPixels, UndecodableImage, UnsupportedVariant
from superres.excess import Excess, compare
from superres.images.bit_depth import (
    DEEP_BITS,
    find_transparent_pixels,
    read_deep_colour,
    read_deep_grey,
    read_depth,
    scale_transparent_colour,
)
from superres.images.cut_files import IS_DAMAGED
from superres.images.exif import read_orientation
from superres.images.gif_file import find_small_frame
from superres.images.icc_profiles import make_profile
from superres.images.kept_metadata import read_metadata
from superres.images.metadata import (
    convert_to_srgb,
    fit_profile,
    profile_space,
    read_profile,
)
from superres.images.picture import ImageHeader, Picture
from superres.images.picture_file import (
    PictureFile,
    open_picture,
    open_tiff_picture,
    translate_decoder_errors,
)
from superres.images.pixels import DeepPixels, Pixels
from superres.images.png_file import HEADER_IS_DAMAGED
from superres.images.resampling import to_levels
from superres.images.tiff_directory import read_form

# Changes whenever this code may produce different bytes for the same upload: it is part of every
# result's name, like the libraries' versions (libraries.py).
CODEC_VERSION = "7"
# libpng's limit of 1,000,000 for a result's side, divided by the scale.
MAX_SIDE = 333_333
MAKE_SMALLER = "Make it smaller, or cut it into parts."
# EXIF orientations that swap width and height.
TURNED = frozenset({5, 6, 7, 8})
GREY_MODES = frozenset({"1", "L", "LA", "La"})
UNUSUAL_MODES = frozenset({"CMYK", "LAB", "HSV", "YCbCr"})
# The size is checked here, against the settings, before any pixel is decoded.
Image.MAX_IMAGE_PIXELS = None
Samples = TypeVar("Samples", Pixels, DeepPixels)


def open_image(file: BinaryIO, with_pixels: bool = False) -> PictureFile:
    """Read an image's header and reject what the service does not support.

    Parameters
    ----------
    with_pixels : see `open_picture`

    Raises
    ------
    UnsupportedUpload
        An unsupported format, an animation, several pages, or unsupported samples.
    UndecodableImage
        A supported format with a damaged header.
    """
    file.seek(0)
    with translate_decoder_errors(HEADER_IS_DAMAGED):
        form = read_form(file)
        if form is not None:
            return open_tiff_picture(file, form)
    picture = open_picture(file, with_pixels)
    image = picture.image
    with translate_decoder_errors(HEADER_IS_DAMAGED):
        # MPO is Pillow's name for the multi-picture JPEG of phones: its first image is the photo.
        if getattr(image, "is_animated", False) and image.format != "MPO":
            raise UnsupportedVariant(
                "Animations and multi-page files are not accepted; send a single image."
            )
    return picture


def read_header(file: BinaryIO, max_pixels: int) -> ImageHeader:
    """Check format and size without decoding.

    Raises
    ------
    TooManyPixels
        See `refuse_size`.
    UnsupportedUpload, UndecodableImage
        As `open_image`.
    """
    opened = open_image(file)
    image, samples = opened.image, opened.samples
    width, height = image.size
    if width < 1 or height < 1:
        raise UndecodableImage("The image has no pixels.")
    refuse_size(width, height, max_pixels)
    with translate_decoder_errors(HEADER_IS_DAMAGED):
        # Pillow swaps a TIFF's width and height itself.
        if read_orientation(image) in TURNED and image.format != "TIFF":
            width, height = height, width
        if samples is not None:
            return ImageHeader(width, height, samples.has_alpha, samples.is_deep)
        is_deep = read_depth(image, file) == DEEP_BITS or image.mode.startswith("I;16")
        has_alpha = image.has_transparency_data or find_small_frame(image) is not None
        return ImageHeader(width, height, has_alpha, is_deep)


def refuse_size(width: int, height: int, max_pixels: int) -> None:
    """Reject an upload that is too large.

    Raises
    ------
    TooManyPixels
        More than `max_pixels`, or a side longer than `MAX_SIDE`.
    """
    if width * height > max_pixels:
        found, allowed = compare(width * height, max_pixels, "pixels")
        raise TooManyPixels(
            f"The image has {found} ({width:,} x {height:,}); at most {allowed} are accepted. "
            f"{MAKE_SMALLER}",
            excess=Excess("input_pixels", max_pixels, width * height),
        )
    longest = max(width, height)
    if longest > MAX_SIDE:
        raise TooManyPixels(
            f"A side of the image has {longest:,} pixels; at most {MAX_SIDE:,} are accepted. "
            f"{MAKE_SMALLER}",
            excess=Excess("input_side", MAX_SIDE, longest),
        )


def turn_upright(array: Samples, orientation: int) -> Samples:
    """Undo an EXIF orientation, 1 to 8 (Exif 2.32, tag 274)."""
    if orientation in TURNED:
        array = array.swapaxes(0, 1)
    if orientation in {2, 3, 6, 7}:
        array = array[:, ::-1]
    if orientation in {3, 4, 7, 8}:
        array = array[::-1]
    return np.ascontiguousarray(array)


def convert_unusual(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, bytes | None]:
    """Convert samples that are neither RGB nor grey; return the image and its new profile."""
    is_rgb = profile is not None and profile_space(profile) == "RGB"
    # YCbCr and HSV are encodings of an RGB colour space.
    kept = profile if is_rgb and image.mode in {"YCbCr", "HSV"} else None
    return convert_to_srgb(image, profile), kept


def split_deep_grey(image: Image.Image) -> tuple[Pixels, Pixels | None, DeepPixels]:
    """Return pixels, alpha and deep of grey that Pillow reads as 16 bits: see `split_channels`."""
    grey = read_deep_grey(image)
    colour = image.info.get("transparency")
    alpha = None if colour is None else np.where(grey == colour, 0, 255).astype(np.uint8)
    return to_levels(grey), alpha, grey[:, :, np.newaxis]


def split_channels(
    opened: PictureFile, image: Image.Image
) -> tuple[Pixels, Pixels | None, DeepPixels | None]:
    """Return pixels, alpha and deep of an image that Pillow reads as 8 bits.

    Parameters
    ----------
    image : the opened one, or what it was converted to, in RGB or grey

    Returns
    -------
    as in `Picture`, EXIF orientation not applied

    Raises
    ------
    UndecodableImage
        OpenCV, which reads the lower 8 bits of a PNG's 16, cannot.
    """
    depth, colour = read_depth(opened.image, opened.file), image.info.get("transparency")
    scale_transparent_colour(image, depth)
    is_grey = image.mode in GREY_MODES or (opened.png is not None and opened.png.is_grey)
    has_alpha = image.has_transparency_data
    channels = np.asarray(image.convert("RGBA" if has_alpha else "RGB"))
    pixels, alpha = channels[:, :, 2::-1], channels[:, :, 3] if has_alpha else None
    deep: DeepPixels | None = None
    if depth == DEEP_BITS:
        deep = read_deep_colour(opened.file, pixels)
        if deep is None:
            raise UndecodableImage("The image's 16-bit samples are damaged.")
        exact = find_transparent_pixels(deep, colour)
        alpha = alpha if exact is None else exact
        deep = deep[:, :, 1:2] if is_grey else deep
        pixels = to_levels(deep)
        pixels = np.repeat(pixels, 3, axis=2) if is_grey else pixels
    return pixels[:, :, 1] if is_grey else pixels, alpha, deep


def decode_image(file: BinaryIO, keep_metadata: str = "safe") -> Picture:
    """Decode an image: upright, BGR or grey, with its bit depth and metadata.

    Parameters
    ----------
    keep_metadata : see `read_metadata`

    Raises
    ------
    UndecodableImage
        The pixels are damaged or cut short.
    UnsupportedUpload
        As `open_image`.
    """
    opened = open_image(file, with_pixels=True)
    frame = find_small_frame(opened.image)
    image, samples, signal = opened.image, opened.samples, opened.signal
    with translate_decoder_errors(IS_DAMAGED):
        if samples is None:
            opened.load()
        orientation = read_orientation(image)
        metadata, profile = read_metadata(opened, keep_metadata), read_profile(image)
        if signal is not None and signal.overrules_profile:
            profile = None
        if samples is not None:
            pixels, alpha, deep = samples.read(profile)
            profile = profile if samples.keeps_profile else None
        elif image.mode.startswith("I;16"):
            pixels, alpha, deep = split_deep_grey(image)
        else:
            converted = image
            if image.mode in UNUSUAL_MODES:
                converted, profile = convert_unusual(image, profile)
            pixels, alpha, deep = split_channels(opened, converted)
            if frame is not None:
                left, top, right, bottom = frame
                alpha = np.zeros(pixels.shape[:2], np.uint8)
                alpha[top:bottom, left:right] = 255
    if image.format == "BMP" and alpha is not None and not alpha.any():
        alpha = None  # many programs leave the unused alpha at zero
    profile, is_colour = fit_profile(profile, is_grey=pixels.ndim == 2)
    if is_colour:
        pixels = np.repeat(pixels[:, :, np.newaxis], 3, axis=2)
        deep = None if deep is None else np.repeat(deep, 3, axis=2)
    if profile is None and signal is not None and signal.colours is not None:
        profile = make_profile(signal.colours, is_grey=pixels.ndim == 2)
    chunks = None if signal is None else signal.chunks
    dpi = metadata.dpi
    if dpi is not None and orientation in TURNED:
        dpi = dpi[::-1]
    return Picture(
        turn_upright(pixels, orientation),
        None if alpha is None else turn_upright(alpha, orientation),
        None if deep is None else turn_upright(deep, orientation),
        replace(metadata, icc_profile=profile, dpi=dpi, colour_chunks=chunks),
    )
