"""A TIFF's directories: reads their entries, and finds the one of the image.

TIFF 6.0 and BigTIFF. Pillow reads directories too, but opens no image with samples unknown to it,
treats a reduced copy as another page, and makes a Python number of every strip's offset.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from superres.errors import UnsupportedVariant

Values = npt.NDArray[np.unsignedinteger[Any]]

# The odd ones come from writers that swap the version but not the byte order mark, or vice versa.
STARTS = {
    b"II*\0": ("<", False),
    b"MM\0*": (">", False),
    b"MM*\0": (">", False),
    b"II\0*": ("<", False),
    b"II+\0": ("<", True),
    b"MM\0+": (">", True),
}
NEW_SUBFILE_TYPE, SUBFILE_TYPE, SUB_DIRECTORIES = 254, 255, 330
REDUCED, MASK = 0b001, 0b100
OLD_REDUCED = 2
# BYTE, SHORT, LONG, IFD, LONG8 and IFD8, with their sizes.
UNSIGNED_TYPES = {1: "u1", 3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8"}
LONG, LONG8 = 4, 16
# Unsigned integers of BigTIFF only: LONG8 and IFD8.
LONG8_TYPES = frozenset({16, 18})
# All others, such as ASCII and UNDEFINED, have 1.
TYPE_BYTES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
# An image of 16 megapixels has 12 overviews, and their masks.
MAX_DIRECTORIES = 64
# Writers use a hundred at most; each costs time, whatever it says.
MAX_ENTRIES = 4096


@dataclass(frozen=True)
class Form:
    """How a TIFF encodes its numbers.

    Attributes
    ----------
    order : byte order, in NumPy's notation
    is_big : whether it is a BigTIFF
    """

    order: str
    is_big: bool

    @property
    def offset_type(self) -> np.dtype[Any]:
        """Type of offsets, counts and values in a directory."""
        return np.dtype(f"{self.order}u{8 if self.is_big else 4}")

    @property
    def count_type(self) -> np.dtype[Any]:
        """Type of a directory's number of entries."""
        return np.dtype(f"{self.order}u{8 if self.is_big else 2}")

    @property
    def entry_type(self) -> np.dtype[Any]:
        """Type of an entry: tag, type, count, and the value or its offset."""
        short, long = f"{self.order}u2", self.offset_type
        fields = [("tag", short), ("type", short), ("count", long)]
        return np.dtype([*fields, ("value", f"V{long.itemsize}")])

    @property
    def first_offset_at(self) -> int:
        """Where the file has the offset of its first directory."""
        return 8 if self.is_big else 4

    def encode(self, numbers: Values | int) -> bytes:
        """Encode offsets, or numbers of the same length."""
        return np.asarray(numbers, self.offset_type).tobytes()

    def start(self, first_offset: int) -> bytes:
        """Encode a file's header."""
        mark = b"II" if self.order == "<" else b"MM"
        version = np.array([43, 8, 0] if self.is_big else [42], f"{self.order}u2")
        return mark + version.tobytes() + self.encode(first_offset)


def read_form(file: BinaryIO) -> Form | None:
    """Return how a TIFF encodes its numbers; None if the file is not a TIFF."""
    file.seek(0)
    start = STARTS.get(file.read(4))
    return None if start is None else Form(*start)


@dataclass(frozen=True)
class Directory:
    """One directory of a TIFF.

    Attributes
    ----------
    entries : of `Form.entry_type`, as in the file
    next_offset : of the directory after this one; 0 if there is none
    """

    file: BinaryIO
    form: Form
    offset: int
    entries: npt.NDArray[Any]
    next_offset: int

    def values(self, tag: int) -> Values:
        """Return an entry's unsigned integers; empty if there is no such entry.

        Raises
        ------
        ValueError
            They lie outside the file.
        """
        found = self.entries[self.entries["tag"] == tag][:1]
        kind = UNSIGNED_TYPES.get(int(found["type"][0])) if len(found) else None
        if kind is None:
            return np.empty(0, np.uint64)
        return np.frombuffer(self.content(tag), f"{self.form.order}{kind}")

    def content(self, tag: int) -> bytes:
        """Return an entry's value as its bytes, of any type; empty if there is no such entry.

        Raises
        ------
        ValueError
            It lies outside the file.
        """
        found = self.entries[self.entries["tag"] == tag][:1]
        if not len(found):
            return b""
        length = TYPE_BYTES.get(int(found["type"][0]), 1) * int(found["count"][0])
        content: bytes = found["value"][0].tobytes()
        if length <= len(content):
            return content[:length]
        return read_at(self.file, int(np.frombuffer(content, self.form.offset_type)[0]), length)

    def value(self, tag: int, default: int) -> int:
        """Return an entry's first number."""
        values = self.values(tag)
        return int(values[0]) if len(values) else default

    @property
    def is_secondary(self) -> bool:
        """Whether it is a reduced copy or a mask of another image in the file."""
        kind = self.value(NEW_SUBFILE_TYPE, 0)
        return bool(kind & (REDUCED | MASK)) or self.value(SUBFILE_TYPE, 0) == OLD_REDUCED


def read_at(file: BinaryIO, offset: int, length: int) -> bytes:
    """Read a part of a file.

    Raises
    ------
    ValueError
        It extends past the end of the file.
    """
    if offset + length > file.seek(0, 2):
        raise ValueError("outside the file")
    file.seek(offset)
    return file.read(length)


def read_directory(file: BinaryIO, form: Form, offset: int) -> Directory:
    """Read the directory at an offset.

    Raises
    ------
    ValueError
        There is no directory.
    """
    count_type, entry_type, offset_type = form.count_type, form.entry_type, form.offset_type
    count = int(np.frombuffer(read_at(file, offset, count_type.itemsize), count_type)[0])
    if not 0 < count <= MAX_ENTRIES:
        raise ValueError("no directory")
    at = offset + count_type.itemsize
    entries = np.frombuffer(read_at(file, at, count * entry_type.itemsize), entry_type)
    # Some files end here, without the last directory's empty next offset.
    rest = file.read(offset_type.itemsize).ljust(offset_type.itemsize, b"\0")
    return Directory(file, form, offset, entries, int(np.frombuffer(rest, offset_type)[0]))


def read_directories(file: BinaryIO, form: Form) -> Iterator[Directory]:
    """Yield the chain of directories; damage after the first ends it.

    Raises
    ------
    ValueError
        The first is damaged.
    """
    size = form.offset_type.itemsize
    offset = int(np.frombuffer(read_at(file, form.first_offset_at, size), form.offset_type)[0])
    seen: set[int] = set()
    while offset and offset not in seen:
        seen.add(offset)
        try:
            directory = read_directory(file, form, offset)
        except ValueError:
            if len(seen) == 1:
                raise
            return
        yield directory
        offset = directory.next_offset


def find_picture(file: BinaryIO, form: Form) -> Directory:
    """Return the directory of the only image: the others are its reduced copies and masks.

    Raises
    ------
    UnsupportedVariant
        There are several images, or only reduced copies.
    ValueError
        The first directory is damaged.
    """
    first: Directory | None = None
    picture: Directory | None = None
    for number, directory in enumerate(read_directories(file, form)):
        first = first or directory
        if number == MAX_DIRECTORIES or (picture is not None and not directory.is_secondary):
            raise UnsupportedVariant(
                "Multi-page files are not accepted; send each page as a separate file."
            )
        if not directory.is_secondary:
            picture = directory
    if first is None:
        raise ValueError("no directory")
    if picture is None and len(first.values(SUB_DIRECTORIES)):
        raise UnsupportedVariant(
            "The TIFF contains only a preview, like a camera raw file; export the image as TIFF, "
            "PNG or JPEG and send that."
        )
    return picture or first


@dataclass(frozen=True)
class Entry:
    """An entry to write.

    Attributes
    ----------
    content : its value, or the offset of a value that is already in the file
    """

    tag: int
    kind: int
    count: int
    content: bytes

    @property
    def length(self) -> int:
        """Length of its value in bytes."""
        return TYPE_BYTES.get(self.kind, 1) * self.count


def keep_entry(entry: Any, source: Form, target: Form) -> Entry:
    """Copy an entry from another directory of the file."""
    tag, kind, count = int(entry["tag"]), int(entry["type"]), int(entry["count"])
    content: bytes = entry["value"].tobytes()
    length = TYPE_BYTES.get(kind, 1) * count
    if length > len(content):
        return Entry(tag, kind, count, target.encode(np.frombuffer(content, source.offset_type)))
    return Entry(tag, kind, count, content[:length])


def make_entry(tag: int, numbers: Values | int, form: Form) -> Entry:
    """Make an entry of unsigned integers."""
    return Entry(tag, LONG8 if form.is_big else LONG, np.size(numbers), form.encode(numbers))


def encode_directory(form: Form, entries: list[Entry], offset: int) -> bytes:
    """Encode a directory that is the last of its chain.

    Parameters
    ----------
    offset : where it will be written
    """
    size = form.offset_type.itemsize
    written = np.zeros(len(entries), form.entry_type)
    behind_at = offset + form.count_type.itemsize + written.nbytes + size
    behind = bytearray()
    for row, entry in zip(written, sorted(entries, key=lambda each: each.tag), strict=True):
        content = entry.content
        if len(content) > size:
            content = form.encode(behind_at + len(behind))
            behind += entry.content
        row["tag"], row["type"], row["count"] = entry.tag, entry.kind, entry.count
        row["value"] = content.ljust(size, b"\0")
    count = np.array(len(written), form.count_type).tobytes()
    return count + written.tobytes() + form.encode(0) + behind
