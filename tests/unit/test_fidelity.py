"""What goes in comes back as the same image, larger: files of every kind, with the real model."""

import struct
from io import BytesIO
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from PIL.ExifTags import IFD, Base

from super_resolution import SuperResolution
from superres.engines.upscaler import Upscaler
from superres.images.exif import read_orientation
from superres.images.image_codec import decode_image, read_header
from testkit.fakes import FakeModel
from testkit.kinds import (
    DEEP,
    GRAY,
    KINDS,
    PHOTO,
    SRGB,
    cv2_encode,
    enhance,
    png_header,
    reopen,
    shown,
    soft_disc,
)
from testkit.pictures import encode, make_png


@pytest.mark.parametrize("kind", KINDS)
def test_file_comes_back_as_the_same_picture(
    kind: str, real_super_resolution: SuperResolution
) -> None:
    case = KINDS[kind]
    content = case.content()
    result = enhance(real_super_resolution, content)
    assert png_header(result) == (case.depth, case.mode)
    image = reopen(result)
    assert image.size == (288, 216)
    if case.depth == 16:
        before = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
        after = cv2.imdecode(np.frombuffer(result, np.uint8), cv2.IMREAD_UNCHANGED)
        if before is None:  # OpenCV reads no HEIC
            before = DEEP[:, :, ::-1]
        assert after is not None
        assert after.dtype == np.uint16
        small = cv2.resize(after, (96, 72), interpolation=cv2.INTER_AREA)
        assert np.abs(small.astype(float) - before).mean() / 257 < case.tolerance
        assert len(np.unique(after % 257)) > 200  # the lower bits are used
        return
    source = reopen(content)
    if source.mode == "LAB":
        source = PHOTO
    reduced = shown(image.resize((96, 72), Image.Resampling.BOX))
    assert np.abs(reduced - shown(source)).mean() < case.tolerance


# --- transparency


def test_fully_opaque_and_transparent_parts_stay_so(
    real_super_resolution: SuperResolution,
) -> None:
    source = soft_disc()
    alpha = np.asarray(source)[:, :, 3]
    image = reopen(enhance(real_super_resolution, encode(source, "PNG")))
    enlarged = np.asarray(image)[:, :, 3]
    inside = cv2.erode(alpha, np.ones((3, 3), np.uint8)).repeat(3, axis=0).repeat(3, axis=1)
    outside = cv2.dilate(alpha, np.ones((3, 3), np.uint8)).repeat(3, axis=0).repeat(3, axis=1)
    assert (enlarged[inside == 255] == 255).all()
    assert (enlarged[outside == 0] == 0).all()
    assert 0 < np.count_nonzero((enlarged > 0) & (enlarged < 255)) < enlarged.size / 4


@pytest.mark.parametrize("hidden", [(0, 0, 0), (255, 255, 255), (0, 255, 0)])
def test_edges_have_no_fringe_of_hidden_colours(
    hidden: tuple[int, int, int], real_super_resolution: SuperResolution
) -> None:
    pixels = np.asarray(soft_disc()).copy()
    pixels[pixels[:, :, 3] == 0, :3] = hidden
    image = np.asarray(
        reopen(enhance(real_super_resolution, encode(Image.fromarray(pixels), "PNG")))
    )
    visible = image[image[:, :, 3] > 0][:, :3].astype(int)
    assert np.abs(visible - (220, 40, 30)).max() <= 3


def test_wholly_transparent_and_wholly_opaque_pictures(
    fake_super_resolution: Upscaler, fake_model: FakeModel
) -> None:
    for level in (0, 255):
        source = PHOTO.copy()
        source.putalpha(level)
        result = reopen(enhance(fake_super_resolution, encode(source, "PNG")))
        assert set(np.unique(np.asarray(result)[:, :, 3])) == {level}


def test_transparency_survives_in_a_result_smaller_than_its_input(
    fake_super_resolution: Upscaler,
) -> None:
    pixels = np.zeros((400, 400, 4), np.uint8)
    pixels[:, np.arange(400) % 20 < 5] = (200, 100, 50, 255)
    content = encode(Image.fromarray(pixels), "PNG")
    result = reopen(enhance(fake_super_resolution, content, scale=None, width=20))
    middle = np.asarray(result)[:, 3:-3, 3].astype(int)
    assert np.abs(middle - 64).max() <= 3


@pytest.mark.parametrize(
    "colour", [(0x8000, 0x8000, 0x8000), (0xFFFF, 0xFFFF, 0xFFFF), (1, 2, 0x1234)]
)
def test_transparent_colour_of_16_bits_is_compared_with_all_of_them(
    colour: tuple[int, int, int],
) -> None:
    near = tuple(max(value - 1, 0) for value in colour)
    samples = np.array([[colour, near, (0x4321, 0x8765, 0xCBA9)]])
    picture = decode_image(BytesIO(make_png(samples, 16, 2, struct.pack(">HHH", *colour))))
    assert picture.alpha is not None
    assert picture.alpha.tolist() == [[0, 255, 255]]


def test_grey_tiff_of_12_bits_and_one_that_counts_from_white_come_back_as_they_look() -> None:
    samples = np.array([[0, 1000, 2048, 4095]], np.uint16)
    twelve = tiff_of_12_bits(samples[0])
    picture = decode_image(BytesIO(twelve))
    assert picture.deep is not None
    assert picture.deep[0, :, 0].tolist() == [0, 16003, 32775, 65535]
    assert read_header(BytesIO(twelve), 100).is_deep
    inverted = bytearray(encode(Image.fromarray(samples * 16), "TIFF"))
    photometric = inverted.index(struct.pack("<HHI", 262, 3, 1)) + 8
    inverted[photometric] = 0  # WhiteIsZero
    picture = decode_image(BytesIO(bytes(inverted)))
    assert picture.pixels[0].tolist() == [255, 193, 127, 0]


@pytest.mark.parametrize("cut", [0, 6, 12, 14])
def test_png_of_16_bits_is_never_read_as_8(cut: int) -> None:
    """Pillow reads a truncated one; OpenCV, which supplies the lower bits, does not."""
    content = cv2_encode(".png", DEEP[:, :, ::-1])
    picture = decode_image(BytesIO(content[: len(content) - cut]))
    assert picture.deep is not None
    np.testing.assert_array_equal(picture.deep[:, :, ::-1], DEEP)


def tiff_of_12_bits(samples: np.ndarray) -> bytes:
    """A grey TIFF of one row with an even number of 12-bit samples."""
    first, second = samples[::2].astype(int), samples[1::2].astype(int)
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=1)
    strip = packed.astype(np.uint8).tobytes()
    entries = {256: len(samples), 257: 1, 258: 12, 259: 1, 262: 1, 273: 134, 277: 1, 278: 1}
    entries[279] = len(strip)
    directory = b"".join(
        struct.pack("<HHII", tag, 4 if tag in {273, 279} else 3, 1, value)
        for tag, value in entries.items()
    )
    head = struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + directory + bytes(4)
    return head.ljust(134, b"\0") + strip


# --- metadata


def tagged_exif() -> Image.Exif:
    exif = Image.Exif()
    exif[Base.Copyright] = "A. Photographer"
    exif[Base.Model] = "Camera 1"
    exif[Base.Orientation] = 6
    exif[IFD.Exif] = {Base.ExposureTime: 0.01, Base.BodySerialNumber: "123", Base.MakerNote: b"x"}
    exif[IFD.GPSInfo] = {1: "N", 2: (52.0, 31.0, 0.0)}
    return exif


@pytest.mark.parametrize("image_format", ["png", "webp", "jpeg", "avif"])
@pytest.mark.parametrize("source_format", ["JPEG", "PNG", "WEBP", "AVIF", "HEIC"])
def test_safe_metadata_is_kept_and_orientation_applied(
    image_format: str, source_format: str, fake_super_resolution: Upscaler
) -> None:
    quality = None if image_format == "png" else 90
    content = encode(PHOTO, source_format, exif=tagged_exif(), icc_profile=SRGB)
    result = reopen(enhance(fake_super_resolution, content, format=image_format, quality=quality))
    assert result.size == (216, 288)
    assert read_orientation(result) == 1
    assert result.info["icc_profile"] == SRGB
    exif = result.getexif()
    assert exif[Base.Copyright] == "A. Photographer"
    assert exif[Base.Model] == "Camera 1"
    camera = exif.get_ifd(IFD.Exif)
    assert camera[Base.ExposureTime] == pytest.approx(0.01)
    assert not {Base.BodySerialNumber, Base.MakerNote} & set(camera)
    assert not exif.get_ifd(IFD.GPSInfo)


def test_how_much_metadata_is_kept_can_be_chosen(fake_super_resolution: Upscaler) -> None:
    content = encode(PHOTO, "JPEG", exif=tagged_exif())
    everything = reopen(enhance(fake_super_resolution, content, keep="all")).getexif()
    assert everything.get_ifd(IFD.GPSInfo)[1] == "N"
    assert everything.get_ifd(IFD.Exif)[Base.BodySerialNumber] == "123"
    assert Base.Orientation not in everything
    nothing = reopen(enhance(fake_super_resolution, content, keep="none")).getexif()
    assert len(nothing) == 0


def test_resolution_is_scaled_with_the_picture(fake_super_resolution: Upscaler) -> None:
    content = encode(PHOTO, "PNG", dpi=(100, 200))
    for options, expected in (
        ({}, (300, 600)),
        ({"scale": 2}, (200, 400)),
        ({"format": "jpeg", "quality": 90}, (300, 600)),
    ):
        dpi = reopen(enhance(fake_super_resolution, content, **options)).info["dpi"]
        assert dpi == pytest.approx(expected, rel=0.01)


def test_resolution_that_no_format_can_tell_is_left_out(
    fake_super_resolution: Upscaler,
) -> None:
    content = encode(PHOTO.resize((4, 4)), "PNG", dpi=(300, 300))
    for image_format, quality in (("png", None), ("jpeg", 90)):
        result = enhance(
            fake_super_resolution,
            content,
            format=image_format,
            quality=quality,
            scale=None,
            width=60_000,
            height=1,
        )
        assert reopen(result).info.get("dpi", (72, 72))[0] < 65_536


@pytest.mark.parametrize("mode", ["L", "LA"])
def test_grey_profile_is_kept_once_and_only_with_grey_samples(
    mode: str, fake_super_resolution: Upscaler
) -> None:
    content = encode(PHOTO.convert(mode), "PNG", icc_profile=GRAY)
    result = enhance(fake_super_resolution, content)
    assert result.count(b"iCCP") == 1
    assert reopen(result).info["icc_profile"] == GRAY
    jpeg = reopen(enhance(fake_super_resolution, content, format="jpeg", quality=90))
    assert (jpeg.mode, jpeg.info["icc_profile"]) == ("L", GRAY)


def test_cmyk_is_converted_by_its_profile(fake_super_resolution: Upscaler) -> None:
    content = encode(PHOTO.convert("CMYK"), "TIFF", icc_profile=SRGB)  # one that does not match
    assert reopen(enhance(fake_super_resolution, content)).mode == "RGB"


def test_grey_profile_stays_with_a_grey_picture(fake_super_resolution: Upscaler) -> None:
    colour = encode(PHOTO.convert("L"), "JPEG", icc_profile=SRGB)
    assert "icc_profile" not in reopen(enhance(fake_super_resolution, colour)).info


# --- formats and sizes


@pytest.mark.parametrize(
    ("options", "mode"),
    [
        ({"format": "webp", "quality": None}, "RGBA"),
        ({"format": "webp", "quality": 90}, "RGBA"),
        ({"format": "avif", "quality": 80}, "RGBA"),
        ({"format": "jpeg", "quality": 92}, "RGB"),
    ],
)
def test_result_has_the_format_that_was_asked_for(
    options: dict[str, Any], mode: str, real_super_resolution: SuperResolution
) -> None:
    content = encode(soft_disc(), "PNG")
    png = reopen(enhance(real_super_resolution, content))
    image = reopen(enhance(real_super_resolution, content, **options))
    assert (image.format, image.mode) == (str(options["format"]).upper(), mode)
    if mode == "RGB":
        white = Image.new("RGBA", png.size, "white")
        png = Image.alpha_composite(white, png)
    difference = np.abs(shown(image) - shown(png)).mean()
    assert difference == 0 if options["quality"] is None else difference < 2


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"scale": 2}, (192, 144)),
        ({"scale": 4}, (384, 288)),
        ({"scale": None, "width": 500}, (500, 375)),
        ({"scale": None, "height": 100}, (133, 100)),
        ({"scale": None, "width": 50, "height": 60}, (50, 60)),
    ],
)
@pytest.mark.parametrize(
    "kind", ["RGB PNG", "RGBA PNG", "grey PNG", "16-bit PNG", "16-bit grey PNG"]
)
def test_result_has_the_size_that_was_asked_for(
    kind: str,
    options: dict[str, Any],
    size: tuple[int, int],
    fake_super_resolution: Upscaler,
) -> None:
    result = enhance(fake_super_resolution, KINDS[kind].content(), **options)
    assert png_header(result) == (KINDS[kind].depth, KINDS[kind].mode)
    assert reopen(result).size == size


def test_sixteen_bit_gradient_has_no_bands_and_is_closer_than_eight_bits(
    real_super_resolution: SuperResolution,
) -> None:
    truth = np.linspace(20_000, 24_000, 600)
    small = truth.reshape(200, 3).mean(1)
    ramp = np.repeat(np.rint(small).astype(np.uint16)[np.newaxis], 60, axis=0)
    result = enhance(real_super_resolution, cv2_encode(".png", ramp))
    decoded = cv2.imdecode(np.frombuffer(result, np.uint8), cv2.IMREAD_UNCHANGED)
    assert decoded is not None
    line = decoded[90, 12:-12].astype(int)
    assert (np.diff(line) > 0).all()
    assert np.abs(line - truth[12:-12]).max() < 25  # a tenth of an 8-bit level
