"""Writes HEIC files, also such as no program would."""

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
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


Extents = list[tuple[int, int]]


@dataclass(frozen=True)
class Entry:
    """An item of a file: its kind, its properties, what it refers to, and its data.

    Attributes
    ----------
    properties : boxes
    references : kind, and numbers of items, which count from 1
    """

    kind: bytes
    properties: tuple[bytes, ...] = ()
    references: tuple[tuple[bytes, list[int]], ...] = ()
    data: bytes = b""


def items(entries: list[Entry], extents: Callable[[int, Extents], Extents] | None = None) -> bytes:
    """Return a file of items; the first is the primary one.

    Parameters
    ----------
    extents : changes where each item's data is said to be, (offset, length), by its number
    """
    data = b"".join(each.data for each in entries)
    start = brands(b"heic", b"mif1", b"heic")
    # Offsets do not change its length.
    offset = len(start) + len(make_meta(entries, [[(0, 0)]] * len(entries))) + 8
    places: list[Extents] = []
    for entry in entries:
        places.append([(offset, len(entry.data))])
        offset += len(entry.data)
    if extents is not None:
        places = [extents(number, each) for number, each in enumerate(places, 1)]
    return start + make_meta(entries, places) + box(b"mdat", data)


def make_meta(entries: list[Entry], places: list[Extents]) -> bytes:
    """Return the box that describes all items."""
    infos = [
        box(b"infe", b"\2\0\0\0", struct.pack(">HH4s", number, 0, entry.kind), b"\0")
        for number, entry in enumerate(entries, 1)
    ]
    references = [
        box(name, struct.pack(f">HH{len(others)}H", number, len(others), *others))
        for number, entry in enumerate(entries, 1)
        for name, others in entry.references
    ]
    properties = list(dict.fromkeys(each for entry in entries for each in entry.properties))
    links = b""
    for number, entry in enumerate(entries, 1):
        indices = [1 + properties.index(each) for each in entry.properties]
        links += struct.pack(f">HB{len(indices)}H", number, len(indices), *indices)
    locations = b"".join(
        struct.pack(">HHH", number, 0, len(extents))
        + b"".join(struct.pack(">II", *extent) for extent in extents)
        for number, extents in enumerate(places, 1)
    )
    total = struct.pack(">H", len(entries))
    return box(
        b"meta",
        bytes(4),
        box(b"hdlr", bytes(8), b"pict", bytes(13)),
        box(b"pitm", bytes(4), struct.pack(">H", 1)),
        box(b"iinf", bytes(4), total, *infos),
        box(b"iref", bytes(4), *references),
        box(
            b"iprp",
            box(b"ipco", *properties),
            box(b"ipma", b"\0\0\0\1", struct.pack(">I", len(entries)), links),
        ),
        box(b"iloc", bytes(4), b"\x44\0", total, locations),
    )


def size_box(width: int, height: int) -> bytes:
    return box(b"ispe", bytes(4), struct.pack(">II", width, height))


def coded_tile(side: int = 64) -> Entry:
    """An image of one colour, to be shown by another item."""
    content = heic(Image.new("RGB", (side, side), (9, 99, 200)), chroma=420)
    at = content.index(b"hvcC") - 4
    (length,) = struct.unpack_from(">I", content, at)
    data = content[content.rindex(b"mdat") + 4 :]
    return Entry(b"hvc1", (size_box(side, side), content[at : at + length]), data=data)


def grid_of_one_tile(columns: int, rows: int, size: tuple[int, int]) -> bytes:
    """A grid of tiles of 64x64 pixels that all have the same data."""
    payload = bytes([0, 0, (rows - 1) % 256, (columns - 1) % 256]) + struct.pack(">HH", *size)
    count, tile = columns * rows, coded_tile()
    references = ((b"dimg", list(range(2, 2 + count))),)
    grid = Entry(b"grid", (size_box(*size),), references, payload)
    others = [replace(tile, data=b"") for _ in range(count - 1)]

    def share(number: int, extents: Extents) -> Extents:
        # The data of the second item, with which that of all others begins.
        return [(extents[0][0] - len(tile.data) * (number > 2), len(tile.data))]

    return items([grid, tile, *others], lambda n, e: e if n == 1 else share(n, e))


def grid_of_itself() -> bytes:
    """A grid whose only tile is the grid."""
    return items([Entry(b"grid", (size_box(64, 64),), ((b"dimg", [1]),))])


def many_items(count: int) -> bytes:
    """A file of items that are nothing."""
    return items([Entry(b"hvc1", (size_box(64, 64),)) for _ in range(count)])


def much_exif(count: int, length: int) -> bytes:
    """An image with many items of EXIF, which are all in the same place."""
    exif = Entry(b"Exif", (), ((b"cdsc", [1]),))
    tile = coded_tile()
    last = Entry(b"free", data=bytes(length))

    def share(number: int, extents: Extents) -> Extents:
        return extents if number == 1 else [(len(tile.data), length)]

    return items([tile, *[exif] * count, last], share)
