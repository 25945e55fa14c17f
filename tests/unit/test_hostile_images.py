"""Malicious files: a result or one of the service's errors, in bounded memory."""

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from superres.errors import ServiceError, TooManyPixels, UndecodableImage, UnsupportedUpload
from superres.images.image_codec import decode_image, read_header
from superres.images.metadata import read_profile
from testkit.hostile import (
    grey_png,
    jpeg_components,
    packed_zeros,
    profile_of_many_elements,
)
from testkit.kinds import KINDS, PHOTO, SRGB
from testkit.pictures import encode
from tests.fuzz import MAX_PIXELS, damage

FILES = {name: kind.content() for name, kind in KINDS.items()}


def try_decoding(content: bytes) -> str:
    """Decode in this process, where only the decoders' own checks protect it."""
    try:
        header = read_header(BytesIO(content), MAX_PIXELS)
        picture = decode_image(BytesIO(content), "all")
    except ServiceError as error:
        return error.code
    assert picture.pixels.shape[0] * picture.pixels.shape[1] == header.pixels
    return "a picture"


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    kind=st.sampled_from(sorted(FILES)),
    changes=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=6),
    length=st.integers(0, 30_000),
)
def test_damaged_file_gives_a_picture_or_an_error_of_the_service(
    kind: str, changes: list[tuple[int, int]], length: int
) -> None:
    content = bytearray(FILES[kind])
    for position, value in changes:
        content[position % len(content)] = value
    try_decoding(bytes(content[:length]))


def test_mixed_files_give_a_picture_or_an_error_of_the_service() -> None:
    random = np.random.default_rng(3)
    files = list(FILES.values())
    outcomes = set()
    for _ in range(1500):
        first, second = random.integers(0, len(files), 2)
        outcomes.add(try_decoding(damage(files[first], files[second], random)))
    assert {"a picture", "undecodable_image", "unsupported_media_type"} <= outcomes


def test_profile_of_many_elements_is_ignored_and_that_of_a_few_is_not() -> None:
    many, few = (grey_png(profile_of_many_elements(number)) for number in (10_000, 3))
    assert read_profile(Image.open(BytesIO(many))) is None
    assert read_profile(Image.open(BytesIO(few))) is not None
    assert (decode_image(BytesIO(many)).pixels == 99).all()


def test_jpeg_that_lists_more_components_than_it_has_is_damaged() -> None:
    with pytest.raises(UndecodableImage, match="header is damaged"):
        decode_image(BytesIO(jpeg_components(10)))


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks)


def test_header_of_forty_thousand_pixels_a_side_is_refused_by_its_header() -> None:
    content = png(40_000, 40_000, chunk(b"IDAT", zlib.compress(bytes(1000))), chunk(b"IEND", b""))
    with pytest.raises(TooManyPixels, match="40,000 x 40,000"):
        read_header(BytesIO(content), 16_000_000)


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_picture_without_pixels_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises((UndecodableImage, UnsupportedUpload)):
        read_header(BytesIO(png(*size, chunk(b"IEND", b""))), 10**6)


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (2, 3)])
def test_thin_pictures_are_decoded(size: tuple[int, int]) -> None:
    picture = decode_image(BytesIO(encode(PHOTO.resize(size), "PNG")))
    assert picture.size == size


def test_text_that_unpacks_to_gigabytes_is_never_unpacked() -> None:
    bomb = packed_zeros(200)
    pixels = zlib.compress(bytes(13))
    for name in (b"zTXt", b"iTXt", b"iCCP"):
        text = {
            b"zTXt": b"key\0\0" + bomb,
            b"iTXt": b"key\0\1\0\0\0" + bomb,
            b"iCCP": b"icc\0\0" + bomb,
        }[name]
        content = png(4, 1, chunk(name, text), chunk(b"IDAT", pixels), chunk(b"IEND", b""))
        try:
            assert decode_image(BytesIO(content)).metadata.icc_profile is None
        except ServiceError as error:
            assert error.code in {"undecodable_image", "unsupported_variant"}


def test_palette_picture_without_its_palette_is_undecodable() -> None:
    header = struct.pack(">IIBBBBB", 4, 1, 8, 3, 0, 0, 0)
    pixels = zlib.compress(bytes(5))
    chunks = {b"IHDR": header, b"IDAT": pixels, b"IEND": b""}
    content = b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks.items())
    with pytest.raises(UndecodableImage):
        read_header(BytesIO(content), 100)


def test_wrong_ending_and_polyglot_are_judged_by_their_bytes() -> None:
    gif_and_script = encode(PHOTO, "GIF") + b"<script>alert(1)</script>"
    assert decode_image(BytesIO(gif_and_script)).size == PHOTO.size
    with pytest.raises(UnsupportedUpload):
        decode_image(BytesIO(b"<html>" + encode(PHOTO, "PNG")))


def test_not_a_number_is_no_picture() -> None:
    content = encode(Image.fromarray(np.full((4, 4), np.nan, np.float32)), "TIFF")
    with pytest.raises(UnsupportedUpload, match="32 bits"):
        decode_image(BytesIO(content))


@pytest.mark.parametrize(
    "rubbish", [b"\xff" * 300, b"Exif\0\0II*\0\xff\xff\xff\xff", b"II*\0" * 90]
)
def test_corrupt_metadata_does_not_cost_the_picture(rubbish: bytes) -> None:
    for image_format in ("JPEG", "WEBP", "PNG"):
        content = encode(PHOTO, image_format, exif=rubbish, icc_profile=rubbish)
        picture = decode_image(BytesIO(content), "all")
        assert picture.size == PHOTO.size
        assert picture.metadata.icc_profile is None


@pytest.mark.parametrize("image_format", ["JPEG", "WEBP", "PNG", "TIFF"])
def test_profile_whose_colour_space_is_not_text_does_not_cost_the_picture(
    image_format: str,
) -> None:
    # Little CMS opens it, and Pillow fails where the name is asked for.
    profile = SRGB[:16] + b"RG\x80 " + SRGB[20:]
    picture = decode_image(BytesIO(encode(PHOTO, image_format, icc_profile=profile)))
    assert picture.metadata.icc_profile is None


def test_header_check_decodes_no_pixels() -> None:
    """Pillow loads a PNG when asked for EXIF; here its damaged pixels go unnoticed."""
    header = read_header(BytesIO(png(4000, 4000, chunk(b"IDAT", b"no pixels"))), MAX_PIXELS * 16)
    assert (header.width, header.height) == (4000, 4000)
