"""Passes decoded images between processes in shared memory."""

import fcntl
import mmap
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from superres.images.metadata import Metadata
from superres.images.picture import Picture
from superres.images.shared_arrays import (
    SharedMemory,
    find_memory,
    make_shared_memory,
    map_memory,
)

# Alignment of arrays, enough for any type.
ALIGNMENT = 64
ARRAYS = {"pixels": "uint8", "alpha": "uint8", "deep": "uint16"}
BLOBS = ("icc_profile", "exif", "xmp", "iptc", "texts", "colour_chunks")
# No process can shrink it under a reader; with the second, nor change it.
SIZE_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
SEALS = SIZE_SEALS | fcntl.F_SEAL_WRITE

Description = dict[str, Any]


@dataclass(frozen=True)
class SharedPicture:
    """An image in shared memory, for another process.

    Attributes
    ----------
    memories : what its parts are in
    description : where they are, as `read_picture` needs it
    """

    memories: list[SharedMemory]
    description: Description

    @property
    def descriptors(self) -> list[int]:
        """Descriptors of its memories."""
        return [memory.descriptor for memory in self.memories]

    @property
    def mapped_bytes(self) -> int:
        """Length of its memories, of which parts may be unused, or given back."""
        return sum(map(len, self.memories))

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        height, width, *_ = self.description["parts"]["pixels"]["shape"]
        return width, height

    @property
    def has_alpha(self) -> bool:
        """Whether it has transparency."""
        return "alpha" in self.description["parts"]

    @property
    def is_deep(self) -> bool:
        """Whether it has 16 bits per sample."""
        return "deep" in self.description["parts"]

    @property
    def metadata_bytes(self) -> int:
        """Length of its metadata."""
        return sum(part.get("length", 0) for part in self.description["parts"].values())


class ReceivedPicture(Picture):
    """An image in shared memory that no other process reads any more."""

    def forget_rows(self, start: int, stop: int) -> None:
        """Give the rows' pages back to the system."""
        for array in (self.pixels, self.alpha, self.deep):
            if array is not None and (found := find_memory(array)) is not None:
                memory, offset = found
                ends = [(offset + row * array.strides[0]) // mmap.PAGESIZE for row in (start, stop)]
                # The array before it may end in its first page.
                first = max(ends[0], -(-offset // mmap.PAGESIZE)) * mmap.PAGESIZE
                length = ends[1] * mmap.PAGESIZE - first
                if length > 0:
                    with suppress(OSError):  # it is sealed, or the system cannot
                        memory.madvise(mmap.MADV_REMOVE, first, length)


def map_sealed(descriptor: int, seals: int = SEALS) -> SharedMemory | None:
    """Return what another process has written, sealed against further changes.

    None if it has written nothing.

    Parameters
    ----------
    seals : SIZE_SEALS if this process wants to forget parts of it

    Raises
    ------
    OSError
        Some process still has it mapped for writing.
    """
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return map_memory(descriptor) if os.fstat(descriptor).st_size else None


def is_sealed(memory: SharedMemory) -> bool:
    """Tell whether shared memory can no longer change."""
    return bool(fcntl.fcntl(memory.descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE)


def write_picture(picture: Picture, descriptor: int) -> Description:
    """Write an image to shared memory; return a description of where its parts are."""
    arrays = {name: getattr(picture, name) for name in ARRAYS}
    return {
        "parts": write_parts(arrays, picture.metadata, descriptor, 0),
        "dpi": picture.metadata.dpi,
    }


def share_picture(picture: Picture) -> SharedPicture:
    """Describe an image for another process, which may give its memory back.

    Only what is not in shared memory, or sealed there, is copied.
    """
    memories: list[SharedMemory] = []
    parts: dict[str, Any] = {}
    others: dict[str, Any] = {}
    for name in ARRAYS:
        array = getattr(picture, name)
        found = None if array is None else find_memory(array)
        if found is None or is_sealed(found[0]):
            others[name] = array
        else:
            memory, offset = found
            if memory not in memories:
                memories.append(memory)
            number = memories.index(memory)
            parts[name] = {"memory": number, "offset": offset, "shape": array.shape}
    descriptor = make_shared_memory()
    try:
        parts |= write_parts(others, picture.metadata, descriptor, len(memories))
        memories.append(map_memory(descriptor, mmap.MAP_SHARED))
    finally:
        os.close(descriptor)
    return SharedPicture(memories, {"parts": parts, "dpi": picture.metadata.dpi})


def write_parts(
    arrays: dict[str, Any], metadata: Metadata, descriptor: int, memory: int
) -> dict[str, Any]:
    """Write parts of an image to shared memory; return where they are.

    Parameters
    ----------
    memory : number that readers know it by
    """
    contents: list[tuple[int, memoryview | bytes]] = []
    parts: dict[str, Any] = {}
    length = 0
    for name, array in arrays.items():
        if array is not None:
            parts[name] = {"memory": memory, "offset": length, "shape": array.shape}
            contents.append((length, np.ascontiguousarray(array).data))
            length += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
    for name in BLOBS:
        blob = getattr(metadata, name)
        if blob is not None:
            parts[name] = {"memory": memory, "offset": length, "length": len(blob)}
            contents.append((length, blob))
            length += len(blob)
    os.ftruncate(descriptor, max(length, 1))  # no empty memory can be mapped
    # Not through a mapping: the kernel would first clear its pages, which takes as long again.
    for offset, content in contents:
        write_all(descriptor, content, offset)
    return parts


def write_all(descriptor: int, content: memoryview | bytes, offset: int) -> None:
    """Write bytes at an offset, more than the 2 GiB that one system call takes."""
    view = memoryview(content).cast("B")
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def view_array(memories: Sequence[mmap.mmap], name: str, part: dict[str, Any]) -> Any:
    """Return an array in shared memory, without copying.

    Raises
    ------
    ValueError
        It would extend past the end.
    """
    count = int(np.prod(part["shape"], dtype=np.int64))
    array = np.frombuffer(memories[part["memory"]], ARRAYS[name], count, part["offset"])
    return array.reshape(part["shape"])


def read_picture(memories: Sequence[mmap.mmap], description: Description) -> ReceivedPicture:
    """Return an image in shared memory; its arrays are not copied.

    Raises
    ------
    ValueError, IndexError, KeyError, TypeError
        The description does not come from `write_picture` or `share_picture`.
    """
    parts = description["parts"]
    arrays = {name: view_array(memories, name, parts[name]) for name in ARRAYS if name in parts}
    blobs = {
        name: memories[part["memory"]][part["offset"] : part["offset"] + part["length"]]
        for name, part in parts.items()
        if name in BLOBS
    }
    dpi = description["dpi"]
    metadata = Metadata(**blobs, dpi=None if dpi is None else (float(dpi[0]), float(dpi[1])))
    return ReceivedPicture(**arrays, metadata=metadata)
