import struct
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps
from skimage import data

from superres.errors import (
    ServiceError,
    TooManyPixels,
    UndecodableImage,
    UnsupportedUpload,
    UnsupportedVariant,
)
from superres.images.encoders import encode_png, to_pil
from superres.images.image_codec import decode_image, read_header
from superres.images.picture import Picture
from testkit.pictures import encode, make_png

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "HEIC")


def draw_corner_marks(width: int = 40, height: int = 24) -> Image.Image:
    """A grey image with a red, green, blue and white corner."""
    image = Image.new("RGB", (width, height), (90, 90, 90))
    third = (width // 3, height // 3)
    for colour, corner in (
        ((220, 30, 30), (0, 0)),
        ((30, 200, 30), (width - third[0], 0)),
        ((30, 30, 220), (0, height - third[1])),
        ((250, 250, 250), (width - third[0], height - third[1])),
    ):
        image.paste(colour, (*corner, corner[0] + third[0], corner[1] + third[1]))
    return image


def decode(content: bytes) -> Picture:
    return decode_image(BytesIO(content))


def rgb_of(picture: Picture) -> np.ndarray:
    return np.asarray(to_pil(picture).convert("RGB"))


def reopen(picture: Picture) -> Image.Image:
    image = Image.open(BytesIO(encode_png(picture)))
    image.load()
    return image


@pytest.mark.parametrize(
    ("image_format", "options"),
    [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("WEBP", {"lossless": True})],
)
def test_lossless_formats_decode_to_the_same_pixels(
    image_format: str, options: dict[str, object]
) -> None:
    image = draw_corner_marks()
    picture = decode(encode(image, image_format, **options))
    np.testing.assert_array_equal(rgb_of(picture), np.asarray(image))
    assert picture.alpha is None


def test_jpeg_decodes_close_to_the_original() -> None:
    image = draw_corner_marks()
    picture = decode(encode(image, "JPEG", quality=95, subsampling=0))
    assert np.abs(rgb_of(picture).astype(int) - np.asarray(image)).mean() < 3


def test_multi_picture_jpeg_of_phones_gives_its_first_picture() -> None:
    first, second = draw_corner_marks(), Image.new("RGB", (40, 24), "yellow")
    content = encode(first, "MPO", save_all=True, append_images=[second], quality=95)
    assert Image.open(BytesIO(content)).format == "MPO"
    picture = decode(content)
    assert np.abs(rgb_of(picture).astype(int) - np.asarray(first)).mean() < 8


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_picture_is_turned_upright(orientation: int, image_format: str) -> None:
    upright = draw_corner_marks()
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = encode(upright, image_format, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(BytesIO(stored)))
    picture = decode(stored)
    assert picture.pixels.shape[:2] == (expected.height, expected.width)
    assert (picture.pixels.shape[0] > picture.pixels.shape[1]) == (orientation >= 5)
    np.testing.assert_array_equal(rgb_of(picture), np.asarray(expected.convert("RGB")))


def draw_soft_disc() -> Image.Image:
    """A red disc with soft edges."""
    row, column = np.mgrid[:32, :40]
    distance = np.hypot(row - 16, column - 20)
    pixels = np.zeros((32, 40, 4), np.uint8)
    pixels[:, :, 0] = 200
    pixels[:, :, 3] = np.clip(255 - distance * 16, 0, 255)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("kind", ["RGBA", "LA", "P", "WebP"])
def test_transparency_survives_decoding_and_encoding(kind: str) -> None:
    image = draw_soft_disc()
    if kind == "P":
        stored = encode(image.quantize(64, Image.Quantize.FASTOCTREE), "PNG")
    elif kind == "WebP":
        stored = encode(image, "WEBP", lossless=True, exact=True)
    else:
        stored = encode(image.convert(kind), "PNG")
    expected = np.asarray(Image.open(BytesIO(stored)).convert("RGBA"))
    image = reopen(decode(stored))
    assert image.mode == ("LA" if kind == "LA" else "RGBA")
    np.testing.assert_array_equal(np.asarray(image.convert("RGBA")), expected)


def test_transparent_colour_of_an_opaque_mode_becomes_alpha() -> None:
    image = draw_corner_marks()
    picture = decode(encode(image, "PNG", transparency=(90, 90, 90)))
    assert picture.alpha is not None
    assert picture.alpha[0, 0] == 255
    assert picture.alpha[12, 20] == 0


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_transparent_grey_of_every_bit_depth_becomes_alpha(depth: int) -> None:
    greatest = 2**depth - 1
    samples = np.array([[0, greatest], [greatest, 0]])
    picture = decode(make_png(samples, depth, 0, struct.pack(">H", greatest)))
    assert picture.pixels.tolist() == [[0, 255], [255, 0]]
    assert picture.alpha is not None
    assert picture.alpha.tolist() == [[255, 0], [0, 255]]


def test_transparent_colour_of_sixteen_bits_becomes_alpha() -> None:
    samples = np.array([[[0x1234, 0x5678, 0x9ABC], [0x4321, 0x8765, 0xCBA9]]])
    picture = decode(make_png(samples, 16, 2, struct.pack(">HHH", 0x1234, 0x5678, 0x9ABC)))
    assert picture.alpha is not None
    assert picture.alpha.tolist() == [[0, 255]]


def test_sixteen_bit_grey_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    ramp = np.linspace(0, 65535, 12).astype(np.uint16).reshape(3, 4)
    assert decode(encode(Image.fromarray(ramp), "PNG", exif=exif)).pixels.shape == (4, 3)


def test_sixteen_bit_grey_is_scaled_and_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    picture = decode(encode(Image.fromarray(ramp), "PNG"))
    np.testing.assert_array_equal(picture.pixels.ravel(), np.arange(256))


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK"])
def test_other_modes_become_grey_or_colour(mode: str) -> None:
    image = Image.fromarray(data.astronaut()[100:160, 180:240]).convert(mode)
    picture = decode(encode(image, "TIFF"))
    np.testing.assert_array_equal(rgb_of(picture), np.asarray(image.convert("RGB")))
    assert picture.is_grey == (mode in {"1", "L"})


def test_colour_profile_is_carried_over() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture = decode(encode(draw_corner_marks(), "JPEG", icc_profile=profile))
    assert reopen(picture).info["icc_profile"] == profile
    assert to_pil(picture).info["icc_profile"] == profile


@pytest.mark.parametrize(
    "profile",
    [b"rubbish" * 40, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()],
    ids=["rubbish", "not for RGB"],
)
def test_unusable_colour_profile_is_left_out(profile: bytes) -> None:
    picture = decode(encode(draw_corner_marks(), "JPEG", icc_profile=profile))
    assert picture.metadata.icc_profile is None


def test_png_of_drawn_graphics_stays_small() -> None:
    flat = np.full((600, 600, 3), 255, np.uint8)
    flat[200:400, 200:400] = (10, 20, 200)
    size = len(encode(Image.fromarray(flat[:, :, ::-1]), "PNG"))
    assert len(encode_png(Picture(flat))) < 1.2 * size


# --- rejected


def test_header_gives_size_and_transparency_without_decoding() -> None:
    content = encode(draw_soft_disc(), "PNG")
    header = read_header(BytesIO(content[:100]), max_pixels=10_000)
    assert (header.width, header.height, header.pixels) == (40, 32, 1280)
    assert header.has_alpha


def test_header_of_too_many_pixels_is_refused_before_decoding() -> None:
    bomb = encode(Image.new("1", (20_000, 20_000)), "PNG")
    assert len(bomb) < 100_000
    with pytest.raises(TooManyPixels, match=r"400 megapixels \(20,000 x 20,000\); at most 16 "):
        read_header(BytesIO(bomb), max_pixels=16_000_000)


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", b"%PDF-1.7", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"\x89PNG"],
)
def test_bytes_of_no_accepted_format_are_unsupported(content: bytes) -> None:
    with pytest.raises(UnsupportedUpload, match="PNG, JPEG, WebP, TIFF, BMP, GIF, AVIF, HEIC"):
        read_header(BytesIO(content), 10**9)


def test_format_that_pillow_reads_and_the_service_does_not_take_is_unsupported() -> None:
    with pytest.raises(UnsupportedUpload):
        read_header(BytesIO(encode(draw_corner_marks(), "PPM")), 10**9)


@pytest.mark.parametrize("image_format", ["PNG", "WEBP", "TIFF", "GIF", "AVIF"])
def test_several_frames_are_refused_and_not_cut_to_the_first(image_format: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    content = encode(frames[0], image_format, save_all=True, append_images=frames[1:])
    with pytest.raises(UnsupportedVariant, match=r"Animations|[Mm]ulti-page"):
        read_header(BytesIO(content), 10**9)


@pytest.mark.parametrize("image_format", FORMATS)
def test_file_cut_short_is_undecodable_and_never_half_a_picture(image_format: str) -> None:
    content = encode(Image.fromarray(data.astronaut()[:128, :128]), image_format)
    for keep in (0.2, 0.5, 0.9):
        cut = BytesIO(content[: int(len(content) * keep)])
        with pytest.raises((UndecodableImage, UnsupportedUpload)):
            decode_image(cut)


def test_tiff_of_a_small_picture_in_a_huge_tile_is_refused_before_decoding() -> None:
    entries = {256: 16, 257: 16, 258: 8, 259: 1, 262: 1, 277: 1}
    entries |= {322: 14_000, 323: 14_000, 324: 8, 325: 14_000**2}  # the tile, and where it is
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items())
    tiled = struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + directory + bytes(4)
    assert Image.open(BytesIO(tiled)).size == (16, 16)
    with pytest.raises(UndecodableImage, match="tiles"):
        read_header(BytesIO(tiled), 10**9)


def test_side_that_no_png_can_have_is_refused_before_computing() -> None:
    content = encode(Image.new("L", (333_334, 1)), "PNG")
    with pytest.raises(TooManyPixels, match="A side of the image has 333,334 pixels"):
        read_header(BytesIO(content), 10**9)
    assert (
        read_header(BytesIO(encode(Image.new("L", (333_333, 1)), "PNG")), 10**9).pixels == 333_333
    )


def test_samples_of_32_bits_are_unsupported() -> None:
    content = encode(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF")
    with pytest.raises(UnsupportedUpload, match="32 bits"):
        decode(content)


@pytest.mark.parametrize("image_format", FORMATS)
def test_damaged_bytes_give_a_picture_or_an_error_of_the_service(image_format: str) -> None:
    content = encode(Image.fromarray(data.astronaut()[:48, :48]), image_format)
    random = np.random.default_rng(7)
    for _ in range(60):
        damaged = bytearray(content)
        for position in random.integers(0, len(content), 3):
            damaged[position] = random.integers(0, 256)
        try:
            read_header(BytesIO(damaged), 10**6)
            decode(bytes(damaged))
        except ServiceError:
            pass


def test_canvas_of_a_gif_that_its_frame_leaves_bare_is_transparent() -> None:
    content = bytearray(encode(Image.new("P", (10, 6), 1), "GIF"))
    content[6:10] = struct.pack("<HH", 20, 15)
    at = content.index(b",\0\0\0\0")
    content[at + 1 : at + 5] = struct.pack("<HH", 4, 3)
    header = read_header(BytesIO(content), 1000)
    assert (header.width, header.height, header.has_alpha) == (20, 15, True)
    alpha = decode_image(BytesIO(content)).alpha
    assert alpha is not None
    expected = np.zeros((15, 20), np.uint8)
    expected[3:9, 4:14] = 255
    assert (alpha == expected).all()
