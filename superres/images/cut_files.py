"""Error messages for truncated files: about how much of the image is present."""

import os
from io import BytesIO
from typing import BinaryIO

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from superres.images import gif_file, png_file
from superres.images.bmp_masks import ALPHA_BITFIELDS, BITFIELDS, row_bytes

# Tags of the offsets and byte counts of a TIFF's strips, and of its tiles.
TIFF_PIECES = ((273, 279), (324, 325))
TIFF_STARTS, TIFF_HEAD_BYTES, TIFF_LEAST_BYTES = (b"II*\0", b"MM\0*"), 8, 2
BMP_BITS_AT, BMP_PIXELS_AT, BMP_PACKING_AT = 28, 10, 30
RIFF_HEAD, WEBP_PIXELS = 12, frozenset({b"VP8 ", b"VP8L"})
IS_DAMAGED = "The image is damaged or cut short."
PICTURE, FILE = "{} of the image is present", "{} of it is present"


def cut_words(there: str, share: float) -> str:
    """Return the message for a file of which a share below 1 is present."""
    percent = min(round(100 * share), 99)
    number = f"about {percent} %" if percent > 0 else "less than 1 %"
    return f"The file is cut short: {there.format(number)}. Send the whole file."


def complete_webp(file: BinaryIO) -> BinaryIO:
    """Return a WebP truncated after its pixels without the partial chunk, for libwebp's sake."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if 8 + int.from_bytes(file.read(8)[4:], "little") <= size:
        return file
    file.seek(0)
    content = file.read()
    position, has_pixels = RIFF_HEAD, False
    while position + 8 <= size:
        length = int.from_bytes(content[position + 4 : position + 8], "little")
        if position + 8 + length > size:
            break
        has_pixels |= content[position : position + 4] in WEBP_PIXELS
        position += 8 + length + length % 2
    if not has_pixels:
        return file
    body = content[8:position].ljust(position - 8, b"\0")
    return BytesIO(content[:4] + len(body).to_bytes(4, "little") + body)


def explain_cut(file: BinaryIO, image: Image.Image | None) -> str | None:
    """Return the message for a truncated file; None if it is damaged in some other way.

    Parameters
    ----------
    file : as it was decoded
    image : as opened by Pillow; None if that failed
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    start = file.read(RIFF_HEAD)
    if start.startswith(b"RIFF") and start[8:] == b"WEBP":
        declared = 8 + int.from_bytes(start[4:8], "little")
        return cut_words(FILE, size / declared) if size < declared else None
    if start[4:8] == b"ftyp":
        declared = end_of_boxes(file, size)
        return cut_words(FILE, size / declared) if size < declared else None
    share = 1.0
    if start.startswith(png_file.SIGNATURE):
        share = 1 - png_file.missing_share(file)
    elif start.startswith(b"GIF"):
        file.seek(0)
        share = 1 - gif_file.missing_share(file.read())
    elif image is not None and start.startswith(b"BM"):
        share = bmp_share(file, image, size)
    elif isinstance(image, TiffImageFile):
        share = tiff_share(image, size)
    elif start.startswith(TIFF_STARTS):
        # libtiff writes the directory after the pixels.
        directory = int.from_bytes(start[4:8], "little" if start.startswith(b"II") else "big")
        if TIFF_HEAD_BYTES < size < directory + TIFF_LEAST_BYTES:
            return cut_words(FILE, size / directory)
    return cut_words(PICTURE, share) if share < 1 else None


def end_of_boxes(file: BinaryIO, size: int) -> int:
    """Return the end of the last box that starts within an ISO base media file."""
    end = 0
    while end + 8 <= size:
        file.seek(end)
        length = int.from_bytes(file.read(4))
        if length == 1:
            file.seek(end + 8)
            length = int.from_bytes(file.read(8))
        if length < 8:
            return size  # extends to the end of the file, wherever that is, or is damaged
        end += length
    return max(end, size)


def bmp_share(file: BinaryIO, image: Image.Image, size: int) -> float:
    """Return the share of a BMP's pixels that is present; 1 if compressed, where it is unknown."""
    file.seek(0)
    head = file.read(BMP_PACKING_AT + 4)
    offset, bits, packing = (
        int.from_bytes(head[at : at + length], "little")
        for at, length in ((BMP_PIXELS_AT, 4), (BMP_BITS_AT, 2), (BMP_PACKING_AT, 4))
    )
    if packing not in {0, BITFIELDS, ALPHA_BITFIELDS}:
        return 1.0
    return (size - offset) / (row_bytes(image.width, bits) * image.height)


def tiff_share(image: TiffImageFile, size: int) -> float:
    """Return the share of a TIFF's strips or tiles that is present."""
    for starts_tag, lengths_tag in TIFF_PIECES:
        starts, lengths = image.tag_v2.get(starts_tag, ()), image.tag_v2.get(lengths_tag, ())
        total: int = sum(lengths)
        if total:
            there: int = sum(
                min(max(size - start, 0), length)
                for start, length in zip(starts, lengths, strict=False)
            )
            return there / total
    return 1.0
