"""What goes in comes back as the same picture, larger: files of every kind, with the real model."""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.ExifTags import IFD, Base
from skimage import data

from encoders import encode_picture
from image_codec import decode_image, read_header
from metadata import read_orientation
from options import Options
from super_resolution import SuperResolution
from tests.conftest import FakeModel, encode
from tests.test_image_codec import make_png
from upscaler import Upscaler

PHOTO = Image.fromarray(data.astronaut()[60:132, 180:276])  # 96x72
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
DEEP = (data.astronaut()[60:132, 180:276].astype(np.uint16) * 257 // 3 + 12_345).astype(np.uint16)


def enhance(model: Upscaler, content: bytes, keep: str = "safe", **options: Any) -> bytes:
    chosen = Options(**options)
    return bytes(
        encode_picture(model.enlarge(decode_image(BytesIO(content), keep), chosen), chosen)
    )


def reopen(content: bytes) -> Image.Image:
    image = Image.open(BytesIO(content))
    image.load()
    return image


def cv2_encode(ending: str, samples: np.ndarray) -> bytes:
    written, encoded = cv2.imencode(ending, samples)
    assert written
    return encoded.tobytes()


def gray_profile() -> bytes:
    """The smallest grey profile: ICC version 2, gamma 2.2, white point D50."""
    white = b"XYZ " + bytes(4) + struct.pack(">iii", 63190, 65536, 54061)
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, 563) + bytes(2)
    text = b"desc" + bytes(4) + struct.pack(">I", 5) + b"grey\0" + bytes(78) + bytes(1)
    rights = b"text" + bytes(4) + b"none\0\0\0\0"
    table, body = b"", b""
    tags = {b"desc": text, b"cprt": rights, b"wtpt": white, b"kTRC": curve}
    for name, content in tags.items():
        table += name + struct.pack(">II", 128 + 4 + 12 * len(tags) + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = bytearray(128)
    head[8:12] = struct.pack(">I", 0x02100000)
    head[12:24] = b"mntrGRAYXYZ "
    head[36:40] = b"acsp"
    head[68:80] = struct.pack(">iii", 63190, 65536, 54061)
    profile = bytes(head) + struct.pack(">I", len(tags)) + table + body
    return struct.pack(">I", len(profile)) + profile[4:]


def soft_disc() -> Image.Image:
    """A red disc with a soft edge; black beneath full transparency, as editors leave it."""
    row, column = np.mgrid[:72, :96]
    distance = np.hypot(row - 36, column - 48)
    pixels = np.zeros((72, 96, 4), np.uint8)
    pixels[:, :, 3] = np.clip((30 - distance) * 40, 0, 255)
    pixels[pixels[:, :, 3] > 0, :3] = (220, 40, 30)
    return Image.fromarray(pixels)


def sharp_black_and_white() -> Image.Image:
    return PHOTO.convert("1", dither=Image.Dither.NONE)


def grey_jpeg() -> bytes:
    return encode(PHOTO.convert("L"), "JPEG", quality=95)


@dataclass(frozen=True)
class Kind:
    """A kind of file, and how its result must be."""

    content: Callable[[], bytes]
    mode: str = "RGB"
    depth: int = 8
    # Mean absolute difference, in levels, of the result reduced again to the input.
    tolerance: float = 2.0


KINDS = {
    "RGB PNG": Kind(lambda: encode(PHOTO, "PNG")),
    "JPEG": Kind(lambda: encode(PHOTO, "JPEG", quality=95)),
    "progressive JPEG": Kind(lambda: encode(PHOTO, "JPEG", quality=95, progressive=True)),
    "grey JPEG": Kind(grey_jpeg, "L"),
    "CMYK JPEG": Kind(lambda: encode(PHOTO.convert("CMYK"), "JPEG", quality=95)),
    "phone JPEG": Kind(
        lambda: encode(PHOTO, "MPO", save_all=True, append_images=[PHOTO], quality=95)
    ),
    "WebP": Kind(lambda: encode(PHOTO, "WEBP", quality=95)),
    "lossless WebP": Kind(lambda: encode(PHOTO, "WEBP", lossless=True)),
    "AVIF": Kind(lambda: encode(PHOTO, "AVIF", quality=95)),
    "BMP": Kind(lambda: encode(PHOTO, "BMP")),
    "GIF": Kind(lambda: encode(PHOTO, "GIF"), tolerance=4),
    "palette PNG": Kind(lambda: encode(PHOTO.quantize(200), "PNG"), tolerance=4),
    "grey PNG": Kind(lambda: encode(PHOTO.convert("L"), "PNG"), "L"),
    "1-bit PNG": Kind(lambda: encode(sharp_black_and_white(), "PNG"), "L", tolerance=12),
    "1-bit TIFF": Kind(
        lambda: encode(sharp_black_and_white(), "TIFF", compression="group4"), "L", tolerance=12
    ),
    "TIFF": Kind(lambda: encode(PHOTO, "TIFF")),
    "LZW TIFF": Kind(lambda: encode(PHOTO, "TIFF", compression="tiff_lzw")),
    "Lab TIFF": Kind(lambda: encode(to_lab(PHOTO), "TIFF"), tolerance=3),
    "RGBA PNG": Kind(lambda: encode(soft_disc(), "PNG"), "RGBA"),
    "RGBA WebP": Kind(lambda: encode(soft_disc(), "WEBP", lossless=True), "RGBA"),
    "RGBA AVIF": Kind(lambda: encode(soft_disc(), "AVIF", quality=95), "RGBA", tolerance=4),
    "grey and alpha PNG": Kind(lambda: encode(soft_disc().convert("LA"), "PNG"), "LA"),
    "palette and alpha PNG": Kind(
        lambda: encode(soft_disc().quantize(64, Image.Quantize.FASTOCTREE), "PNG"), "RGBA"
    ),
    "16-bit PNG": Kind(lambda: cv2_encode(".png", DEEP[:, :, ::-1]), "RGB", 16),
    "16-bit grey PNG": Kind(lambda: cv2_encode(".png", DEEP[:, :, 1]), "L", 16),
    "16-bit TIFF": Kind(lambda: cv2_encode(".tiff", DEEP[:, :, ::-1]), "RGB", 16),
    "16-bit grey TIFF": Kind(lambda: cv2_encode(".tiff", DEEP[:, :, 1]), "L", 16),
    "16-bit RGBA PNG": Kind(
        lambda: cv2_encode(
            ".png", np.dstack([DEEP[:, :, ::-1], np.full(DEEP.shape[:2], 65535, np.uint16)])
        ),
        "RGBA",
        16,
    ),
}


def to_lab(image: Image.Image) -> Image.Image:
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    converted = ImageCms.profileToProfile(image, *profiles, outputMode="LAB")
    assert converted is not None
    return converted


def png_header(content: bytes) -> tuple[int, str]:
    """Bit depth and mode of a PNG."""
    depth, colour_type = struct.unpack_from("BB", content, 24)
    return depth, {0: "L", 2: "RGB", 4: "LA", 6: "RGBA"}[colour_type]


def shown(image: Image.Image) -> np.ndarray:
    """How a picture looks, as floats: colours that nobody sees do not count."""
    rgba = np.asarray(image.convert("RGBA")).astype(float)
    alpha = rgba[:, :, 3:]
    return np.dstack([rgba[:, :, :3] * alpha / 255, alpha])


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
        assert before is not None
        assert after is not None
        assert after.dtype == np.uint16
        small = cv2.resize(after, (96, 72), interpolation=cv2.INTER_AREA)
        assert np.abs(small.astype(float) - before).mean() / 257 < case.tolerance
        assert len(np.unique(after % 257)) > 200  # the lower bits are in use
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
    """Pillow reads one without its end, OpenCV, which has the lower bits, by itself does not."""
    content = cv2_encode(".png", DEEP[:, :, ::-1])
    picture = decode_image(BytesIO(content[: len(content) - cut]))
    assert picture.deep is not None
    np.testing.assert_array_equal(picture.deep[:, :, ::-1], DEEP)


def tiff_of_12_bits(samples: np.ndarray) -> bytes:
    """A grey TIFF of one row of 12-bit samples, an even number of them."""
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
@pytest.mark.parametrize("source_format", ["JPEG", "PNG", "WEBP", "AVIF"])
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


GRAY = ImageCms.ImageCmsProfile(BytesIO(gray_profile())).tobytes()


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
    content = encode(PHOTO.convert("CMYK"), "TIFF", icc_profile=SRGB)  # one that does not fit
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
