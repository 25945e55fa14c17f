"""Makes, reopens and compares images and their files."""

import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from superres.images.pixels import Pixels
from superres.images.png_file import make_chunk
from superres.service.runner import Result
from superres.service.upload import Upload
from superres.store.result_name import generate_file_hash
from superres.store.stored_result import StoredResult
from testkit.heif_files import heic


def encode(image: Image.Image, image_format: str, **options: Any) -> bytes:
    """Return an image as a file in some format."""
    if image_format == "HEIC":
        return heic(image, **options)
    buffer = BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


# 20x10 pixels of one colour.
PNG = encode(Image.new("RGB", (20, 10), (10, 20, 30)), "PNG")


def largest_difference(first: Pixels, second: Pixels) -> int:
    """Return the largest difference between two images of the same size, in levels."""
    assert first.shape == second.shape
    return int(np.abs(first.astype(np.int16) - second).max())


def make_upload(shade: int = 0, side: int = 20) -> Upload:
    content = encode(Image.new("RGB", (side, side), (shade, 50, 60)), "PNG")
    return Upload(BytesIO(content), generate_file_hash(content), "photo")


def read(result: Result) -> bytes:
    if isinstance(result.content, StoredResult):
        with result.content.file as file:
            return file.read()
    return bytes(result.content)


def make_png(samples: np.ndarray, depth: int, colour_type: int, transparent: bytes) -> bytes:
    """Write a PNG of any bit depth with a transparent colour, which Pillow cannot do."""
    height, width = samples.shape[:2]
    if depth == 16:
        rows = [row.astype(">u2").tobytes() for row in samples]
    else:
        bits = [np.unpackbits(row.astype(np.uint8)[:, None], axis=1)[:, -depth:] for row in samples]
        rows = [np.packbits(row.ravel()).tobytes() for row in bits]
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = (b"IHDR", header), (b"tRNS", transparent), (b"IDAT", pixels), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(make_chunk(*part) for part in parts)
