"""Pixels -> bytes: PNG, WebP, JPEG and AVIF with the image's metadata."""

import struct
import zlib
from dataclasses import replace
from io import BytesIO
from typing import BinaryIO

import numpy as np
from PIL import Image

from superres.errors import TooManyPixels
from superres.excess import Excess, compare
from superres.images.formats import FORMATS
from superres.images.metadata import Metadata, greys_in_srgb
from superres.images.options import Options
from superres.images.picture import Picture
from superres.images.png_file import (
    GREY,
    GREY_ALPHA,
    HEADER,
    METRES_AN_INCH,
    RGB,
    SIGNATURE,
    make_chunk,
)
from superres.images.png_strips import make_data_chunks
from superres.images.result_metadata import (
    find_comment,
    fit_metadata,
    make_iptc_segment,
    make_text_chunks,
)

EXIF_HEADER = b"Exif\x00\x00"
# libaom's own default takes ten times as long for 1 % smaller files.
AVIF_SPEED = 8
WEBP_METHOD = 4
# For lossless WebP, Pillow's quality is the compression effort.
WEBP_LOSSLESS_EFFORT = 50
WHITE = 255
# At a time, on their way to Pillow.
BAND_PIXELS = 2**16


def check_result_size(width: int, height: int, options: Options, max_pixels: int) -> None:
    """Check a result's size before anything is computed.

    Raises
    ------
    TooManyPixels
        More than `max_pixels`, or a side that is too long for the format.
    """
    if width * height > max_pixels:
        found, allowed = compare(width * height, max_pixels, "pixels")
        raise TooManyPixels(
            f"The result would have {found} ({width:,} x {height:,}); at most {allowed} are "
            "allowed. Choose a smaller scale, width or height.",
            excess=Excess("output_pixels", max_pixels, width * height),
        )
    most, longest = FORMATS[options.format].max_side, max(width, height)
    if longest > most:
        raise TooManyPixels(
            f"A side of the result would have {longest:,} pixels; {options.format} has at most "
            f"{most:,}. Choose another format, such as png, or a smaller size.",
            excess=Excess("output_side", most, longest),
        )


def encode_picture(picture: Picture, options: Options) -> memoryview:
    """Return a result as a file: see `write_picture`."""
    buffer = BytesIO()
    write_picture(picture, options, buffer)
    return buffer.getbuffer()


def write_picture(picture: Picture, options: Options, file: BinaryIO) -> None:
    """Encode a result in the format that its options ask for.

    Only PNG has 16 bits, and grey with transparency; for JPEG, transparency is flattened on white.
    Rows are forgotten (`Picture.forget_rows`) as soon as they have been read.
    """
    if options.format == "png":
        write_png(picture, file)
        return
    metadata = fit_metadata(picture.metadata, picture.size, options.format)
    parameters: dict[str, object] = {}
    if options.format == "webp":
        quality = WEBP_LOSSLESS_EFFORT if options.quality is None else options.quality
        parameters = {"quality": quality, "method": WEBP_METHOD}
        # exact: keeps colours under full transparency, for editors and for scaling.
        parameters |= {"lossless": options.quality is None, "exact": True}
    elif options.format == "jpeg":
        parameters = {"quality": options.quality, "dpi": metadata.dpi or (0, 0)}
        parameters |= {"extra": make_iptc_segment(metadata), "comment": find_comment(metadata)}
    else:
        parameters = {"quality": options.quality, "speed": AVIF_SPEED}
    if picture.is_grey and metadata.icc_profile is not None and options.format != "jpeg":
        # These formats have no grey, and a grey profile is invalid for colour.
        pixels = greys_in_srgb(metadata.icc_profile)[picture.pixels]
        metadata = replace(metadata, icc_profile=None)
        picture = Picture(pixels, picture.alpha)
    if metadata.icc_profile is not None:
        parameters["icc_profile"] = metadata.icc_profile
    if metadata.exif is not None:
        parameters["exif"] = EXIF_HEADER + metadata.exif
    if metadata.xmp is not None:
        parameters["xmp"] = metadata.xmp
    image = make_image(picture, FORMATS[options.format].has_alpha)
    image.save(file, options.format.upper(), **parameters)


def flatten(picture: Picture) -> Picture:
    """Flatten an image with transparency on white."""
    if picture.alpha is None:
        return picture
    alpha = picture.alpha if picture.is_grey else picture.alpha[:, :, np.newaxis]
    share = alpha.astype(np.uint16)
    mixed = (picture.pixels * share + WHITE * (WHITE - share) + WHITE // 2) // WHITE
    return Picture(mixed.astype(np.uint8), metadata=picture.metadata)


def encode_png(picture: Picture) -> memoryview:
    """Return an image as a PNG file: see `write_png`."""
    buffer = BytesIO()
    write_png(picture, buffer)
    return buffer.getbuffer()


def write_png(picture: Picture, file: BinaryIO) -> None:
    """Encode as PNG: 8 or 16 bits, grey or colour, with the metadata in its own chunks."""
    # Colour types are sums (PNG 3rd edition, 11.2.1).
    colour_type = GREY if picture.is_grey else RGB
    colour_type += GREY if picture.alpha is None else GREY_ALPHA
    depth = 8 if picture.deep is None else 16
    file.write(SIGNATURE)
    file.write(make_chunk(b"IHDR", HEADER.pack(*picture.size, depth, colour_type, 0, 0, 0)))
    file.writelines(make_chunks(fit_metadata(picture.metadata, picture.size, "png")))
    file.writelines(make_data_chunks(picture))
    file.write(make_chunk(b"IEND", b""))


def make_chunks(metadata: Metadata) -> list[bytes]:
    """Return the PNG chunks for an image's metadata (PNG 3rd edition, 11.3)."""
    chunks = [] if metadata.colour_chunks is None else [metadata.colour_chunks]
    if metadata.icc_profile is not None:
        profile = b"icc\x00\x00" + zlib.compress(metadata.icc_profile)
        chunks.append(make_chunk(b"iCCP", profile))
    if metadata.dpi is not None:
        horizontal, vertical = (round(dpi / METRES_AN_INCH) for dpi in metadata.dpi)
        chunks.append(make_chunk(b"pHYs", struct.pack(">IIB", horizontal, vertical, 1)))
    if metadata.exif is not None:
        chunks.append(make_chunk(b"eXIf", metadata.exif))
    return chunks + make_text_chunks(metadata)


def to_pil(picture: Picture) -> Image.Image:
    """Return the image as an 8-bit Pillow image with its profile: L, LA, RGB or RGBA."""
    image = make_image(picture, has_alpha=True)
    if picture.metadata.icc_profile is not None:
        image.info["icc_profile"] = picture.metadata.icc_profile
    return image


def make_image(picture: Picture, has_alpha: bool) -> Image.Image:
    """Copy an image to an 8-bit Pillow image, which has no metadata.

    Pillow has four bytes for a pixel. Rows are forgotten as soon as they are in the copy.

    Parameters
    ----------
    has_alpha : False flattens transparency on white
    """
    width, height = picture.size
    image = None
    band_rows = max(1, BAND_PIXELS // width)
    for top in range(0, height, band_rows):
        rows = slice(top, min(top + band_rows, height))
        alpha = None if picture.alpha is None else picture.alpha[rows]
        part = Picture(picture.pixels[rows], alpha)
        band = make_band(part if has_alpha else flatten(part))
        if image is None:
            # Without a colour: filling it would take as long as copying.
            image = Image.new(band.mode, (width, height), None)
        image.paste(band, (0, top))
        picture.forget_rows(rows.start, rows.stop)
    assert image is not None
    return image


def make_band(picture: Picture) -> Image.Image:
    """Return some rows as a Pillow image."""
    pixels, alpha = np.ascontiguousarray(picture.pixels), picture.alpha
    if alpha is not None:
        pixels = np.dstack([pixels, alpha])
    mode, order = ("L", "L") if picture.is_grey else ("RGB", "BGR")
    if alpha is not None:
        mode, order = f"{mode}A", f"{order}A"
    return Image.frombuffer(mode, picture.size, pixels, "raw", order, 0, 1)
