"""Images in shared memory go to another process without a copy, and shrink as they are read."""

import gc
import mmap
import os
from pathlib import Path

import numpy as np

from superres.images.metadata import Metadata
from superres.images.picture import Picture
from superres.images.shared_arrays import allocate, find_memory, make_shared_memory, map_memory
from superres.sandbox.picture_transfer import (
    ReceivedPicture,
    SharedPicture,
    map_sealed,
    read_picture,
    share_picture,
    write_picture,
)

EIGHT = np.uint8
METADATA = Metadata(b"profile", texts=b"texts")


def draw(*shape: int) -> np.ndarray:
    """Noise in shared memory."""
    array = allocate(shape)
    array[:] = np.random.default_rng(0).integers(1, 256, shape, EIGHT)
    return np.asarray(array)


def receive(shared: SharedPicture) -> ReceivedPicture:
    """As the other process maps it."""
    memories = [
        map_memory(each, protection=mmap.PROT_READ | mmap.PROT_WRITE) for each in shared.descriptors
    ]
    return read_picture(memories, shared.description)


def count_pages(descriptor: int) -> int:
    return os.fstat(descriptor).st_blocks * 512 // mmap.PAGESIZE


def test_array_in_shared_memory_is_not_copied() -> None:
    pixels = draw(300, 400, 3)
    shared = share_picture(Picture(pixels, pixels[:, :, 0], metadata=METADATA))
    assert shared.size == (400, 300)
    assert shared.metadata_bytes == len(b"profile" + b"texts")
    received = receive(shared)
    assert received.alpha is not None  # copied, since it is a view with gaps
    assert np.array_equal(received.alpha, pixels[:, :, 0])
    assert received.metadata == METADATA
    pixels[7, 8] = 0, 0, 0
    assert not received.pixels[7, 8].any()


def test_rows_of_an_array_in_shared_memory_are_found() -> None:
    pixels = draw(300, 400, 3)
    rows = pixels[100:200]
    found = find_memory(rows)
    assert found is not None
    assert found[1] == 100 * 400 * 3
    assert np.array_equal(receive(share_picture(Picture(rows))).pixels, rows)
    assert find_memory(pixels.copy()) is None


def test_forgotten_rows_take_no_memory() -> None:
    shared = share_picture(Picture(draw(1000, 1000, 3)))
    received = receive(shared)
    before = received.pixels.copy()
    pages = count_pages(shared.descriptors[0])
    received.forget_rows(0, 600)
    freed = pages - count_pages(shared.descriptors[0])
    assert freed == 600 * 1000 * 3 // mmap.PAGESIZE
    assert np.array_equal(received.pixels[600:], before[600:])
    received.forget_rows(600, 999)
    assert count_pages(shared.descriptors[0]) <= 2
    assert np.array_equal(received.pixels[999], before[999])


def test_rows_that_share_a_page_with_others_stay() -> None:
    """Several small arrays lie in one page, and a large one begins where another ends."""
    for height, width in ((3, 5), (50, 50), (1, 2000)):
        random = np.random.default_rng(1)
        picture = Picture(
            random.integers(1, 256, (height, width, 3), EIGHT),
            random.integers(1, 256, (height, width), EIGHT),
            random.integers(1, 2**16, (height, width, 3), np.uint16),
        )
        received = receive(share_picture(picture))
        received.forget_rows(0, height // 2)
        for name in ("pixels", "alpha", "deep"):
            rows = getattr(received, name)[height // 2 :]
            assert np.array_equal(rows, getattr(picture, name)[height // 2 :])


def test_memory_of_several_arrays_is_passed_once() -> None:
    descriptor = make_shared_memory()
    pixels = np.array(draw(30, 40, 3))
    description = write_picture(Picture(pixels, pixels[:, :, 0]), descriptor)
    memory = map_memory(descriptor)
    os.close(descriptor)
    shared = share_picture(read_picture([memory], description))
    assert shared.memories[:-1] == [memory]
    received = receive(shared)
    assert np.array_equal(received.pixels, pixels)
    assert received.alpha is not None
    assert np.array_equal(received.alpha, pixels[:, :, 0])


def test_sealed_image_is_copied_and_stays() -> None:
    descriptor = make_shared_memory()
    pixels = np.array(draw(300, 400, 3))
    description = write_picture(Picture(pixels), descriptor)
    memory = map_sealed(descriptor)
    os.close(descriptor)
    assert memory is not None
    sealed = read_picture([memory], description)
    receive(share_picture(sealed)).forget_rows(0, 300)
    sealed.forget_rows(0, 300)
    assert np.array_equal(sealed.pixels, pixels)


def test_memory_ends_with_its_last_array() -> None:
    gc.collect()
    before = len(list(Path("/proc/self/fd").iterdir()))
    pixels = draw(30, 40, 3)
    rows = pixels[3:5]
    del pixels
    assert len(list(Path("/proc/self/fd").iterdir())) > before
    assert rows.any()
    del rows
    assert len(list(Path("/proc/self/fd").iterdir())) == before
