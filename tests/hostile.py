"""Files that are small and cost much, each made from nothing."""

import struct
import zlib
from io import BytesIO

from PIL import Image

# What an upload may have.
ROOM = 16 * 1024 * 1024 - 1024


def png_chunk(kind: bytes, content: bytes = b"") -> bytes:
    length, checksum = struct.pack(">I", len(content)), zlib.crc32(kind + content)
    return length + kind + content + struct.pack(">I", checksum)


def png_header(width: int, height: int, bits: int = 8, kind: int = 2) -> bytes:
    fields = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", fields)


def save(image: Image.Image, image_format: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def flat_png(width: int, height: int, bits: int = 8, kind: int = 2) -> bytes:
    """A valid picture of one colour, a few kilobytes however large it is."""
    samples = {0: 1, 2: 3, 4: 2, 6: 4}[kind]
    row, pack = b"\0" + bytes([120]) * (samples * bits // 8 * width), zlib.compressobj(9)
    pixels = b"".join(pack.compress(row) for _ in range(height)) + pack.flush()
    ends = png_chunk(b"IDAT", pixels) + png_chunk(b"IEND")
    return png_header(width, height, bits, kind) + ends


def lying_avif(real: int, said: int) -> bytes:
    """A container that says `said`, with a coded picture that is `real` on a side."""
    content = bytearray(save(Image.new("RGB", (real, real), (9, 99, 200)), "AVIF", speed=10))
    at = content.find(b"ispe")
    while at >= 0:
        if struct.unpack(">II", content[at + 8 : at + 16]) == (real, real):
            content[at + 8 : at + 16] = struct.pack(">II", said, said)
        at = content.find(b"ispe", at + 4)
    return bytes(content)


def jpeg_segments(segment: bytes, room: int = ROOM) -> bytes:
    """A JPEG of one pixel, filled up with a segment."""
    jpeg = save(Image.new("RGB", (1, 1), (1, 2, 3)), "JPEG")
    return jpeg[:2] + segment * ((room - len(jpeg)) // len(segment)) + jpeg[2:]
