"""Unsupported files: the sender is told what was sent, and what to do."""

import struct
from io import BytesIO

import pytest
from PIL import Image

from superres.errors import UndecodableImage, UnsupportedUpload
from superres.images.file_kinds import REFUSED, START_BYTES
from superres.images.image_codec import decode_image, read_header
from superres.images.input_formats import INPUT_NAMES
from testkit.hostile import tiff, tiff_picture
from testkit.pictures import encode

PICTURE = Image.new("RGB", (24, 16), (9, 99, 200))


def media(brand: bytes, *compatible: bytes) -> bytes:
    body = brand + bytes(4) + b"".join(compatible)
    return struct.pack(">I4s", 8 + len(body), b"ftyp") + body + struct.pack(">I4s", 16, b"meta") * 2


KINDS = {
    "mp4": (media(b"isom", b"iso2", b"avc1", b"mp41"), "a video"),
    "mov": (media(b"qt  "), "a video"),
    "cr3": (media(b"crx ", b"isom"), "raw file"),
    "pdf": (b"%PDF-1.7\n%\xe2\xe3", "a PDF"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG"),
    "svg of an editor": (
        b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- x -->\n<!DOCTYPE svg PUBLIC '-//W3C'>\n<svg>",
        "an SVG",
    ),
    "html": (b"\n<!DOCTYPE html>\n<html lang=en><body><svg></svg>", "a web page"),
    "error page": (b"<html><head><title>404</title>", "a web page"),
    "base64": (b"iVBORw0KGgoAAAANSUhEUgAAAAE", "base64"),
    "data url": (b"data:image/png;base64,iVBORw0KGgo", "base64"),
    "text": ("Grüße".encode(), "it is text"),
    "psd": (b"8BPS\0\1" + bytes(20), "Photoshop"),
    "ico": (b"\0\0\1\0\1\0" + bytes(20), "icon"),
    "jxl": (b"\xff\x0a\xfa\x7f", "JPEG XL"),
    "jxl in boxes": (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    "jp2": (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    "zip": (b"PK\3\4" + bytes(20), "an archive"),
    "gzip": (b"\x1f\x8b\x08" + bytes(20), "gzip"),
    "raf": (b"FUJIFILMCCD-RAW 0201", "raw file"),
    "avi": (b"RIFF\0\0\0\0AVI LIST", "a video"),
    "webm": (b"\x1aE\xdf\xa3" + bytes(20), "a video"),
    "mp3": (b"ID3\3" + bytes(20), "audio"),
    "ppm": (encode(PICTURE, "PPM"), "PPM"),
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:", "Git LFS"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kind_is_named_with_what_to_do(kind: str) -> None:
    content, name = KINDS[kind]
    for read in (lambda file: read_header(file, 10**6), decode_image):
        with pytest.raises(UnsupportedUpload) as refused:
            read(BytesIO(content))
        message = refused.value.message
        assert name in message
        assert INPUT_NAMES in message
        assert message.startswith(f"{REFUSED}: ")
        assert "; " in message


@pytest.mark.parametrize("content", [b"", bytes(100), b"\x89PNG", bytes(range(128, 250))])
def test_what_is_not_known_is_not_guessed(content: bytes) -> None:
    with pytest.raises(UnsupportedUpload) as refused:
        read_header(BytesIO(content), 10**6)
    assert refused.value.message == f"{REFUSED}."


@pytest.mark.parametrize("brand", [b"mif1", b"msf1", b"miaf"])
def test_avif_is_told_by_any_of_its_brands(brand: bytes) -> None:
    content = encode(PICTURE, "AVIF")
    other = content[:8] + brand + content[12:]
    assert b"avif" in other[16:40]
    if brand == b"miaf":  # Pillow goes by the first brand
        with pytest.raises(UndecodableImage, match="starts like AVIF"):
            read_header(BytesIO(other), 10**6)
    else:
        assert decode_image(BytesIO(other)).size == PICTURE.size


@pytest.mark.parametrize(
    "start", [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0\0\x10JFIF", b"GIF89a", b"II*\0\x08\0\0\0"]
)
def test_broken_picture_is_not_called_another_format(start: bytes) -> None:
    with pytest.raises(UndecodableImage):
        read_header(BytesIO(start + bytes(40)), 10**6)


@pytest.mark.parametrize("brand", [b"heic", b"heix", b"mif1", b"msf1"])
def test_broken_heic_is_not_called_another_format(brand: bytes) -> None:
    with pytest.raises(UndecodableImage):
        read_header(BytesIO(media(brand, b"mif1")), 10**6)


def raw_tiff(*entries: tuple[int, int, int, int], rest: bytes = b"") -> bytes:
    layout = (273, 4, 1, 8), (279, 4, 1, 1)
    return tiff(tiff_picture(2, 2, *layout, *entries), rest)


def test_raw_file_is_never_taken_for_its_preview() -> None:
    dng = raw_tiff((50706, 1, 4, 0x401))
    count = 6 + 2 + 1
    place = 8 + 2 + 12 * count + 4
    sensor = struct.pack("<H", 1) + struct.pack("<HHLL", 262, 3, 1, 32803) + bytes(4)
    nef = raw_tiff((330, 4, 1, place), rest=sensor)
    assert nef[place : place + 2] == b"\1\0"
    canon = raw_tiff()
    canon = canon[:4] + struct.pack("<L", 16) + b"CR\2\0" + bytes(4) + canon[8:]
    linear = tiff(tiff_picture(2, 2, (273, 4, 1, 8), (279, 4, 1, 1))).replace(
        struct.pack("<HHLL", 262, 3, 1, 1), struct.pack("<HHLL", 262, 3, 1, 34892)
    )
    for content in (dng, nef, canon, linear):
        with pytest.raises(UnsupportedUpload, match="raw file"):
            read_header(BytesIO(content), 10**6)
    other = nef.replace(struct.pack("<L", 32803), struct.pack("<L", 2))
    nowhere = raw_tiff((330, 4, 1, 10**6)), raw_tiff((330, 4, 10**6, 8)), raw_tiff((330, 2, 9, 8))
    for content in (other, *nowhere):
        assert read_header(BytesIO(content), 10**6).pixels == 4


def test_long_text_costs_no_time() -> None:
    """Patterns must not backtrack through every way to split it."""
    for content in (b"<!---->" * 5000, b"<" * START_BYTES, b" " * 10**6, b"<svg" * 1000):
        with pytest.raises(UnsupportedUpload):
            read_header(BytesIO(content), 10**6)
