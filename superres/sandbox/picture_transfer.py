"""Passes decoded images between processes in shared memory."""

import fcntl
import mmap
import os
from typing import Any

import numpy as np

from superres.images.image_codec import Picture
from superres.images.metadata import Metadata

# Alignment of arrays, enough for any type.
ALIGNMENT = 64
ARRAYS = {"pixels": "uint8", "alpha": "uint8", "deep": "uint16"}
BLOBS = ("icc_profile", "exif", "xmp", "iptc", "texts", "colour_chunks")
# All pages at once: faulting them in one by one would cost a third of the encoding time.
SHARED = mmap.MAP_SHARED | mmap.MAP_POPULATE
# No process can shrink it under a reader, or change what was checked.
SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE

Description = dict[str, Any]


def make_shared_memory() -> int:
    """Return a file descriptor of empty, sealable shared memory."""
    return os.memfd_create("picture", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def map_sealed(descriptor: int) -> mmap.mmap | None:
    """Return what another process has written, sealed against further changes.

    None if it has written nothing.

    Raises
    ------
    OSError
        Some process still has it mapped for writing.
    """
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS)
    length = os.fstat(descriptor).st_size
    return mmap.mmap(descriptor, length, SHARED, mmap.PROT_READ) if length else None


def write_picture(picture: Picture, descriptor: int) -> Description:
    """Write an image to shared memory; return a description of where its parts are."""
    parts: dict[str, Any] = {}
    length = 0
    arrays = {name: getattr(picture, name) for name in ARRAYS}
    for name, array in arrays.items():
        if array is not None:
            parts[name] = {"offset": length, "shape": array.shape}
            length += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
    blobs = {name: getattr(picture.metadata, name) for name in BLOBS}
    for name, blob in blobs.items():
        if blob is not None:
            parts[name] = {"offset": length, "length": len(blob)}
            length += len(blob)
    os.ftruncate(descriptor, length)
    # Not through a mapping: the kernel would first clear its pages, which takes as long again.
    for name, array in arrays.items():
        if array is not None:
            write_all(descriptor, np.ascontiguousarray(array).data, parts[name]["offset"])
    for name, blob in blobs.items():
        if blob is not None:
            write_all(descriptor, blob, parts[name]["offset"])
    return {"parts": parts, "dpi": picture.metadata.dpi}


def write_all(descriptor: int, content: memoryview | bytes, offset: int) -> None:
    """Write bytes at an offset, more than the 2 GiB that one system call takes."""
    view = memoryview(content).cast("B")
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def view_array(memory: mmap.mmap, name: str, part: dict[str, Any]) -> Any:
    """Return an array in shared memory, without copying.

    Raises
    ------
    ValueError
        It would extend past the end.
    """
    count = int(np.prod(part["shape"], dtype=np.int64))
    array = np.frombuffer(memory, ARRAYS[name], count, part["offset"])
    return array.reshape(part["shape"])


def read_picture(memory: mmap.mmap, description: Description) -> Picture:
    """Return an image in shared memory; its arrays are not copied, and read-only.

    Raises
    ------
    ValueError, KeyError, TypeError
        The description does not come from `write_picture`.
    """
    parts = description["parts"]
    arrays = {name: view_array(memory, name, parts[name]) for name in ARRAYS if name in parts}
    blobs = {
        name: memory[parts[name]["offset"] : parts[name]["offset"] + parts[name]["length"]]
        for name in BLOBS
        if name in parts
    }
    dpi = description["dpi"]
    metadata = Metadata(**blobs, dpi=None if dpi is None else (float(dpi[0]), float(dpi[1])))
    return Picture(**arrays, metadata=metadata)
