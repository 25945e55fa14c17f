"""Reads the items of a HEIF or AVIF file: what its primary image consists of, and what it says.

Only what the decoders do not tell: which codec an image has that they cannot decode, how large its
tiles are, and an AVIF's code points (ISO/IEC 14496-12, 8.11, and 23008-12).
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

# libheif's limit for items; a phone's photograph has up to 300, mostly tiles.
MAX_ITEMS = 1000
# In one box: an item has a handful of properties, and most are shared.
MAX_BOXES = 4000
# Images that are put together from others, or turn another one, which may be derived, too.
DERIVED, MAX_DEPTH = frozenset({b"grid", b"iden"}), 3
ALPHA_TYPES = frozenset(
    {b"urn:mpeg:hevc:2015:auxid:1", b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha"}
)
LARGE_SIZE, TO_THE_END = 1, 0
FULL_BOX = 4
Box = tuple[bytes, bytes]


class DamagedBoxes(ValueError):
    """The boxes do not describe an image."""


@dataclass
class Item:
    """An image, or a part of one.

    Attributes
    ----------
    kind : its codec, such as `hvc1`, or how it is derived, such as `grid`
    properties : contents by name, of `colr` with its type; of several with one name, the first
    sources : numbers of the items that it is derived from
    auxiliaries : numbers of the items that belong to it: transparency, depth
    """

    kind: bytes
    properties: dict[bytes, bytes] = field(default_factory=dict)
    sources: tuple[int, ...] = ()
    auxiliaries: list[int] = field(default_factory=list)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, before it is cropped or turned.

        Raises
        ------
        DamagedBoxes
            It has none.
        """
        content = self.properties.get(b"ispe", b"")
        if len(content) < FULL_BOX + 8:
            raise DamagedBoxes("an image without a size")
        width, height = struct.unpack_from(">II", content, FULL_BOX)
        return width, height


@dataclass(frozen=True)
class Items:
    """The items of a file by their numbers, and the number of the primary one."""

    primary: int
    by_number: dict[int, Item]

    def coded(self, number: int, depth: int = 0) -> Iterator[Item]:
        """Yield the coded images of an item: itself, or its tiles, as often as they are shown.

        Raises
        ------
        DamagedBoxes
            One is missing, or they are nested too deeply.
        """
        item = self.by_number.get(number)
        if item is None or depth > MAX_DEPTH:
            raise DamagedBoxes("a reference to nothing, or to itself")
        if item.kind not in DERIVED:
            yield item
            return
        for source in item.sources:
            yield from self.coded(source, depth + 1)

    def find_alpha(self) -> list[int]:
        """Return the numbers of the images that are the primary one's transparency."""
        return [
            number
            for number in self.by_number[self.primary].auxiliaries
            if number in self.by_number
            and self.by_number[number].properties.get(b"auxC", b"")[FULL_BOX:].partition(b"\0")[0]
            in ALPHA_TYPES
        ]


def read_items(file: BinaryIO) -> Items | None:
    """Read a file's items; None if it has no still image.

    Raises
    ------
    ValueError, struct.error
        The boxes are damaged, or there are more than any program writes.
    """
    meta = find_box(file, b"meta")
    if meta is None:
        return None
    boxes = dict(walk_boxes(meta[FULL_BOX:]))
    if b"pitm" not in boxes:
        return None
    by_number = dict(read_kinds(boxes.get(b"iinf", b"")))
    parts = dict(walk_boxes(boxes.get(b"iprp", b"")))
    attach_properties(by_number, parts.get(b"ipco", b""), parts.get(b"ipma", b""))
    attach_references(by_number, boxes.get(b"iref", b""))
    (primary,) = struct.unpack_from(number_format(boxes[b"pitm"]), boxes[b"pitm"], FULL_BOX)
    if primary not in by_number:
        raise DamagedBoxes("no primary image")
    return Items(primary, by_number)


def find_box(file: BinaryIO, wanted: bytes) -> bytes | None:
    """Return the content of a file's first box of a type."""
    end, at = file.seek(0, os.SEEK_END), 0
    for _ in range(MAX_BOXES):
        file.seek(at)
        head = file.read(16)
        if len(head) < 8:
            return None
        length, name = struct.unpack_from(">I4s", head)
        start = 8
        if length == LARGE_SIZE and len(head) == 16:
            (length,), start = struct.unpack_from(">Q", head, 8), 16
        elif length == TO_THE_END:
            length = end - at
        if length < start:
            raise DamagedBoxes("a box shorter than its head")
        if name == wanted:
            file.seek(at + start)
            return file.read(min(length, end - at) - start)
        at += length
    return None


def walk_boxes(content: bytes) -> Iterator[Box]:
    """Yield the boxes in a box; each name's last one counts."""
    at = 0
    for _ in range(MAX_BOXES):
        if at + 8 > len(content):
            return
        length, name = struct.unpack_from(">I4s", content, at)
        if length == TO_THE_END:
            length = len(content) - at
        if length < 8 or at + length > len(content):
            raise DamagedBoxes("a box of an impossible length")
        yield name, content[at + 8 : at + length]
        at += length
    raise DamagedBoxes("too many boxes")


def number_format(box: bytes) -> str:
    """Return the format of item numbers in a box: newer versions have 32 bits."""
    return ">I" if box[:1] != b"\0" else ">H"


def read_kinds(iinf: bytes) -> Iterator[tuple[int, Item]]:
    """Yield the number and kind of each item."""
    count_bytes = 4 if iinf[:1] != b"\0" else 2
    for count, (name, entry) in enumerate(walk_boxes(iinf[FULL_BOX + count_bytes :])):
        if count == MAX_ITEMS:
            raise DamagedBoxes("too many items")
        # Versions 0 and 1, of MPEG-7 and the like, have no images.
        if name == b"infe" and entry[:1] in {b"\2", b"\3"}:
            form = ">I2x4s" if entry[:1] == b"\3" else ">H2x4s"
            number, kind = struct.unpack_from(form, entry, FULL_BOX)
            # pi-heif crashes if a kind or a media type is not UTF-8.
            kind.decode()
            entry[FULL_BOX + struct.calcsize(form) :].decode()
            yield number, Item(kind)


def attach_properties(by_number: dict[int, Item], ipco: bytes, ipma: bytes) -> None:
    """Give each item the properties that are associated with it."""
    properties = list(walk_boxes(ipco))
    if not ipma:
        return
    head = struct.Struct(number_format(ipma) + "B")
    # The first bit says whether a decoder must know the property.
    letter, mask = ("H", 0x7FFF) if ipma[3] & 1 else ("B", 0x7F)
    (count,) = struct.unpack_from(">I", ipma, FULL_BOX)
    at = FULL_BOX + 4
    for _ in range(min(count, MAX_ITEMS)):
        number, links = head.unpack_from(ipma, at)
        form = f">{links}{letter}"
        indices = struct.unpack_from(form, ipma, at + head.size)
        at += head.size + struct.calcsize(form)
        for index in (each & mask for each in indices):
            if number in by_number and 0 < index <= len(properties):
                name, content = properties[index - 1]
                # An image may have one of each type.
                name += content[:4] if name == b"colr" else b""
                by_number[number].properties.setdefault(name, content)


def attach_references(by_number: dict[int, Item], iref: bytes) -> None:
    """Give each item the numbers of those that it is derived from, and of its auxiliaries."""
    form = number_format(iref)
    step = struct.calcsize(form)
    for name, content in walk_boxes(iref[FULL_BOX:]):
        if name not in {b"dimg", b"auxl"}:
            continue
        (number,) = struct.unpack_from(form, content)
        (count,) = struct.unpack_from(">H", content, step)
        others = struct.unpack_from(f">{count}{form[1]}", content, step + 2)
        if name == b"dimg" and number in by_number:
            by_number[number].sources = others
        elif name == b"auxl":
            for other in set(others) & by_number.keys():
                by_number[other].auxiliaries.append(number)
