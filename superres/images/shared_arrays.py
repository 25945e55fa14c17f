"""Arrays in shared memory: another process can map them, and give back what it has read."""

import mmap
import os
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt

# All pages at once: faulting them in one by one would cost a third of the encoding time.
SHARED_AT_ONCE = mmap.MAP_SHARED | mmap.MAP_POPULATE


class SharedMemory(mmap.mmap):
    """Mapped memory whose `descriptor` is open for as long as it, or an array in it, is used."""

    descriptor: int


def make_shared_memory() -> int:
    """Return a file descriptor of empty, sealable shared memory."""
    return os.memfd_create("picture", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def map_memory(
    descriptor: int,
    flags: int = SHARED_AT_ONCE,
    protection: int = mmap.PROT_READ,
) -> SharedMemory:
    """Map all of some shared memory, which must not be empty."""
    memory = SharedMemory(descriptor, os.fstat(descriptor).st_size, flags, protection)
    memory.descriptor = os.dup(descriptor)
    weakref.finalize(memory, os.close, memory.descriptor)
    return memory


def allocate(shape: tuple[int, ...], dtype: npt.DTypeLike = np.uint8) -> Any:
    """Return an array of zeros in shared memory of its own."""
    count = int(np.prod(shape, dtype=np.int64))
    descriptor = make_shared_memory()
    try:
        os.ftruncate(descriptor, count * np.dtype(dtype).itemsize)
        # Its pages are taken when they are first written to.
        memory = map_memory(descriptor, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    finally:
        os.close(descriptor)
    return np.frombuffer(memory, dtype).reshape(shape)


def find_memory(array: npt.NDArray[Any]) -> tuple[SharedMemory, int] | None:
    """Return the shared memory of a contiguous array, and its offset there; None if it has none."""
    owner: Any = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if isinstance(owner, memoryview):
        owner = owner.obj
    if not isinstance(owner, SharedMemory) or not array.flags.c_contiguous:
        return None
    start = np.frombuffer(owner, np.uint8, 1).ctypes.data
    return owner, array.ctypes.data - start
