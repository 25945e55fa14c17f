"""Decoded images in shared memory, which one process writes and another reads."""

import fcntl
import mmap
import os
from typing import Any

import numpy as np

from superres.images.image_codec import Picture
from superres.images.metadata import Metadata

# Where an array may begin: whatever its type.
ALIGNMENT = 64
ARRAYS = {"pixels": "uint8", "alpha": "uint8", "deep": "uint16"}
BLOBS = ("icc_profile", "exif")
# All pages at once: one by one, the first touch of each costs a third of what encoding does.
SHARED = mmap.MAP_SHARED | mmap.MAP_POPULATE
# Nobody can shrink it beneath a reader, or change what was checked.
SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE

Description = dict[str, Any]


def make_shared_memory() -> int:
    """Return a descriptor of shared memory that is empty and can be sealed."""
    return os.memfd_create("picture", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def map_sealed(descriptor: int) -> mmap.mmap | None:
    """Return what another process has written, so that nobody can change it any more.

    None where it has written nothing.

    Raises
    ------
    OSError
        The other process, or another, can still write.
    """
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS)
    length = os.fstat(descriptor).st_size
    return mmap.mmap(descriptor, length, SHARED, mmap.PROT_READ) if length else None


def write_picture(picture: Picture, descriptor: int) -> Description:
    """Write an image to shared memory; the description says where its parts are."""
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
    with mmap.mmap(descriptor, length, SHARED) as memory:
        for name, array in arrays.items():
            if array is not None:
                view_array(memory, name, parts[name])[...] = array
        for name, blob in blobs.items():
            if blob is not None:
                memory[parts[name]["offset"] : parts[name]["offset"] + len(blob)] = blob
    return {"parts": parts, "dpi": picture.metadata.dpi}


def view_array(memory: mmap.mmap, name: str, part: dict[str, Any]) -> Any:
    """Return an array in shared memory, without copying.

    Raises
    ------
    ValueError
        It would lie outside.
    """
    count = int(np.prod(part["shape"], dtype=np.int64))
    array = np.frombuffer(memory, ARRAYS[name], count, part["offset"])
    return array.reshape(part["shape"])


def read_picture(memory: mmap.mmap, description: Description) -> Picture:
    """Return an image that lies in shared memory, its arrays without copying and read-only.

    Raises
    ------
    ValueError, KeyError, TypeError
        The description is not one of `write_picture`.
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
