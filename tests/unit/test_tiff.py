"""TIFF: every sample layout gives the image that was written."""

from itertools import product
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.ExifTags import IFD, Base

from superres.images.resampling import to_levels
from testkit.pictures import encode
from testkit.tiff_files import (
    ALPHA,
    ASSOCIATED,
    HEIGHT,
    ORDERS,
    PACKINGS,
    PHOTO,
    UNKNOWN,
    WIDTH,
    Order,
    decode,
    draw,
    rgb_of,
    write_tiff,
)

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
