"""TIFF: what cannot be read is rejected truthfully; damage gives an image or an error."""

import struct
from collections.abc import Iterator
from io import BytesIO
from itertools import product
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from superres.errors import ServiceError, UndecodableImage, UnsupportedVariant
from superres.images.image_codec import decode_image, read_header
from testkit.hostile import tiff, tiff_picture
from testkit.pictures import encode
from testkit.tiff_files import (
    ALPHA,
    ASSOCIATED,
    COLOUR,
    PACKINGS,
    PHOTO,
    decode,
    draw,
    rgb_of,
    write_pages,
    write_tiff,
)
from tests.fuzz import damage

GREY = PHOTO[:, :, 0]


@pytest.mark.parametrize(
    ("pixels", "options", "words"),
    [
        ((PHOTO / 255).astype(np.float32), COLOUR, "floating-point samples of 32 bits"),
        ((PHOTO / 255).astype(np.float16), COLOUR, "floating-point samples of 16 bits"),
        (GREY / 255, {"photometric": "minisblack"}, "floating-point samples of 64 bits"),
        (PHOTO.astype(np.uint32), COLOUR, "with samples of 32 bits"),
        (GREY.astype(np.int16), {"photometric": "minisblack"}, "signed samples of 16 bits"),
        (GREY.view(np.int8), {"photometric": "minisblack"}, "signed samples of 8 bits"),
        (GREY.astype(np.complex64), {"photometric": "minisblack"}, "complex samples"),
        (PHOTO, {"photometric": "icclab"}, "ICC Lab, 3 x 8 bits"),
    ],
)
def test_samples_that_are_not_accepted_are_named(
    pixels: np.ndarray, options: dict[str, Any], words: str
) -> None:
    content = BytesIO(write_pages((pixels, options)))
    for refusing in (lambda: read_header(content, 10**6), lambda: decode_image(content)):
        with pytest.raises(UnsupportedVariant, match=words) as refused:
            refusing()
        assert (
            "save it as RGB, grey, CMYK or Lab with 8 or 16 bits per sample"
            in refused.value.message
        )


@pytest.mark.parametrize(
    ("tag", "value", "words"),
    [
        ("Compression", 34712, "JPEG 2000"),
        ("Compression", 34887, "LERC"),
        ("Compression", 12345, "number 12345"),
        ("PhotometricInterpretation", 4242, "unknown, 3 x 8 bits"),
        ("BitsPerSample", (12, 12, 12), "RGB, 3 x 12 bits"),
        ("BitsPerSample", (5, 6, 5), "RGB, 3 x 5/6 bits"),
    ],
)
def test_layouts_that_are_not_accepted_are_named(tag: str, value: Any, words: str) -> None:
    buffer = BytesIO(write_tiff(PHOTO, "rgb", compression="zlib"))
    with tifffile.TiffFile(buffer, mode="r+") as reader:
        reader.pages.first.tags[tag].overwrite(value)
    with pytest.raises(UnsupportedVariant, match=words):
        read_header(BytesIO(buffer.getvalue()), 10**6)


@pytest.mark.parametrize(
    ("photometric", "bits", "row"),
    [(1, 1, None), (0, 1, None), (1, 8, [0x0F, 0xAA]), (0, 8, "grey"), (3, 4, "palette")],
)
def test_reversed_bytes_are_read_or_named(
    photometric: int, bits: int, row: list[int] | str | None
) -> None:
    colours = [(320, 3, 48, 200)] if photometric == 3 else []
    pieces = (273, 4, 1, 190), (279, 4, 1, 2), (266, 3, 1, 2), *colours
    entries = tiff_picture(16 // bits, 1, *pieces)
    values = {258: bits, 262: photometric}
    content = tiff([(tag, kind, n, values.get(tag, value)) for tag, kind, n, value in entries])
    content = content.ljust(190, b"\0") + b"\xf0\x55" + bytes(200)
    if isinstance(row, str):
        with pytest.raises(UnsupportedVariant, match=f"{row}, 1 x {bits} bits, reversed bit order"):
            decode(content)
        return
    ones = [int(bit) for bit in f"{0x0FAA:016b}"]
    expected = row or [255 * (bit if photometric == 1 else 1 - bit) for bit in ones]
    assert decode(content).pixels.ravel().tolist() == expected


def test_other_inks_and_subsampled_colours_are_refused_and_not_guessed() -> None:
    inks = write_tiff(draw(4, np.uint8), "separated", extratags=[(332, "H", 1, 2, True)])
    with pytest.raises(UnsupportedVariant, match="inks other than CMYK"):
        decode(inks)
    for planar, compression in ((False, None), (True, None), (True, "zlib")):
        buffer = BytesIO(write_tiff(PHOTO, "ycbcr", planar=planar, compression=compression))
        with tifffile.TiffFile(buffer, mode="r+") as reader:
            reader.pages.first.tags["YCbCrSubSampling"].overwrite((2, 2))
        with pytest.raises(UnsupportedVariant, match="subsampled YCbCr, 3 x 8 bits"):
            decode(buffer.getvalue())


def jpeg_planes(photometric: str, step: int) -> bytes:
    """Write a TIFF with JPEG planes; all but the first are subsampled by `step` x `step`."""
    image = Image.fromarray(PHOTO).convert("RGB" if photometric == "rgb" else "YCbCr")
    parts = [np.asarray(part) for part in image.split()]
    parts[1:] = [np.ascontiguousarray(part[::step, ::step]) for part in parts[1:]]
    planes = (encode(Image.fromarray(part), "JPEG", quality=100) for part in parts)
    options: dict[str, Any]
    options = {"photometric": photometric, "rowsperstrip": PHOTO.shape[0], "planarconfig": 2}
    shape: dict[str, Any] = {"shape": np.moveaxis(PHOTO, 2, 0).shape, "dtype": PHOTO.dtype}
    buffer = BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        writer.write(planes, metadata=None, compression="zlib", **shape, **options)
    buffer.seek(0)
    with tifffile.TiffFile(buffer, mode="r+") as reader:
        tags = reader.pages.first.tags
        tags["Compression"].overwrite(7)
        if photometric == "ycbcr":
            tags["YCbCrSubSampling"].overwrite((step, step))
    return buffer.getvalue()


@pytest.mark.parametrize("photometric", ["rgb", "ycbcr"])
def test_planes_of_jpegs_are_put_together(photometric: str) -> None:
    differences = rgb_of(decode(jpeg_planes(photometric, 1))).astype(int) - PHOTO
    assert np.abs(differences).mean() < 1


def test_subsampled_planes_of_jpegs_are_not_called_damaged() -> None:
    with pytest.raises(UnsupportedVariant, match="subsampled YCbCr, 3 x 8 bits, planar"):
        decode(jpeg_planes("ycbcr", 2))


# --- damaged and hostile


def read_outcome(content: bytes) -> str:
    try:
        header, picture = read_header(BytesIO(content), 10**6), decode_image(BytesIO(content))
    except ServiceError as error:
        return error.code
    assert picture.pixels.shape[0] * picture.pixels.shape[1] == header.pixels
    return "a picture"


def files_of_every_layout() -> Iterator[bytes]:
    for dtype, planar, tiled in product((np.uint8, np.uint16), (False, True), (False, True)):
        for compression, predictor in PACKINGS:
            layout: dict[str, Any] = {"planar": planar, "tiled": tiled, "compression": compression}
            samples = draw(5, dtype)
            yield write_tiff(samples, "separated", (ALPHA,), predictor=predictor, **layout)
            yield write_tiff(samples[:, :, :4], "cielab", (ASSOCIATED,), **layout)


def test_damaged_tiff_gives_a_picture_or_an_error_of_the_service() -> None:
    random = np.random.default_rng(5)
    files = list(files_of_every_layout())
    outcomes = set()
    for _ in range(1500):
        first, second = random.integers(0, len(files), 2)
        outcomes.add(read_outcome(damage(files[first], files[second], random)))
    assert outcomes == {
        "a picture",
        "undecodable_image",
        "unsupported_media_type",
        "unsupported_variant",
        "too_many_pixels",
    }


@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "packbits"])
@pytest.mark.parametrize("planar", [False, True], ids=["together", "in planes"])
def test_tiff_cut_short_is_never_half_a_picture(planar: bool, compression: str | None) -> None:
    content = write_tiff(
        draw(4, np.uint16), "rgb", (ALPHA,), planar=planar, compression=compression
    )
    for keep in (0.5, 0.9, 0.99):
        assert read_outcome(content[: int(len(content) * keep)]) == "undecodable_image"


def test_palette_that_is_cut_is_not_called_unknown() -> None:
    content = tiff(tiff_picture(2, 1, (273, 4, 1, 8), (279, 4, 1, 2), (320, 3, 768, 200)))
    grey, palette = (struct.pack("<HHLL", 262, 3, 1, each) for each in (1, 3))
    content = content.replace(grey, palette)
    whole = content.ljust(200 + 2 * 768, b"\0")
    assert decode(whole).size == (2, 1)
    few = whole.replace(struct.pack("<HHL", 320, 3, 768), struct.pack("<HHL", 320, 3, 48))
    for damaged in (whole[:-1], content, few):
        with pytest.raises(UndecodableImage, match="header is damaged or cut short"):
            read_header(BytesIO(damaged), 10**6)


def test_strips_that_are_one_are_read_each_time() -> None:
    """It is not forbidden, and does not increase memory."""
    entries = tiff_picture(9, 3, (273, 4, 3, 200), (278, 4, 1, 1), (279, 4, 3, 212))
    rest = bytes(200 - 8 - 2 - 12 * len(entries) - 4)
    pointers = struct.pack("<6L", 224, 224, 224, 9, 9, 9)
    picture = decode(tiff(entries, rest + pointers + b"ABCDEFGHI"))
    assert [bytes(row) for row in picture.pixels] == [b"ABCDEFGHI"] * 3


HOSTILE = {
    "no strips": tiff(tiff_picture(9, 9)),
    "strips of a huge number": tiff(tiff_picture(9, 9, (273, 4, 2**32 - 1, 8), (279, 4, 1, 9))),
    "strip outside": tiff(tiff_picture(9, 9, (273, 4, 1, 10**9), (279, 4, 1, 81))),
    "no rows in a strip": tiff(tiff_picture(9, 9, (273, 4, 1, 8), (278, 4, 1, 0), (279, 4, 1, 81))),
    "tiles of a pixel": tiff(
        tiff_picture(9, 9, (322, 4, 1, 1), (323, 4, 1, 1), (324, 4, 1, 8), (325, 4, 1, 1))
    ),
    "tiles of nothing": tiff(
        tiff_picture(9, 9, (322, 4, 1, 0), (323, 4, 1, 0), (324, 4, 1, 8), (325, 4, 1, 1))
    ),
    "a million samples": tiff(
        [(256, 4, 1, 9), (257, 4, 1, 9), (258, 3, 1, 8), (262, 3, 1, 1), (277, 4, 1, 10**6)]
    ),
    "no size": tiff([(258, 3, 1, 8), (262, 3, 1, 1), (273, 4, 1, 8)]),
    "no bits": tiff(
        [(256, 4, 1, 9), (257, 4, 1, 9), (258, 3, 1, 0), (262, 3, 1, 1), (273, 4, 1, 8)]
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_impossible_layout_is_an_error_of_the_service(name: str) -> None:
    assert read_outcome(HOSTILE[name]) in {"undecodable_image", "unsupported_variant"}


def test_start_alone_is_undecodable() -> None:
    for content in (b"II*\0", b"MM\0*\0\0\0\x08", b"II+\0\x08\0\0\0", b"II*\0\0\0\0\0"):
        with pytest.raises(UndecodableImage, match="header"):
            read_header(BytesIO(content), 10**6)


def test_directory_of_countless_entries_is_undecodable() -> None:
    others = [(tag, 4, 1, 0) for tag in range(40_000, 45_000)]
    content = tiff(tiff_picture(9, 9, (273, 4, 1, 8), (279, 4, 1, 81), *others))
    with pytest.raises(UndecodableImage, match="header"):
        read_header(BytesIO(content), 10**6)
