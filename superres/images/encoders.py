"""Pixels -> bytes: PNG, WebP, JPEG and AVIF with the image's metadata."""

import struct
import zlib
from dataclasses import replace
from io import BytesIO

import cv2
import numpy as np
from PIL import Image

from superres.errors import TooManyPixels
from superres.excess import Excess, compare
from superres.images.formats import FORMATS
from superres.images.image_codec import Picture
from superres.images.metadata import Metadata, greys_in_srgb
from superres.images.options import Options
from superres.images.pixels import DeepPixels, Pixels
from superres.images.png_file import (
    GREY_ALPHA,
    HEADER,
    METRES_AN_INCH,
    SIGNATURE,
    make_chunk,
)
from superres.images.resampling import DEEP_PER_LEVEL
from superres.images.result_metadata import (
    find_comment,
    fit_metadata,
    make_iptc_segment,
    make_text_chunks,
)

# Measured by `bench/encoders.py` against Pillow's default, which takes 2.8 microseconds per input
# pixel on photographs: these take 0.4 and are as large. Drawn graphics would be 60 % larger.
PNG_OF_PHOTOGRAPHS = (
    *(cv2.IMWRITE_PNG_COMPRESSION, 1),
    *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_PAETH),
    *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE),
)
# For drawn graphics: 0.2 microseconds, 2 % larger than Pillow's. Photographs would take 1.0.
PNG_OF_GRAPHICS = (
    *(cv2.IMWRITE_PNG_COMPRESSION, 4),
    *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_ALL_FILTERS),
    *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_FILTERED),
)
# Equal neighbours: up to 61 % in sixteen enlarged photographs and scans, 90 % in a screenshot.
GRAPHICS_SHARE_EQUAL = 0.75
SAMPLED_ROWS = 16
# After the signature, and the first chunk with its length, name, 13 bytes and checksum.
PNG_AFTER_HEADER = 8 + 4 + 4 + 13 + 4
EXIF_HEADER = b"Exif\x00\x00"
# libaom's own default takes ten times as long for 1 % smaller files.
AVIF_SPEED = 8
WEBP_METHOD = 4
# For lossless WebP, Pillow's quality is the compression effort.
WEBP_LOSSLESS_EFFORT = 50
WHITE = 255
# PNG's filter type Sub: each byte minus that of the previous pixel.
FILTER_SUB, DEEP_GREY_ALPHA_BYTES = 1, 4
BAND_ROWS = 64


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
    """Encode a result in the format that its options ask for.

    Only PNG has 16 bits, and grey with transparency; for JPEG, transparency is flattened on white.
    """
    if options.format == "png":
        return encode_png(picture)
    if not FORMATS[options.format].has_alpha:
        picture = flatten(picture)
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
    buffer = BytesIO()
    # Without the metadata: Pillow would also write the profile in the image's info.
    bare = Picture(picture.pixels, picture.alpha)
    to_pil(bare).save(buffer, options.format.upper(), **parameters)
    return buffer.getbuffer()


def flatten(picture: Picture) -> Picture:
    """Flatten an image with transparency on white."""
    if picture.alpha is None:
        return picture
    alpha = picture.alpha if picture.is_grey else picture.alpha[:, :, np.newaxis]
    share = alpha.astype(np.uint16)
    mixed = (picture.pixels * share + WHITE * (WHITE - share) + WHITE // 2) // WHITE
    return Picture(mixed.astype(np.uint8), metadata=picture.metadata)


def encode_png(picture: Picture) -> memoryview:
    """Encode as PNG: 8 or 16 bits, grey or colour, with the metadata in its own chunks."""
    if picture.is_grey and picture.alpha is not None and picture.deep is not None:
        encoded = encode_deep_grey(picture.deep, picture.alpha)
    elif picture.is_grey and picture.alpha is not None:
        # OpenCV does not support grey with transparency.
        buffer = BytesIO()
        # The profile is among the chunks below, and must not be written twice.
        bare = Picture(picture.pixels, picture.alpha)
        to_pil(bare).save(buffer, "PNG", compress_level=PNG_OF_GRAPHICS[1])
        encoded = buffer.getbuffer()
    else:
        channels = stack_channels(picture)
        parameters = PNG_OF_GRAPHICS if is_graphics(picture.pixels) else PNG_OF_PHOTOGRAPHS
        written, array = cv2.imencode(".png", channels, parameters)
        if not written:
            raise MemoryError("OpenCV could not encode the result")
        encoded = memoryview(array.data)
    chunks = make_chunks(fit_metadata(picture.metadata, picture.size, "png"))
    if not chunks:
        return encoded
    return memoryview(b"".join([encoded[:PNG_AFTER_HEADER], *chunks, encoded[PNG_AFTER_HEADER:]]))


def encode_deep_grey(deep: DeepPixels, alpha: Pixels) -> memoryview:
    """Encode 16-bit grey with transparency, which neither OpenCV nor Pillow can write.

    Parameters
    ----------
    deep : (H, W, 1) uint16
    alpha : (H, W) uint8
    """
    height, width = alpha.shape
    header = HEADER.pack(width, height, 16, GREY_ALPHA, 0, 0, 0)
    packer = zlib.compressobj(PNG_OF_GRAPHICS[1], strategy=zlib.Z_FILTERED)
    packed = []
    for top in range(0, height, BAND_ROWS):
        grey = deep[top : top + BAND_ROWS, :, 0]
        shares = alpha[top : top + BAND_ROWS].astype(np.uint16) * DEEP_PER_LEVEL
        rows = np.dstack([grey, shares]).astype(">u2").view(np.uint8).reshape(len(grey), -1)
        filtered = np.empty((len(rows), 1 + rows.shape[1]), np.uint8)
        filtered[:, 0] = FILTER_SUB
        filtered[:, 1 : 1 + DEEP_GREY_ALPHA_BYTES] = rows[:, :DEEP_GREY_ALPHA_BYTES]
        filtered[:, 1 + DEEP_GREY_ALPHA_BYTES :] = (
            rows[:, DEEP_GREY_ALPHA_BYTES:] - rows[:, :-DEEP_GREY_ALPHA_BYTES]
        )
        packed.append(packer.compress(filtered.tobytes()))
    packed.append(packer.flush())
    chunks = {b"IHDR": header, b"IDAT": b"".join(packed), b"IEND": b""}
    return memoryview(SIGNATURE + b"".join(make_chunk(*each) for each in chunks.items()))


def is_graphics(pixels: Pixels) -> bool:
    """Tell from some of its rows whether an image is drawn rather than photographed."""
    rows = np.atleast_3d(pixels[::SAMPLED_ROWS])
    if rows.shape[1] < 2:
        return True
    equal = (rows[:, 1:] == rows[:, :-1]).all(axis=2)
    return float(equal.mean()) > GRAPHICS_SHARE_EQUAL


def stack_channels(picture: Picture) -> Pixels | DeepPixels:
    """Return the channels as OpenCV's encoder expects them: 1, 3 or 4, of 8 or 16 bits.

    It does not support grey with transparency.
    """
    alpha = picture.alpha
    if picture.deep is None:
        return picture.pixels if alpha is None else np.dstack([picture.pixels, alpha])
    if alpha is None:
        return picture.deep
    return np.dstack([picture.deep, alpha.astype(np.uint16) * DEEP_PER_LEVEL])


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
    """Return the image as an 8-bit Pillow image: L, LA, RGB or RGBA."""
    pixels, alpha = picture.pixels, picture.alpha
    if picture.is_grey:
        image = Image.fromarray(pixels)
        if alpha is not None:
            image = Image.merge("LA", [image, Image.fromarray(alpha)])
    else:
        # Pillow reorders the samples in its own copy, which has room for alpha.
        size, content = picture.size, np.ascontiguousarray(pixels)
        image = Image.frombuffer("RGB", size, content, "raw", "BGR", 0, 1)
        if alpha is not None:
            image.putalpha(Image.fromarray(alpha))
    if picture.metadata.icc_profile is not None:
        image.info["icc_profile"] = picture.metadata.icc_profile
    return image
