"""Reads a PNG as libpng does: picks the chunks that count, so that no other can spoil the image.

Pillow rejects an image for a megabyte of text, for a profile of two and for a wrong checksum in a
comment, and applies transparency that libpng ignores. So it is given only the chunks that make up
the pixels; the others are read here.
"""

import contextlib
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any, BinaryIO

from superres.errors import UndecodableImage, UnsupportedVariant
from superres.images.exif import EXIF_IS_TEXT
from superres.images.metadata import MAX_PROFILE_BYTES
from superres.images.png_text import (
    MAX_TEXT_BYTES,
    MAX_TEXTS,
    TEXT_CHUNKS,
    Text,
    find_raw_profile,
    unpack,
)

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# A chunk is a length, a name, the content and a checksum of name and content.
CHUNK_HEAD, CHUNK_SUM = 8, 4
HEADER = struct.Struct(">IIBBBBB")
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
SAMPLES = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}
MAX_PALETTE_BYTES = 3 * 256
# Programs that write PNGs use chunks of 8 KB and more; the largest upload in one-byte chunks took
# seconds of CPU time.
MAX_CHUNKS = 65_536
# First column and row, and steps, of each pass of an interlaced image.
PASSES = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)
# Chunks whose name begins with a capital are critical (PNG 1.2, 3.3); there are no others.
CRITICAL_CHUNKS = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND"})
# What the samples mean, beside a profile.
COLOUR_CHUNKS = frozenset({b"cICP", b"sRGB", b"gAMA", b"cHRM"})
# Chunks that are only read before the pixels; EXIF and texts may follow them.
EARLY_CHUNKS = COLOUR_CHUNKS | {b"IHDR", b"PLTE", b"tRNS", b"iCCP", b"pHYs", b"acTL", b"fcTL"}
PIECE_BYTES = 1024**2
METRES_AN_INCH = 0.0254
PER_METRE = 1
HEADER_IS_DAMAGED = "The image's header is damaged or cut short."


@dataclass(frozen=True)
class PngFile:
    """The parts of a PNG that count.

    Attributes
    ----------
    file : the same image with only the chunks that make up the pixels
    info : contents of the other chunks, under Pillow's names
    texts : text chunks, in their order
    is_grey : whether it has one colour sample per pixel, and no palette
    colours : contents of the chunks that say what the samples mean, beside a profile
    """

    file: BinaryIO
    info: dict[str, Any]
    texts: list[Text]
    is_grey: bool
    colours: dict[bytes, bytes]


def read_png(file: BinaryIO) -> PngFile:
    """Read the chunks of a PNG that count.

    Ancillary chunks that are damaged, duplicate or too late are ignored, as in libpng.

    Raises
    ------
    UndecodableImage
        A chunk that the pixels need has a wrong checksum; libpng rejects such images, too.
    UnsupportedVariant
        It is an iOS-optimized PNG.
    """
    file.seek(0)
    chunks, texts, pixels = collect_chunks(file.read())
    if b"IHDR" not in chunks:
        raise UndecodableImage(HEADER_IS_DAMAGED)
    if not pixels:
        raise UndecodableImage("The file ends, or is damaged, before the image's first pixel.")
    _, _, depth, colour_type, *_ = HEADER.unpack(chunks[b"IHDR"])
    parts = [SIGNATURE, make_chunk(b"IHDR", chunks[b"IHDR"])]
    if colour_type == PALETTE:
        palette = chunks.get(b"PLTE", b"")
        if not palette or len(palette) % 3 or len(palette) > MAX_PALETTE_BYTES:
            raise UndecodableImage("The image's palette is missing or damaged.")
        parts.append(make_chunk(b"PLTE", palette))
    if is_animated(chunks):
        parts += [make_chunk(name, chunks[name]) for name in (b"acTL", b"fcTL") if name in chunks]
    parts += [pixels, make_chunk(b"IEND", b"")]
    info = read_info(chunks, texts)
    info["transparency"] = read_transparency(chunks, depth, colour_type)
    found = {name: value for name, value in info.items() if value is not None}
    colours = {name: chunks[name] for name in COLOUR_CHUNKS & chunks.keys()}
    is_grey = colour_type in {GREY, GREY_ALPHA}
    return PngFile(BytesIO(b"".join(parts)), found, texts, is_grey, colours)


def walk_chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield each chunk's name, and where its content starts and ends (perhaps past the file).

    Raises
    ------
    UndecodableImage
        There are more chunks than any program writes.
    """
    number, position = 0, len(SIGNATURE)
    unpack, last = struct.Struct(">I4s").unpack_from, len(content) - CHUNK_HEAD
    while position <= last:
        length, name = unpack(content, position)
        start = position + CHUNK_HEAD
        position = start + length + CHUNK_SUM
        number += 1
        if number > MAX_CHUNKS:
            raise UndecodableImage(f"The PNG has more than {MAX_CHUNKS:,} chunks; save it again.")
        yield name, start, start + length


def is_sound(content: bytes, name: bytes, start: int, end: int) -> bool:
    """Tell whether a chunk's checksum is right."""
    found = zlib.crc32(memoryview(content)[start:end], zlib.crc32(name))
    return content[end : end + CHUNK_SUM] == struct.pack(">I", found)


def collect_chunks(content: bytes) -> tuple[dict[bytes, bytes], list[Text], bytes]:
    """Return the contents of the chunks that count, texts, and all image data chunks joined."""
    chunks: dict[bytes, bytes] = {}
    texts: list[Text] = []
    # XMP and IPTC are among them.
    room, most = 2 * MAX_TEXT_BYTES, 2 * MAX_TEXTS
    first = last = 0
    rest = b""
    for name, start, end in walk_chunks(content):
        if name == b"IDAT":
            if first == 0:
                first = last = start - CHUNK_HEAD
            elif last != start - CHUNK_HEAD:
                continue  # image data after another chunk does not count
            if end + CHUNK_SUM > len(content):
                rest = make_chunk(name, content[start:end])  # the part that the file has
            elif is_sound(content, name, start, end):
                last = end + CHUNK_SUM
            else:
                raise UndecodableImage("The image is damaged: its checksum is wrong.")
        elif name == b"IEND":
            break
        elif name == b"eXIf" or (first == 0 and name in EARLY_CHUNKS):
            if name not in chunks and is_sound(content, name, start, end):
                chunks[name] = content[start:end]
            elif name == b"IHDR" or (name == b"PLTE" and has_palette(chunks)):
                raise UndecodableImage(HEADER_IS_DAMAGED)
        elif name in TEXT_CHUNKS:
            fits = end - start <= room and len(texts) < most
            if fits and is_sound(content, name, start, end):
                room -= end - start
                texts.append((name, content[start:end]))
        elif name == b"CgBI":
            raise UnsupportedVariant(
                "It is an iOS-optimized PNG (CgBI); open it on a Mac and export it as PNG."
            )
        elif name.isalpha() and name[:1].isupper() and name not in CRITICAL_CHUNKS:
            raise UndecodableImage("The PNG has critical chunks of unknown types.")
    return chunks, texts, content[first:last] + rest


def has_palette(chunks: dict[bytes, bytes]) -> bool:
    """Tell whether the pixels are palette indices."""
    header = chunks.get(b"IHDR", b"")
    return len(header) == HEADER.size and HEADER.unpack(header)[3] == PALETTE


def is_animated(chunks: dict[bytes, bytes]) -> bool:
    """Tell whether there are more frames than the default image."""
    frames = int.from_bytes(chunks.get(b"acTL", b"")[:4])
    return frames > 1 or (frames == 1 and b"fcTL" not in chunks)


def read_info(chunks: dict[bytes, bytes], texts: list[Text]) -> dict[str, Any]:
    """Return profile, EXIF and resolution; None for each that is missing."""
    profile, exif = unpack_profile(chunks.get(b"iCCP")), chunks.get(b"eXIf")
    text = find_raw_profile(texts, b"exif") if exif is None else None
    dpi = None
    with contextlib.suppress(struct.error):
        horizontal, vertical, unit = struct.unpack(">IIB", chunks.get(b"pHYs", b""))
        if unit == PER_METRE:
            dpi = (horizontal * METRES_AN_INCH, vertical * METRES_AN_INCH)
    return {"icc_profile": profile, "exif": exif or text, EXIF_IS_TEXT: text, "dpi": dpi}


def unpack_profile(chunk: bytes | None) -> bytes | None:
    """Return the profile of an iCCP chunk: name, zero, method, and the compressed profile."""
    if chunk is None:
        return None
    _, _, rest = chunk.partition(b"\0")
    return unpack(rest[1:], MAX_PROFILE_BYTES) if rest[:1] == b"\0" else None


def read_transparency(chunks: dict[bytes, bytes], depth: int, colour_type: int) -> object:
    """Return a tRNS chunk in Pillow's representation; None if there is none that counts.

    Pillow itself mistakes an alpha of 10 at the end of a palette's tRNS for a line feed.
    """
    chunk = chunks.get(b"tRNS", b"")
    if colour_type == PALETTE:
        colours = min(len(chunks[b"PLTE"]) // 3, 2**depth)
        is_early = list(chunks).index(b"tRNS") < list(chunks).index(b"PLTE") if chunk else False
        return chunk if 0 < len(chunk) <= colours and not is_early else None
    if colour_type not in {GREY, RGB} or len(chunk) != 2 * SAMPLES[colour_type]:
        return None
    samples = struct.unpack(f">{SAMPLES[colour_type]}H", chunk)
    samples = tuple(sample & (2**depth - 1) for sample in samples)
    if depth == 1:
        return samples[0] * 255
    return samples if colour_type == RGB else samples[0]


def missing_share(file: BinaryIO) -> float:
    """Return the share of the pixels that is missing in the file of a `PngFile`.

    Raises
    ------
    zlib.error
        The data is damaged.
    """
    file.seek(0)
    content = file.read()
    expected, found, stream = 0, 0, zlib.decompressobj()
    for name, start, end in walk_chunks(content):
        if name == b"IHDR":
            expected = count_bytes(content[start:end])
        elif name == b"IDAT":
            packed: bytes = content[start:end]
            while packed and not stream.eof and found < expected:
                found += len(stream.decompress(packed, PIECE_BYTES))
                packed = stream.unconsumed_tail
    return max(0.0, 1 - found / expected) if expected else 0.0


def count_bytes(header: bytes) -> int:
    """Return the size of an image's uncompressed pixel data, in bytes."""
    width, height, depth, colour_type, _, _, is_interlaced = HEADER.unpack(header)
    bits = depth * SAMPLES.get(colour_type, 0)
    total = 0
    for left, top, across, down in PASSES if is_interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + -(-columns * bits // 8))  # a row begins with its filter type
    return total


def make_chunk(name: bytes, content: bytes) -> bytes:
    """Return a PNG chunk: length, name, content, checksum of the latter two."""
    checksum = zlib.crc32(content, zlib.crc32(name))
    length, checksum_bytes = struct.pack(">I", len(content)), struct.pack(">I", checksum)
    return b"".join([length, name, content, checksum_bytes])  # copies megabytes of text once
