"""Colour profile, resolution and orientation of results, checked with exiftool and lcms."""

import json
import struct
import subprocess
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.ExifTags import Base

from superres.engines.upscaler import Upscaler
from superres.images.encoders import encode_picture
from superres.images.exif import RawText, read_orientation
from superres.images.image_codec import decode_image, read_header
from superres.images.options import Options
from superres.images.png_file import make_chunk
from testkit.hostile import tiff, tiff_picture
from testkit.kinds import GRAY, PHOTO, SRGB, enhance, gray_profile, png_header, reopen, rgb_profile
from testkit.pictures import encode

RESULTS = {"png": None, "webp": 90, "jpeg": 90, "avif": 80}
RESOLUTION_TAGS = ("XResolution", "YResolution", "PixelsPerUnitX", "PixelsPerUnitY")


def read_tags(content: bytes, folder: Path) -> dict[str, Any]:
    """The resolution found by exiftool, in numbers; a unit of 0 is JFIF's "none"."""
    (folder / "file").write_bytes(content)
    command = ["exiftool", "-json", "-n", "-a", "-G1", "-*Resolution*", "-PixelsPerUnit*"]
    found = subprocess.run([*command, str(folder / "file")], check=True, capture_output=True)
    tags: dict[str, Any] = json.loads(found.stdout)[0]
    if tags.get("JFIF:ResolutionUnit") == 0:
        tags = {name: value for name, value in tags.items() if not name.startswith("JFIF")}
    return {name: value for name, value in tags.items() if name.split(":")[-1] in RESOLUTION_TAGS}


def some_exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x013B] = "An artist"
    return exif


WITHOUT_RESOLUTION: dict[str, Callable[[], bytes]] = {
    "PNG": lambda: encode(PHOTO, "PNG"),
    "JPEG": lambda: encode(PHOTO, "JPEG"),
    "JPEG with EXIF": lambda: encode(PHOTO, "JPEG", exif=some_exif()),
    "WebP": lambda: encode(PHOTO, "WEBP", exif=some_exif()),
    "TIFF": lambda: encode(PHOTO, "TIFF"),
    "TIFF without unit": lambda: encode(
        PHOTO, "TIFF", resolution_unit=1, x_resolution=300, y_resolution=300
    ),
    "BMP": lambda: encode(PHOTO, "BMP", dpi=(0, 0)),
    "GIF": lambda: encode(PHOTO, "GIF"),
    "AVIF": lambda: encode(PHOTO, "AVIF"),
    "PNG of a shape": lambda: pixel_shape_png(),
    "one an inch": lambda: encode(PHOTO, "JPEG", dpi=(1, 1)),
}


def pixel_shape_png() -> bytes:
    """A PNG that states only the aspect ratio of its pixels, and no resolution."""
    content = encode(PHOTO, "PNG")
    return content[:33] + make_chunk(b"pHYs", struct.pack(">IIB", 300, 200, 0)) + content[33:]


@pytest.mark.parametrize("source", WITHOUT_RESOLUTION)
def test_no_resolution_in_none_out(
    source: str, fake_super_resolution: Upscaler, tmp_path: Path
) -> None:
    content = WITHOUT_RESOLUTION[source]()
    assert decode_image(BytesIO(content)).metadata.dpi is None
    for image_format, quality in RESULTS.items():
        result = enhance(
            fake_super_resolution, content, "all", format=image_format, quality=quality
        )
        assert read_tags(result, tmp_path) == {}, image_format


def exif_with_resolution(unit: int | None) -> Image.Exif:
    exif = some_exif()
    exif[282], exif[283] = 100.0, 200.0
    if unit is not None:
        exif[296] = unit
    return exif


WITH_RESOLUTION: dict[str, tuple[Callable[[], bytes], tuple[int, int]]] = {
    "PNG": (lambda: encode(PHOTO, "PNG", dpi=(100, 200)), (100, 200)),
    "JPEG": (lambda: encode(PHOTO, "JPEG", dpi=(100, 200)), (100, 200)),
    "JPEG's EXIF": (lambda: encode(PHOTO, "JPEG", exif=exif_with_resolution(2)), (100, 200)),
    "EXIF by the centimetre": (
        lambda: encode(PHOTO, "JPEG", exif=exif_with_resolution(3)),
        (254, 508),
    ),
    "EXIF of no unit": (lambda: encode(PHOTO, "JPEG", exif=exif_with_resolution(None)), (100, 200)),
    "WebP's EXIF": (lambda: encode(PHOTO, "WEBP", exif=exif_with_resolution(2)), (100, 200)),
    "TIFF": (lambda: encode(PHOTO, "TIFF", dpi=(100, 200)), (100, 200)),
    "BMP": (lambda: encode(PHOTO, "BMP", dpi=(100, 200)), (100, 200)),
}


@pytest.mark.parametrize("source", WITH_RESOLUTION)
def test_resolution_is_what_the_file_says(
    source: str, fake_super_resolution: Upscaler, tmp_path: Path
) -> None:
    make, expected = WITH_RESOLUTION[source]
    content = make()
    assert decode_image(BytesIO(content)).metadata.dpi == pytest.approx(expected, rel=0.001)
    result = enhance(fake_super_resolution, content, format="jpeg", quality=90)
    tags = read_tags(result, tmp_path)
    found = tags["JFIF:XResolution"], tags["JFIF:YResolution"]
    assert found == pytest.approx([3 * each for each in expected], rel=0.01)


# --- orientation

XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-'
    b'syntax-ns#"><rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" '
    b'tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
)


def xmp_png() -> bytes:
    content = encode(PHOTO, "PNG")
    chunk = make_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)
    return content[:33] + chunk + content[33:]


WITH_XMP: dict[str, Callable[[], bytes]] = {
    "JPEG": lambda: encode(PHOTO, "JPEG", xmp=XMP),
    "JPEG with EXIF": lambda: encode(PHOTO, "JPEG", xmp=XMP, exif=some_exif()),
    "PNG": xmp_png,
    "WebP": lambda: encode(PHOTO, "WEBP", xmp=XMP, exif=some_exif()),
    "AVIF": lambda: encode(PHOTO, "AVIF", xmp=XMP),
    "TIFF": lambda: encode(PHOTO, "TIFF", tiffinfo={700: XMP}),
}


@pytest.mark.parametrize("source", WITH_XMP)
def test_orientation_in_xmp_alone_turns_nothing(source: str) -> None:
    content = WITH_XMP[source]()
    assert b'tiff:Orientation="6"' in content
    assert reopen(content).getexif().get(0x0112) == 6 or source == "TIFF"  # Pillow would turn it
    header = read_header(BytesIO(content), 10**6)
    assert (header.width, header.height) == PHOTO.size
    assert decode_image(BytesIO(content)).size == PHOTO.size


def test_orientation_in_exif_wins_over_xmp() -> None:
    exif = some_exif()
    exif[0x0112] = 3
    content = encode(PHOTO, "JPEG", xmp=XMP, exif=exif, quality=95)
    picture = decode_image(BytesIO(content))
    turned = np.asarray(reopen(content).rotate(180))
    np.testing.assert_array_equal(picture.pixels[:, :, ::-1], turned)
    assert read_orientation(reopen(content)) == 3


def turned_tiff(kind: int, count: int, value: int, bits: int = 8) -> bytes:
    width, height = PHOTO.size
    pieces = (273, 4, 1, 8), (279, 4, 1, width * height)
    content = tiff(tiff_picture(width, height, *pieces, (274, kind, count, value)))
    depth = struct.pack("<HHLL", 258, 3, 1, 8), struct.pack("<HHLL", 258, 3, 1, bits)
    return content.replace(*depth) + bytes(width * height)


@pytest.mark.filterwarnings("ignore:Metadata Warning")
@pytest.mark.parametrize("entry", [(4, 1, 6), (3, 2, 6 + (1 << 16)), (3, 2, 6 + (6 << 16))])
def test_orientation_as_a_long_or_twice_is_applied(entry: tuple[int, int, int]) -> None:
    exif = tiff([(274, *entry)])
    files = [encode(PHOTO, name, exif=exif) for name in ("PNG", "WEBP")]
    files += [encode(PHOTO, "JPEG", exif=b"Exif\0\0" + exif)]
    files += [turned_tiff(*entry), turned_tiff(*entry, bits=1)]
    for content in files:
        header = read_header(BytesIO(content), 10**6)
        assert (header.width, header.height) == PHOTO.size[::-1]
        assert decode_image(BytesIO(content)).size == PHOTO.size[::-1]


# --- profiles


def in_srgb(image: Image.Image) -> np.ndarray:
    """How an image with a profile looks, according to Little CMS."""
    profile = image.info.get("icc_profile")
    if profile is None:
        return np.asarray(image.convert("RGB")).astype(int)
    source, target = ImageCms.ImageCmsProfile(BytesIO(profile)), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
    assert converted is not None
    return np.asarray(converted).astype(int)


def gamma_profile(gamma: float) -> bytes:
    curve = struct.pack(">IH", 1, int(gamma * 256))
    return gray_profile().replace(struct.pack(">IH", 1, 563), curve)


RAMP = Image.fromarray(np.tile(np.arange(0, 240, 4, dtype=np.uint8), (40, 1)))


@pytest.mark.parametrize("image_format", RESULTS)
@pytest.mark.parametrize("gamma", [1.0, 1.8, 2.2])
def test_greys_with_a_profile_look_the_same_in_every_format(
    image_format: str, gamma: float, fake_super_resolution: Upscaler
) -> None:
    source = encode(RAMP, "PNG", icc_profile=gamma_profile(gamma))
    quality = None if image_format == "png" else 100
    content = enhance(
        fake_super_resolution, source, scale=None, width=60, height=40,
        format=image_format, quality=quality,
    )  # fmt: skip
    before, after = in_srgb(reopen(source)), in_srgb(reopen(content))
    assert np.abs(before - np.asarray(RAMP)[:, :, np.newaxis]).max() > (10 if gamma < 2 else 0)
    inner = np.abs(before - after)[4:-4, 4:-4]
    assert inner.mean() < 1
    assert inner.max() <= 5
    assert ("icc_profile" in reopen(content).info) == (image_format in {"png", "jpeg"})


def test_grey_with_transparency_and_a_profile_looks_the_same_as_webp(
    fake_super_resolution: Upscaler,
) -> None:
    image = RAMP.convert("LA")
    image.putalpha(Image.fromarray(np.tile(np.arange(60, dtype=np.uint8) * 4 + 15, (40, 1))))
    source = encode(image, "PNG", icc_profile=gamma_profile(1.8))
    lossless: dict[str, Any] = {"format": "webp", "scale": None, "width": 60, "height": 40}
    result = reopen(enhance(fake_super_resolution, source, **lossless))
    assert result.mode == "RGBA"
    grey = reopen(source).getchannel("L")
    grey.info["icc_profile"] = gamma_profile(1.8)
    difference = np.abs(in_srgb(grey) - np.asarray(result)[:, :, :3])[4:-4, 4:-4]
    assert difference.max() <= 2


@pytest.mark.parametrize("image_format", RESULTS)
def test_greys_with_another_rgb_profile_become_colour_and_keep_it(
    image_format: str, fake_super_resolution: Upscaler
) -> None:
    """As shown by Chrome: with the profile's curves."""
    profile = rgb_profile(1.0)
    source = encode(RAMP, "JPEG", icc_profile=profile, quality=100)
    quality = None if image_format == "png" else 100
    result = reopen(enhance(fake_super_resolution, source, format=image_format, quality=quality))
    assert (result.mode, result.info["icc_profile"]) == ("RGB", profile)


def test_greys_with_the_profile_that_they_would_have_anyway_stay_grey(
    fake_super_resolution: Upscaler,
) -> None:
    result = reopen(enhance(fake_super_resolution, encode(RAMP, "JPEG", icc_profile=SRGB)))
    assert result.mode == "L"
    assert "icc_profile" not in result.info


def deep_grey_png(has_alpha: bool, profile: bytes) -> tuple[bytes, np.ndarray]:
    ramp = np.linspace(3000, 60_000, 60 * 40).astype(np.uint16).reshape(40, 60)
    samples = np.dstack([ramp, 65_535 - ramp]) if has_alpha else ramp[:, :, np.newaxis]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", 60, 40, 16, 4 if has_alpha else 0, 0, 0, 0)
    chunks = {
        b"IHDR": header,
        b"iCCP": b"icc\0\0" + zlib.compress(profile),
        b"IDAT": zlib.compress(rows),
        b"IEND": b"",
    }
    return b"\x89PNG\r\n\x1a\n" + b"".join(make_chunk(*each) for each in chunks.items()), samples


def test_deep_grey_with_transparency_stays_so_and_keeps_its_profile(
    fake_super_resolution: Upscaler, tmp_path: Path
) -> None:
    content, samples = deep_grey_png(True, GRAY)
    picture = decode_image(BytesIO(content))
    assert picture.is_grey
    assert picture.deep is not None
    np.testing.assert_array_equal(picture.deep, samples[:, :, :1])
    result = enhance(fake_super_resolution, content)
    assert png_header(result) == (16, "LA")
    assert reopen(result).info["icc_profile"] == GRAY
    # libpng, in OpenCV, sees what ImageMagick sees.
    ours = cv2.imdecode(np.frombuffer(result, np.uint8), cv2.IMREAD_UNCHANGED)
    assert ours is not None
    (tmp_path / "result.png").write_bytes(result)
    command = ["convert", str(tmp_path / "result.png"), "-strip", "-depth", "16", "-endian", "LSB"]
    found = subprocess.run([*command, "rgba:-"], check=True, capture_output=True).stdout
    theirs = np.frombuffer(found, "<u2").reshape(120, 180, 4)
    np.testing.assert_array_equal(theirs[:, :, 0], ours[:, :, 0])
    np.testing.assert_array_equal(theirs[:, :, 3], ours[:, :, 3])
    reduced = cv2.resize(ours, (60, 40), interpolation=cv2.INTER_AREA).astype(int)
    assert np.abs(reduced[:, :, 0] - samples[:, :, 0]).mean() < 257
    assert np.abs(reduced[:, :, 3] - samples[:, :, 1]).mean() < 257
    assert len(np.unique(ours[:, :, 0] % 257)) > 200  # the lower bits are used


def test_deep_grey_with_a_transparent_grey_keeps_its_profile(
    fake_super_resolution: Upscaler,
) -> None:
    content, samples = deep_grey_png(False, GRAY)
    colour = make_chunk(b"tRNS", struct.pack(">H", int(samples[20, 30, 0])))
    at = content.index(b"IDAT") - 4
    result = enhance(fake_super_resolution, content[:at] + colour + content[at:])
    assert png_header(result) == (16, "LA")
    assert reopen(result).info["icc_profile"] == GRAY


def test_ycbcr_samples_keep_their_rgb_profile() -> None:
    content = encode(PHOTO.convert("YCbCr"), "TIFF", icc_profile=rgb_profile(1.0))
    assert reopen(content).mode == "YCbCr"
    assert decode_image(BytesIO(content)).metadata.icc_profile == rgb_profile(1.0)


def test_text_of_any_encoding_survives_as_its_bytes() -> None:
    exif = Image.Exif()
    words = {Base.Artist: "José 图", Base.Copyright: "© 2026 Zoë"}
    for tag, text in words.items():
        exif[tag] = RawText(text.encode().decode("latin-1"))
    picture = decode_image(BytesIO(encode(Image.new("RGB", (8, 8)), "JPEG", exif=exif)))
    for image_format in ("png", "jpeg", "webp", "avif"):
        quality = None if image_format == "png" else 90
        result = Image.open(BytesIO(encode_picture(picture, Options(image_format, quality))))
        found = result.getexif()
        for tag, text in words.items():
            assert found[tag].encode("latin-1").decode() == text
