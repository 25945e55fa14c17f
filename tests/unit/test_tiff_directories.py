"""TIFF: further directories are thumbnails and masks, or pages, which are refused."""

import struct
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import tifffile

from superres.errors import UnsupportedVariant
from superres.images.image_codec import read_header
from testkit.tiff_files import (
    COLOUR,
    ORDERS,
    PHOTO,
    Page,
    decode,
    rgb_of,
    write_pages,
)

INDEXED = {
    "photometric": "palette",
    "colormap": (np.arange(768) % 256 * 257).astype(np.uint16).reshape(3, 256),
}
REDUCED: dict[str, Any]
REDUCED, MASK, REDUCED_MASK = {"subfiletype": 1}, {"subfiletype": 4}, {"subfiletype": 5}
OLD_REDUCED = {"extratags": [(255, "H", 1, 2, True)]}
FULL, HALF = (PHOTO, COLOUR), (PHOTO[::2, ::2], COLOUR)
SHAPE = PHOTO[:, :, 0] > 99


@pytest.mark.parametrize(
    "others",
    [
        [(PHOTO[::2, ::2], COLOUR | REDUCED), (PHOTO[::4, ::4], COLOUR | REDUCED)],
        [(PHOTO[::2, ::2], COLOUR | OLD_REDUCED)],
        [(SHAPE, {"photometric": "mask"} | MASK)],
        [
            (SHAPE, {"photometric": "mask"} | MASK),
            (PHOTO[::2, ::2], COLOUR | REDUCED),
            (SHAPE[::2, ::2], {"photometric": "mask"} | REDUCED_MASK),
        ],
    ],
    ids=["overviews", "thumbnail of TIFF 5", "mask", "overviews with masks"],
)
def test_reduced_copies_and_masks_are_no_pages(others: list[Page]) -> None:
    np.testing.assert_array_equal(rgb_of(decode(write_pages(FULL, *others))), PHOTO)
    first = others[0]
    np.testing.assert_array_equal(rgb_of(decode(write_pages(first, FULL, *others[1:]))), PHOTO)


def test_palette_picture_behind_its_thumbnail_is_found() -> None:
    thumbnail = (PHOTO[::2, ::2], COLOUR | REDUCED)
    picture, grey = (PHOTO[:, :, 0], INDEXED), np.repeat(PHOTO[:, :, :1], 3, axis=2)
    for content in (write_pages(picture, thumbnail), write_pages(thumbnail, picture)):
        np.testing.assert_array_equal(rgb_of(decode(content)), grey)


@pytest.mark.parametrize(
    ("pixels", "options"),
    [
        (PHOTO[:, :, 0], INDEXED),
        (PHOTO[:, :, 0], INDEXED | {"compression": "zlib", "rowsperstrip": 5}),
        (PHOTO[:, :, 0] > 99, {"photometric": "minisblack"}),
        (PHOTO, {"photometric": "ycbcr", "compression": "zlib", "tile": (16, 16)}),
    ],
    ids=["palette", "packed palette", "one bit", "YCbCr"],
)
def test_big_tiff_of_either_order_is_the_same_picture(
    pixels: np.ndarray, options: dict[str, Any]
) -> None:
    resolution: dict[str, Any] = {"resolution": (300, 200), "resolutionunit": "INCH"}
    pictures = []
    for order, big in ORDERS:
        buffer = BytesIO()
        with tifffile.TiffWriter(buffer, byteorder=order, bigtiff=big) as writer:
            writer.write(pixels, metadata=None, **options, **resolution)
        pictures.append(decode(buffer.getvalue()))
        assert pictures[-1].metadata.dpi == (300, 200)
        np.testing.assert_array_equal(pictures[-1].pixels, pictures[0].pixels)


@pytest.mark.parametrize("greatest", [255, 65_535])
def test_palette_of_8_or_16_bits_has_its_colours(greatest: int) -> None:
    numbers = np.arange(256)[::-1]
    colours = np.stack([numbers, 255 - numbers, numbers // 2]) * (greatest // 255)
    options = {"photometric": "palette", "colormap": colours.astype(np.uint16)}
    found = rgb_of(decode(write_pages((PHOTO[:, :, 0], options))))
    expected = np.moveaxis(colours // (greatest // 255), 0, 1)[PHOTO[:, :, 0]]
    np.testing.assert_array_equal(found, expected)


def test_reduced_picture_is_taken_where_there_is_no_other() -> None:
    content = write_pages((PHOTO, COLOUR | REDUCED))
    np.testing.assert_array_equal(rgb_of(decode(content)), PHOTO)


def test_preview_of_a_raw_file_is_no_picture() -> None:
    content = write_pages((PHOTO[::2, ::2], {**COLOUR, **REDUCED, "subifds": 1}), FULL)
    with pytest.raises(UnsupportedVariant, match="preview"):
        read_header(BytesIO(content), 10**6)


@pytest.mark.parametrize(
    "pages",
    [
        [FULL, FULL],
        [FULL, HALF],
        [(PHOTO, COLOUR | {"subfiletype": 2})] * 2,
        [(PHOTO, COLOUR | REDUCED), FULL, FULL],
    ],
)
def test_true_pages_are_refused(pages: list[Page]) -> None:
    with pytest.raises(UnsupportedVariant, match="Multi-page"):
        read_header(BytesIO(write_pages(*pages)), 10**6)


def last_pointer(content: bytes) -> int:
    """The offset of a little-endian TIFF's pointer from the first directory to the next."""
    (offset,) = struct.unpack_from("<L", content, 4)
    (count,) = struct.unpack_from("<H", content, offset)
    return int(offset + 2 + 12 * count)


def test_pointer_to_nowhere_and_a_loop_end_the_directories() -> None:
    content = write_pages(FULL)
    (first,) = struct.unpack_from("<L", content, 4)
    for target in (first, 10**9, len(content) - 1):
        changed = bytearray(content)
        struct.pack_into("<L", changed, last_pointer(content), target)
        np.testing.assert_array_equal(rgb_of(decode(bytes(changed))), PHOTO)


def test_endless_overviews_are_refused() -> None:
    pages = [FULL, *[(PHOTO[:16, :16], COLOUR | REDUCED)] * 100]
    with pytest.raises(UnsupportedVariant, match="Multi-page"):
        read_header(BytesIO(write_pages(*pages)), 10**6)
