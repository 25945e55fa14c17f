"""GIFs that are truncated, or whose first frame does not cover the canvas."""

from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO

from PIL import Image
from PIL.GifImagePlugin import GifImageFile

SCREEN_BYTES, IMAGE_BYTES = 13, 10
EXTENSION, IMAGE, TRAILER = b"!", b",", b";"
HAS_PALETTE, PALETTE_SIZE = 0x80, 7
MAX_CODE_BITS = 12
# XMP stands in an application extension, but not in blocks; bytes that lead a reader of blocks to
# its end follow it (XMP part 3, 1.1.2).
XMP_BEGINNING, XMP_END = b"!\xff\x0bXMP DataXMP", b"\x01\xff\xfe\xfd\xfc"


@dataclass(frozen=True)
class GifPixels:
    """The compressed pixels of the first image in a GIF.

    Attributes
    ----------
    count : number of pixels that the image should have
    start, end : of the last block of data, with its length byte; `end` is the end of the file if
        the block is truncated
    code_bits : see the format's appendix F
    packed : the data that the file has
    is_cut : whether the file ends within the data
    """

    count: int
    start: int
    end: int
    code_bits: int
    packed: bytes
    is_cut: bool


def palette_bytes(flags: int) -> int:
    """Return the length of the palette that follows."""
    return 3 * 2 ** ((flags & PALETTE_SIZE) + 1) if flags & HAS_PALETTE else 0


def find_pixels(content: bytes) -> GifPixels | None:
    """Return where the pixels of the first image are; None if the file ends before them."""
    try:
        position = SCREEN_BYTES + palette_bytes(content[SCREEN_BYTES - 3])
        while content[position : position + 1] == EXTENSION:
            position += 2
            while content[position]:
                position += 1 + content[position]
            position += 1
        if content[position : position + 1] != IMAGE:
            return None
        head = content[position : position + IMAGE_BYTES]
        count = int.from_bytes(head[5:7], "little") * int.from_bytes(head[7:9], "little")
        position += IMAGE_BYTES + palette_bytes(head[9])
        code_bits = content[position]
    except IndexError:
        return None
    position += 1
    start, packed = position, bytearray()
    while position < len(content) and content[position]:
        start = position
        packed += content[position + 1 : position + 1 + content[position]]
        position += 1 + content[position]
    is_cut = position >= len(content)
    end = min(position, len(content))
    return GifPixels(count, start, end, code_bits, bytes(packed), is_cut)


def complete_gif(file: BinaryIO) -> BinaryIO:
    """Return a GIF that is truncated within its pixels with a proper end.

    Pillow drops the truncated block, which may hold the last pixels.
    """
    file.seek(0)
    content = file.read()
    pixels = find_pixels(content)
    if pixels is None or not pixels.is_cut or pixels.end <= pixels.start + 1:
        return file
    rest = content[pixels.start + 1 : pixels.end]
    block = bytes([len(rest)]) + rest
    return BytesIO(content[: pixels.start] + block + b"\0" + TRAILER)


def find_gif_xmp(file: BinaryIO) -> bytes | None:
    """Return a GIF's XMP packet; None if it has none."""
    file.seek(0)
    content = file.read()
    start = content.find(XMP_BEGINNING)
    end = content.find(XMP_END, start)
    return content[start + len(XMP_BEGINNING) : end] if 0 <= start < end else None


def missing_share(content: bytes) -> float:
    """Return the share of a GIF's pixels that is missing."""
    pixels = find_pixels(content)
    if pixels is None or not pixels.count or not 0 < pixels.code_bits < MAX_CODE_BITS:
        return 0.0
    return max(0.0, 1 - count_pixels(pixels) / pixels.count)


def count_pixels(pixels: GifPixels) -> int:
    """Return the number of pixels encoded by the LZW data, without decompressing it."""
    clear = 1 << pixels.code_bits
    lengths = [1] * clear + [0, 0]
    width, former, count = pixels.code_bits + 1, 0, 0
    store = bits = 0
    for byte in pixels.packed:
        store |= byte << bits
        bits += 8
        while bits >= width:
            code = store & ((1 << width) - 1)
            store >>= width
            bits -= width
            if code == clear:
                del lengths[clear + 2 :]
                width, former = pixels.code_bits + 1, 0
                continue
            if code == clear + 1 or code > len(lengths) or count >= pixels.count:
                return count
            length = former + 1 if code == len(lengths) else lengths[code]
            if former and len(lengths) < 1 << MAX_CODE_BITS:
                lengths.append(former + 1)
                if len(lengths) == 1 << width and width < MAX_CODE_BITS:
                    width += 1
            count += length
            former = length
    return count


def find_small_frame(image: Image.Image) -> tuple[int, int, int, int] | None:
    """Return the position of a GIF's first frame if it does not cover the whole canvas.

    Browsers show nothing outside it; Pillow fills in the first colour of the palette, unless one is
    transparent. Must be called before the pixels are decoded.

    Returns
    -------
    left, top, right, bottom; None if the canvas is covered, or the rest has the transparent colour
    """
    if not isinstance(image, GifImageFile) or "transparency" in image.info or not image.tile:
        return None
    left, top, right, bottom = image.tile[0].extents or (0, 0, *image.size)
    frame = max(left, 0), max(top, 0), min(right, image.width), min(bottom, image.height)
    return None if frame == (0, 0, *image.size) else frame
