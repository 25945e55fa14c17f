"""Writes HEIC files, also such as no program would."""

import struct
from io import BytesIO
from typing import Any

import numpy as np
import pillow_heif
from PIL import Image

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
# Of an image that belongs to another one (ISO/IEC 23008-12, B.2.5).
ALPHA_TYPE, DEPTH_TYPE = b"urn:mpeg:hevc:2015:auxid:1", b"urn:mpeg:hevc:2015:auxid:2"


def heic(*images: Image.Image, primary: int = 0, **options: Any) -> bytes:
    """Return a file of one or several images, of which one is the primary one."""
    written = pillow_heif.from_pillow(images[0])
    for image in images[1:]:
        written.add_from_pillow(image)
    if isinstance(options.get("exif"), Image.Exif):
        options["exif"] = options["exif"].tobytes()
    buffer = BytesIO()
    written.save(buffer, primary_index=primary, **{"quality": 90, "chroma": 444, **options})
    return buffer.getvalue()


def deep_heic(samples: np.ndarray, is_premultiplied: bool = False, **options: Any) -> bytes:
    """Return a file of (H, W, C) samples, 8 or 16 bits each; of 16 bits, 10 are written."""
    height, width, channels = samples.shape
    mode = MODES[channels] + (";16" if samples.dtype == np.uint16 else "")
    mode = mode.replace("A", "a") if is_premultiplied else mode
    image = pillow_heif.from_bytes(mode, (width, height), samples.tobytes())
    buffer = BytesIO()
    image.save(buffer, **{"quality": 90, "chroma": 444, **options})
    return buffer.getvalue()


def lying_heic(real: int, said: int) -> bytes:
    """A container that claims sides of `said`, with a coded image whose sides are `real`."""
    content = heic(Image.new("RGB", (real, real), (9, 99, 200)), chroma=420)
    return replace_sizes(content, (real, real), (said, said))


def replace_sizes(content: bytes, found: tuple[int, int], said: tuple[int, int]) -> bytes:
    """Change the sizes that a container states (`ispe`)."""
    head = b"ispe" + bytes(4)
    return content.replace(head + struct.pack(">II", *found), head + struct.pack(">II", *said))


def box(name: bytes, *contents: bytes) -> bytes:
    """Return an ISO base media box."""
    content = b"".join(contents)
    return struct.pack(">I4s", 8 + len(content), name) + content


def brands(*names: bytes) -> bytes:
    """Return the box with which a file of some brands starts."""
    return box(b"ftyp", names[0], bytes(4), *names[1:])


def items(*entries: bytes, references: bytes = b"", properties: bytes = b"", links: bytes) -> bytes:
    """Return a file with items but without their data; the first is the primary one.

    Parameters
    ----------
    entries : kind of each item
    references : boxes
    properties : boxes
    links : for each item its number, and its properties' count and indices
    """
    infos = [
        box(b"infe", b"\2\0\0\0", struct.pack(">HH4s", number, 0, kind), b"\0")
        for number, kind in enumerate(entries, 1)
    ]
    associations = box(b"ipma", bytes(4), struct.pack(">I", len(entries)), links)
    meta = (
        box(b"hdlr", bytes(8), b"pict", bytes(13)),
        box(b"pitm", bytes(4), struct.pack(">H", 1)),
        box(b"iinf", bytes(4), struct.pack(">H", len(entries)), *infos),
        box(b"iref", bytes(4), references),
        box(b"iprp", box(b"ipco", properties), associations),
    )
    return brands(b"heic", b"mif1", b"heic") + box(b"meta", bytes(4), *meta)


def grid_of_one_tile(tiles: int, side: int, tile_side: int) -> bytes:
    """A grid that shows the same tile again and again."""
    size = b"".join(box(b"ispe", bytes(4), struct.pack(">II", s, s)) for s in (side, tile_side))
    reference = box(b"dimg", struct.pack(">HH", 1, tiles), struct.pack(">H", 2) * tiles)
    links = struct.pack(">HBB", 1, 1, 1) + struct.pack(">HBB", 2, 1, 2)
    return items(b"grid", b"hvc1", references=reference, properties=size, links=links)


def grid_of_itself() -> bytes:
    """A grid whose only tile is the grid."""
    size = box(b"ispe", bytes(4), struct.pack(">II", 64, 64))
    reference = box(b"dimg", struct.pack(">HHH", 1, 1, 1))
    links = struct.pack(">HBB", 1, 1, 1)
    return items(b"grid", references=reference, properties=size, links=links)


def many_items(count: int) -> bytes:
    """A file of items that are nothing."""
    size = box(b"ispe", bytes(4), struct.pack(">II", 64, 64))
    links = b"".join(struct.pack(">HBB", 1 + number, 1, 1) for number in range(count))
    return items(*[b"hvc1"] * count, properties=size, links=links)
