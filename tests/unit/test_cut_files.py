"""Truncated files: the image if all of it is present, otherwise how much of it is."""

import re
import struct
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from skimage import data

from superres.errors import ServiceError, UndecodableImage, UnsupportedUpload
from superres.images.image_codec import decode_image, read_header
from superres.images.jpeg_file import AFTER_SCAN
from superres.images.png_file import count_bytes
from testkit.pictures import encode

PHOTO = Image.fromarray(data.astronaut()[60:220, 120:360])  # 240x160
END = b"\xff\xd9"
JPEGS: dict[str, dict[str, object]] = {
    "baseline": {},
    "fine": {"quality": 98, "subsampling": 0},
    "optimised": {"quality": 30, "optimize": True},
    "restarts": {"restart_marker_blocks": 7},
    "a restart a row": {"restart_marker_rows": 1},
    "progressive": {"progressive": True},
    "progressive, restarts": {"progressive": True, "restart_marker_rows": 1},
}
OTHERS: dict[str, dict[str, object]] = {
    "PNG": {},
    "GIF": {},
    "BMP": {},
    "TIFF": {"compression": "tiff_lzw"},
    "WEBP": {"quality": 95},
    "AVIF": {"quality": 90},
    "HEIC": {"quality": 90},
}


def jpeg(kind: str) -> bytes:
    return encode(PHOTO, "JPEG", **{"quality": 85, **JPEGS[kind]})


def try_to_read(content: bytes) -> str:
    """The service's error message, empty for an image."""
    try:
        read_header(BytesIO(content), 10**6)
        decode_image(BytesIO(content))
    except ServiceError as error:
        assert isinstance(error, UndecodableImage)
        return error.message
    return ""


def told_share(words: str) -> float:
    found = re.search(r"cut short: .*?(less than 1|about \d+) % ", words)
    assert found, words
    return float(found[1].split()[-1]) / 100


@pytest.mark.parametrize("kind", JPEGS)
def test_jpeg_without_its_end_marker_is_the_same_picture(kind: str) -> None:
    content = jpeg(kind)
    assert content.endswith(END)
    whole = decode_image(BytesIO(content)).pixels
    bare = content[:-2]
    for end in (b"", b"\xff", bytes(5000), b"\r\n", b"rest of something else" * 50):
        np.testing.assert_array_equal(decode_image(BytesIO(bare + end)).pixels, whole)
    np.testing.assert_array_equal(decode_image(BytesIO(content + b"more" * 50)).pixels, whole)


@pytest.mark.parametrize("kind", JPEGS)
def test_jpeg_that_lacks_a_single_byte_of_its_picture_is_cut(kind: str) -> None:
    content = jpeg(kind)
    for length in range(len(content) - 30, len(content) - 2):
        assert told_share(try_to_read(content[:length])) > 0.5


@pytest.mark.parametrize("kind", [kind for kind in JPEGS if "progressive" not in kind])
@pytest.mark.parametrize("tail", ["nothing", "end marker", "zeros"])
def test_jpeg_tells_about_how_much_is_there(kind: str, tail: str) -> None:
    content = jpeg(kind)
    for lines in (16, 48, 80, 128):
        # The same encoder's file of only the upper part is as long as its data in the full one.
        part = encode(PHOTO.crop((0, 0, 240, lines)), "JPEG", **{"quality": 85, **JPEGS[kind]})
        cut = content[: len(part) - 2]
        rest = {"nothing": b"", "end marker": END, "zeros": bytes(len(content) - len(cut))}[tail]
        assert told_share(try_to_read(cut + rest)) == pytest.approx(lines / 160, abs=0.1)


@pytest.mark.parametrize("kind", ["progressive", "progressive, restarts"])
def test_progressive_jpeg_tells_how_much_of_its_detail_is_there(kind: str) -> None:
    content = jpeg(kind)
    scans = [at for at in range(len(content)) if content[at : at + 2] == b"\xff\xda"]
    lengths = [*scans[1:], *(start + 300 for start in scans[:-1]), len(content) - 100]
    shares = []
    for length in sorted(lengths):
        words = try_to_read(content[:length])
        assert "progressive" in words
        shares.append(told_share(words))
    assert shares == sorted(shares)
    assert shares[0] < 0.05
    assert shares[-1] > 0.8


def test_jpeg_cut_before_its_picture_is_no_picture() -> None:
    content = jpeg("baseline")
    first_scan = content.index(b"\xff\xda")
    for length in (*range(3, first_scan, 40), first_scan, first_scan + 5):
        assert re.search(r"cut|damaged", try_to_read(content[:length]))


def test_photo_of_a_phone_without_its_end_is_judged_like_any_other() -> None:
    content = encode(PHOTO, "MPO", save_all=True, append_images=[PHOTO], quality=85)
    scan = AFTER_SCAN.search(content, content.index(b"\xff\xda"))
    assert scan
    end = AFTER_SCAN.search(content, scan.end() + 100)
    assert end
    assert content[end.start() : end.end()] == END
    assert try_to_read(content[: end.start()]) == ""
    assert told_share(try_to_read(content[: end.start() // 2])) == pytest.approx(0.5, abs=0.2)


def test_jpeg_that_ends_early_within_one_block_is_shown_as_everywhere() -> None:
    """Some encoders omit the last bits; the end marker shows that this is intentional."""
    content = jpeg("baseline")
    assert try_to_read(content[:-3] + END) == ""
    assert told_share(try_to_read(content[:-3])) > 0.9


@pytest.mark.parametrize("precision", [12, 16])
def test_jpeg_of_other_kinds_is_named(precision: int) -> None:
    content = bytearray(jpeg("baseline"))
    content[content.index(b"\xff\xc0") + 4] = precision
    for read in (lambda file: read_header(file, 10**6), decode_image):
        with pytest.raises(UnsupportedUpload, match="more than 8 bits"):
            read(BytesIO(bytes(content)))


@pytest.mark.parametrize("image_format", OTHERS)
def test_other_formats_tell_about_how_much_is_there(image_format: str) -> None:
    content = encode(PHOTO, image_format, **OTHERS[image_format])
    for share in (0.3, 0.5, 0.8, 0.95):
        words = try_to_read(content[: int(share * len(content))])
        assert told_share(words) == pytest.approx(share, abs=0.25)
        assert "damaged" not in words


@pytest.mark.parametrize("image_format", ["PNG", "GIF", "BMP"])
def test_told_share_is_that_of_the_pixels(image_format: str) -> None:
    """For noise, in which every row takes the same number of bytes."""
    noise = np.random.default_rng(2).integers(0, 256, (100, 100), np.uint8)
    image = Image.fromarray(noise).convert("P" if image_format == "GIF" else "RGB")
    content = encode(image, image_format)
    for share in (0.3, 0.5, 0.8, 0.95):
        words = try_to_read(content[: int(share * len(content))])
        assert told_share(words) == pytest.approx(share, abs=0.06)


@pytest.mark.parametrize("depth", [1, 8, 16])
def test_interlaced_png_has_the_bytes_of_all_its_passes(depth: int) -> None:
    """For 8x8 pixels: passes of 1 to 8 pixels in 1 to 4 rows."""
    widths, rows = (1, 1, 2, 2, 4, 4, 8), (1, 1, 1, 2, 2, 4, 4)
    expected = sum(
        count * (1 + -(-width * depth // 8)) for width, count in zip(widths, rows, strict=True)
    )
    header = struct.pack(">IIBBBBB", 8, 8, depth, 0, 0, 0, 1)
    assert count_bytes(header) == expected
    assert count_bytes(struct.pack(">IIBBBBB", 8, 8, depth, 0, 0, 0, 0)) == 8 * (1 + depth)


# What each format has after its last pixel, or at least the end of that.
ENDS = {"PNG": 12, "GIF": 1, "WEBP": 0}


@pytest.mark.parametrize("image_format", ENDS)
def test_file_whose_pixels_are_all_there_is_a_picture(image_format: str) -> None:
    options: dict[str, object] = {"lossless": True} if image_format == "WEBP" else {}
    content = encode(PHOTO, image_format, **options)
    whole = decode_image(BytesIO(content)).pixels
    exif = Image.Exif()
    exif[0x010E] = "A long description. " * 20
    if image_format == "WEBP":
        content = encode(PHOTO, image_format, exif=exif, **options)
        cuts = range(1, 300)  # within the EXIF after the pixels
    else:
        cuts = range(ENDS[image_format] + 1)
    for missing in cuts:
        picture = decode_image(BytesIO(content[: len(content) - missing]))
        np.testing.assert_array_equal(picture.pixels, whole)


def test_last_block_of_a_gif_that_is_cut_behind_its_last_pixel_counts() -> None:
    content = encode(PHOTO, "GIF")
    whole = decode_image(BytesIO(content)).pixels
    np.testing.assert_array_equal(decode_image(BytesIO(content[:-3])).pixels, whole)
