"""TIFF: every sample layout gives the image that was written, or is rejected truthfully."""

import struct
from collections.abc import Iterator
from io import BytesIO
from itertools import product
from typing import Any, Literal

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms
from PIL.ExifTags import IFD, Base
from skimage import data

from superres.errors import ServiceError, UndecodableImage, UnsupportedUpload
from superres.images.image_codec import Picture, decode_image, read_header
from superres.images.resampling import to_levels
from testkit.hostile import tiff, tiff_picture
from testkit.pictures import encode
from testkit.tiff_files import write_tiff
from tests.fuzz import damage

HEIGHT, WIDTH = 37, 45
PHOTO = data.astronaut()[60:132, 180:276]
ALPHA, ASSOCIATED, UNKNOWN = "unassalpha", "assocalpha", "unspecified"
# Photometric interpretation, colours, and extra samples.
KINDS: dict[str, tuple[str, int, tuple[str, ...]]] = {
    "grey": ("minisblack", 1, ()),
    "grey from white": ("miniswhite", 1, ()),
    "grey and alpha": ("minisblack", 1, (ALPHA,)),
    "grey and associated alpha": ("minisblack", 1, (ASSOCIATED,)),
    "RGB": ("rgb", 3, ()),
    "RGBA": ("rgb", 3, (ALPHA,)),
    "RGB, associated alpha": ("rgb", 3, (ASSOCIATED,)),
    "RGB, something, alpha": ("rgb", 3, (UNKNOWN, ALPHA)),
    "RGB, something": ("rgb", 3, (UNKNOWN,)),
}
PACKINGS = (
    *((None, False), ("zlib", False), ("zlib", True), ("lzw", False), ("lzw", True)),
    *(("packbits", False), ("lzma", True)),
)
Order = Literal["<", ">"]
ORDERS: tuple[tuple[Order, bool], ...] = (("<", False), (">", False), ("<", True), (">", True))


def draw(channels: int, dtype: type) -> np.ndarray:
    """Gradients, a different one for each sample, that use every bit."""
    row, column = np.mgrid[:HEIGHT, :WIDTH]
    slopes = [column * (each + 1) * 311 + row * (each + 2) * 177 for each in range(channels)]
    return (np.stack(slopes, 2) % (np.iinfo(dtype).max + 1)).astype(dtype)


def decode(content: bytes) -> Picture:
    """Decode an image, and check that its header agrees."""
    header, picture = read_header(BytesIO(content), 10**6), decode_image(BytesIO(content))
    assert (header.width, header.height) == picture.size
    assert header.has_alpha == (picture.alpha is not None)
    assert header.is_deep == (picture.deep is not None)
    return picture


def rgb_of(picture: Picture) -> np.ndarray:
    """Return (H, W, C): RGB or grey, in the decoded depth."""
    pixels = np.atleast_3d(picture.pixels if picture.deep is None else picture.deep)
    if picture.deep is not None:
        np.testing.assert_array_equal(np.atleast_3d(picture.pixels), to_levels(picture.deep))
    return pixels[:, :, ::-1]


def multiply(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Return colours premultiplied by alpha, as in a file with associated alpha."""
    exact = colours.astype(float) * alpha / np.iinfo(colours.dtype).max
    return np.asarray(np.rint(exact), colours.dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("planar", [False, True], ids=["together", "in planes"])
@pytest.mark.parametrize("kind", KINDS)
def test_samples_of_every_layout_are_what_was_written(kind: str, planar: bool, dtype: type) -> None:
    photometric, colours, extra = KINDS[kind]
    samples, greatest = draw(colours + len(extra), dtype), int(np.iinfo(dtype).max)
    expected = samples[:, :, :colours]
    if photometric == "miniswhite":
        expected = greatest - expected
    alpha = samples[:, :, colours:][:, :, -1:] if {ALPHA, ASSOCIATED} & set(extra) else None
    if ASSOCIATED in extra and alpha is not None:
        alpha[...] = np.maximum(alpha, greatest // 4)
        samples[:, :, :colours] = multiply(expected, alpha)
        exact = samples[:, :, :colours].astype(float) * greatest / alpha
        expected = np.minimum(np.rint(exact), greatest)
    for (compression, predictor), tiled, (order, big) in product(PACKINGS, (False, True), ORDERS):
        layout: dict[str, Any] = {"planar": planar, "compression": compression, "tiled": tiled}
        content = write_tiff(
            samples, photometric, extra, predictor=predictor, order=order, big=big, **layout
        )
        picture = decode(content)
        said = f"{layout}, predictor {predictor}, {order}, big {big}"
        assert (picture.deep is not None) == (dtype == np.uint16), said
        np.testing.assert_array_equal(rgb_of(picture), expected, said)
        assert (picture.alpha is not None) == (alpha is not None), said
        if alpha is not None and picture.alpha is not None:
            levels = to_levels(alpha) if dtype == np.uint16 else alpha
            np.testing.assert_array_equal(picture.alpha, levels[:, :, 0], said)


@pytest.mark.parametrize("planar", [False, True], ids=["together", "in planes"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("extra", [(), (ALPHA,), (UNKNOWN,), (UNKNOWN, ALPHA)])
def test_cmyk_of_every_depth_comes_as_8_bits(
    extra: tuple[str, ...], dtype: type, planar: bool
) -> None:
    samples = draw(4 + len(extra), dtype)
    levels = samples if dtype == np.uint8 else to_levels(samples)
    inks = np.ascontiguousarray(levels[:, :, :4])
    expected = Image.frombytes("CMYK", (WIDTH, HEIGHT), inks.tobytes()).convert("RGB")
    picture = decode(write_tiff(samples, "separated", extra, planar=planar, compression="lzw"))
    np.testing.assert_array_equal(rgb_of(picture), np.asarray(expected))
    assert picture.deep is None
    if ALPHA in extra:
        assert picture.alpha is not None
        np.testing.assert_array_equal(picture.alpha, levels[:, :, -1])
    else:
        assert picture.alpha is None


def lab_of(rgb: np.ndarray) -> np.ndarray:
    """Return 8-bit sRGB as L, a and b."""
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    converted = ImageCms.profileToProfile(Image.fromarray(rgb), *profiles, outputMode="LAB")
    levels = np.asarray(converted)
    return np.dstack([levels[:, :, 0] / 2.55, levels[:, :, 1:].view(np.int8).astype(float)])


def lab_samples(lab: np.ndarray, dtype: type) -> np.ndarray:
    """Return Lab as stored by TIFF 6.0: a and b are signed."""
    unit = 256 if dtype == np.uint16 else 1
    scales = np.iinfo(dtype).max / 100, unit, unit
    return (np.rint(lab * scales).astype(np.int64) & np.iinfo(dtype).max).astype(dtype)


@pytest.mark.parametrize("planar", [False, True], ids=["together", "in planes"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("extra", [(), (ALPHA,), (ASSOCIATED,)])
def test_lab_of_every_depth_is_what_it_looks_like(
    extra: tuple[str, ...], dtype: type, planar: bool
) -> None:
    lab, greatest = lab_of(PHOTO), int(np.iinfo(dtype).max)
    half = greatest // 2 + 1
    alpha = np.full((*lab.shape[:2], len(extra)), half, dtype)
    written = lab * (half / greatest) if ASSOCIATED in extra else lab
    samples = np.dstack([lab_samples(written, dtype), alpha])
    picture = decode(write_tiff(samples, "cielab", extra, planar=planar, compression="zlib"))
    assert (picture.deep is not None) == (dtype == np.uint16)
    difference = np.abs(rgb_of(picture).astype(float) * 255 / greatest - PHOTO)
    # With 8 bits, a and b are precise to one unit, and to two where premultiplied by a half.
    assert difference.mean() < (2 if ASSOCIATED in extra and dtype == np.uint8 else 0.6)
    if extra:
        assert picture.alpha is not None
        assert set(picture.alpha.flat) == {128}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_lab_that_is_said_to_be_signed_is_the_same(dtype: type) -> None:
    """As written by libvips, even for lightness, which is not signed."""
    samples = lab_samples(lab_of(PHOTO), dtype)
    signed = write_tiff(samples.view(f"i{samples.itemsize}"), "cielab")
    expected = rgb_of(decode(write_tiff(samples, "cielab")))
    np.testing.assert_array_equal(rgb_of(decode(signed)), expected)


def test_lab_of_16_bits_has_neutral_greys_and_is_no_coarser() -> None:
    ramp = np.zeros((1, 2000, 3), np.uint16)
    ramp[0, :, 0] = np.arange(30_000, 32_000)
    picture = decode(write_tiff(ramp, "cielab"))
    assert picture.deep is not None
    assert np.abs(picture.deep - picture.deep[:, :, :1].astype(int)).max() <= 1
    assert len(np.unique(picture.deep)) > 1900
    ends = np.array([[[0, 0, 0], [65_535, 0, 0]]], np.uint16)
    assert rgb_of(decode(write_tiff(ends, "cielab"))).tolist() == [[[0] * 3, [65_535] * 3]]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("planar", [False, True], ids=["together", "in planes"])
def test_orientation_is_applied_to_16_bits(orientation: int, planar: bool) -> None:
    samples = draw(4, np.uint16)
    tag = [(274, "H", 1, orientation, True)]
    picture = decode(write_tiff(samples, "rgb", (ALPHA,), planar=planar, extratags=tag))
    eight = Image.fromarray((samples >> 8).astype(np.uint8))
    turn = encode(eight, "TIFF", exif=exif_with(orientation))
    expected = decode(turn)
    np.testing.assert_array_equal(rgb_of(picture) >> 8, rgb_of(expected))


def exif_with(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[Base.Orientation] = orientation
    return exif


@pytest.mark.parametrize(("order", "big"), ORDERS)
def test_metadata_of_rewritten_directories_is_kept(order: Order, big: bool) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    content = write_tiff(
        draw(3, np.uint16),
        "rgb",
        order=order,
        big=big,
        planar=True,
        iccprofile=profile,
        resolution=(300, 200),
        resolutionunit="INCH",
        extratags=[(33432, "s", 0, "A. Photographer", True), (271, "s", 0, "Abc", True)],
    )
    metadata = decode(content).metadata
    assert metadata.icc_profile == profile
    assert metadata.dpi == (300, 200)
    exif = Image.Exif()
    exif.load(metadata.exif or b"")
    assert exif[Base.Copyright] == "A. Photographer"
    assert exif[Base.Make] == "Abc"


def test_camera_data_of_a_rewritten_directory_are_kept() -> None:
    camera, exif = Image.Exif(), Image.Exif()
    camera[IFD.Exif] = {Base.ExposureTime: 0.01}
    exif.load(camera.tobytes())
    content = encode(Image.fromarray(PHOTO), "TIFF", exif=exif)
    kept = Image.Exif()
    kept.load(decode(content).metadata.exif or b"")
    assert kept.get_ifd(IFD.Exif)[Base.ExposureTime] == pytest.approx(0.01)


# --- further directories


Page = tuple[np.ndarray, dict[str, Any]]


def write_pages(*pages: Page) -> bytes:
    buffer = BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        for pixels, options in pages:
            writer.write(pixels, metadata=None, **options)
    return buffer.getvalue()


COLOUR: dict[str, Any] = {"photometric": "rgb"}
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
    with pytest.raises(UnsupportedUpload, match="preview"):
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
    with pytest.raises(UnsupportedUpload, match="Multi-page"):
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
    with pytest.raises(UnsupportedUpload, match="Multi-page"):
        read_header(BytesIO(write_pages(*pages)), 10**6)


# --- rejected truthfully

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
        with pytest.raises(UnsupportedUpload, match=words) as refused:
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
    with pytest.raises(UnsupportedUpload, match=words):
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
        with pytest.raises(UnsupportedUpload, match=f"{row}, 1 x {bits} bits, reversed bit order"):
            decode(content)
        return
    ones = [int(bit) for bit in f"{0x0FAA:016b}"]
    expected = row or [255 * (bit if photometric == 1 else 1 - bit) for bit in ones]
    assert decode(content).pixels.ravel().tolist() == expected


def test_other_inks_and_subsampled_colours_are_refused_and_not_guessed() -> None:
    inks = write_tiff(draw(4, np.uint8), "separated", extratags=[(332, "H", 1, 2, True)])
    with pytest.raises(UnsupportedUpload, match="inks other than CMYK"):
        decode(inks)
    for planar, compression in ((False, None), (True, None), (True, "zlib")):
        buffer = BytesIO(write_tiff(PHOTO, "ycbcr", planar=planar, compression=compression))
        with tifffile.TiffFile(buffer, mode="r+") as reader:
            reader.pages.first.tags["YCbCrSubSampling"].overwrite((2, 2))
        with pytest.raises(UnsupportedUpload, match="subsampled YCbCr, 3 x 8 bits"):
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
    with pytest.raises(UnsupportedUpload, match="subsampled YCbCr, 3 x 8 bits, planar"):
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
    assert read_outcome(HOSTILE[name]) in {"undecodable_image", "unsupported_media_type"}


def test_start_alone_is_undecodable() -> None:
    for content in (b"II*\0", b"MM\0*\0\0\0\x08", b"II+\0\x08\0\0\0", b"II*\0\0\0\0\0"):
        with pytest.raises(UndecodableImage, match="header"):
            read_header(BytesIO(content), 10**6)


def test_directory_of_countless_entries_is_undecodable() -> None:
    others = [(tag, 4, 1, 0) for tag in range(40_000, 45_000)]
    content = tiff(tiff_picture(9, 9, (273, 4, 1, 8), (279, 4, 1, 81), *others))
    with pytest.raises(UndecodableImage, match="header"):
        read_header(BytesIO(content), 10**6)
