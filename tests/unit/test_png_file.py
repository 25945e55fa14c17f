"""PNG chunks as libpng treats them: unneeded chunks never spoil a good image."""

import os
import struct
import zlib
from io import BytesIO

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from superres.errors import UndecodableImage, UnsupportedVariant
from superres.images.image_codec import decode_image, read_header
from superres.images.metadata import MAX_PROFILE_BYTES, Metadata
from superres.images.picture import Picture
from superres.images.png_file import make_chunk, read_png, walk_chunks
from testkit.hostile import packed_zeros
from testkit.pictures import encode

PICTURE = Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 60, 3), np.uint8))
PNG = encode(PICTURE, "PNG")
AFTER_HEADER = 33
PALETTE = bytes([0, 0, 0, 200, 30, 30, 0, 160, 0])


def decode(content: bytes) -> Picture:
    header = read_header(BytesIO(content), 10**6)
    picture = decode_image(BytesIO(content))
    assert header.has_alpha == (picture.alpha is not None)
    return picture


def with_chunks(*chunks: bytes) -> bytes:
    return PNG[:AFTER_HEADER] + b"".join(chunks) + PNG[AFTER_HEADER:]


def damage(chunk: bytes) -> bytes:
    return chunk[:-1] + bytes([chunk[-1] ^ 1])


def assert_same_pixels(picture: Picture) -> None:
    np.testing.assert_array_equal(picture.pixels[:, :, ::-1], np.asarray(PICTURE))


LONG = os.urandom(400_000).hex().encode() * 2
TEXTS = {
    "tEXt": make_chunk(b"tEXt", b"a\0" + LONG),
    "zTXt": make_chunk(b"zTXt", b"mxfile\0\0" + zlib.compress(LONG)),
    "iTXt": make_chunk(b"iTXt", b"a\0\0\0\0\0" + LONG),
    "packed iTXt": make_chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(LONG)),
    "bomb": make_chunk(b"zTXt", b"a\0\0" + packed_zeros(200)),
    "unknown method": make_chunk(b"zTXt", b"a\0\7rubbish"),
    "many": make_chunk(b"tEXt", b"a\0" + bytes(1000)) * 500,
}


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("is_behind", [False, True], ids=["before pixels", "behind"])
def test_text_of_any_length_costs_no_picture(kind: str, is_behind: bool) -> None:
    text = TEXTS[kind]
    content = PNG[:-12] + text + PNG[-12:] if is_behind else with_chunks(text)
    assert_same_pixels(decode(content))


def padded_profile(length: int) -> bytes:
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile += bytes(length - len(profile))
    profile[:4] = struct.pack(">I", length)
    return bytes(profile)


def test_profile_of_more_than_a_megabyte_is_kept() -> None:
    profile = padded_profile(1_500_000)
    chunk = make_chunk(b"iCCP", b"icc\0\0" + zlib.compress(profile))
    picture = decode(with_chunks(chunk))
    assert_same_pixels(picture)
    assert picture.metadata.icc_profile == profile


@pytest.mark.parametrize(
    "packed",
    [
        zlib.compress(padded_profile(MAX_PROFILE_BYTES + 1)),
        packed_zeros(200),
        b"rubbish",
        b"",
    ],
    ids=["too long", "bomb", "damaged", "empty"],
)
def test_profile_that_cannot_be_used_costs_no_picture(packed: bytes) -> None:
    picture = decode(with_chunks(make_chunk(b"iCCP", b"icc\0\0" + packed)))
    assert_same_pixels(picture)
    assert picture.metadata.icc_profile is None


def tagged() -> bytes:
    exif = Image.Exif()
    exif[0x013B] = "An artist"
    return exif.tobytes().removeprefix(b"Exif\0\0")


ANCILLARY = {
    b"tEXt": b"Comment\0hello",
    b"gAMA": struct.pack(">I", 45455),
    b"cHRM": bytes(32),
    b"tIME": bytes(7),
    b"bKGD": bytes(6),
    b"abCd": b"private",
    b"pHYs": struct.pack(">IIB", 11811, 11811, 1),
    b"tRNS": bytes(6),
    b"iCCP": b"icc\0\0" + zlib.compress(padded_profile(3200)),
    b"eXIf": tagged(),
}


@pytest.mark.parametrize("name", ANCILLARY)
def test_ancillary_chunk_with_a_wrong_check_sum_is_left_out(name: bytes) -> None:
    picture = decode(with_chunks(damage(make_chunk(name, ANCILLARY[name]))))
    assert_same_pixels(picture)
    assert picture.alpha is None
    assert picture.metadata == Metadata()


def palette_png(transparency: bytes, *, late: bool = False, early: bool = False) -> bytes:
    indices = np.zeros((6, 6), np.uint8)
    indices[2:4], indices[4:] = 1, 2
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in indices))
    header = make_chunk(b"IHDR", struct.pack(">IIBBBBB", 6, 6, 8, 3, 0, 0, 0))
    chunk = make_chunk(b"tRNS", transparency)
    parts = [make_chunk(b"PLTE", PALETTE), chunk, make_chunk(b"IDAT", pixels)]
    if late:
        parts = [parts[0], parts[2], chunk]
    if early:
        parts = [chunk, parts[0], parts[2]]
    return PNG[:8] + header + b"".join(parts) + make_chunk(b"IEND", b"")


@pytest.mark.parametrize("name", [b"IHDR", b"PLTE", b"IDAT"])
def test_needed_chunk_with_a_wrong_check_sum_is_an_error(name: bytes) -> None:
    """As in libpng by default: the image would not be the intended one."""
    content = palette_png(b"\0")
    chunks = {found: (start, end) for found, start, end in walk_chunks(content)}
    at = chunks[name][1]
    broken = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
    with pytest.raises(UndecodableImage, match=r"damaged|first pixel"):
        decode(broken)


def alpha_of_libpng(content: bytes) -> list[int]:
    """The alpha of each of the three colours, according to libpng."""
    decoded = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    assert decoded is not None
    column = decoded[::2, 0]
    return [255] * 3 if column.shape[1] == 3 else [int(alpha) for alpha in column[:, 3]]


@pytest.mark.parametrize(
    "transparency",
    [
        *(b"\0", b"\0\x0a", b"\xff\0\x0a", b"\x0a", b"\0\xff\x0a", b"\xff\0\xff", b"\x80\x40\x20"),
        *(b"\0\0\0\0", b"\0" * 257, b""),
    ],
    ids=lambda each: each[:4].hex(" ") or "empty",
)
def test_transparency_of_a_palette_is_as_libpng_reads_it(transparency: bytes) -> None:
    content = palette_png(transparency)
    picture = decode(content)
    found = [255] * 3 if picture.alpha is None else picture.alpha[::2, 0].tolist()
    assert found == alpha_of_libpng(content)
    assert (picture.alpha is None) == (len(transparency) not in {1, 2, 3})


@pytest.mark.parametrize("place", [{"late": True}, {"early": True}], ids=["behind pixels", "early"])
def test_transparency_in_the_wrong_place_counts_for_nothing(place: dict[str, bool]) -> None:
    assert decode(palette_png(b"\0\x80", **place)).alpha is None


@pytest.mark.parametrize("length", [0, 1, 2, 4, 5, 7, 8])
def test_transparent_colour_of_a_wrong_length_counts_for_nothing(length: int) -> None:
    assert decode(with_chunks(make_chunk(b"tRNS", bytes(length)))).alpha is None


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif.tobytes().removeprefix(b"Exif\0\0")


@pytest.mark.parametrize("is_behind", [False, True], ids=["before pixels", "behind"])
def test_exif_turns_the_picture_wherever_it_stands(is_behind: bool) -> None:
    chunk = make_chunk(b"eXIf", turned())
    content = PNG[:-12] + chunk + PNG[-12:] if is_behind else with_chunks(chunk)
    header = read_header(BytesIO(content), 10**6)
    assert (header.width, header.height) == (40, 60)
    assert decode_image(BytesIO(content)).size == (40, 60)


def test_animation_of_one_frame_is_a_picture_and_of_two_is_refused() -> None:
    control = make_chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 60, 40, 0, 0, 1, 10, 0, 0))
    one, two = (make_chunk(b"acTL", struct.pack(">II", frames, 0)) for frames in (1, 2))
    assert_same_pixels(decode(with_chunks(one, control)))
    for several in ((two, control), (one,)):  # the second shows its default image, then its frame
        with pytest.raises(UnsupportedVariant, match="Animations"):
            decode(with_chunks(*several))


def test_only_what_makes_the_pixels_goes_to_the_decoders() -> None:
    content = with_chunks(*TEXTS.values(), damage(make_chunk(b"PLTE", PALETTE)))
    found = read_png(BytesIO(content)).file
    found.seek(0)
    assert found.read() == PNG


@pytest.mark.parametrize("kind", [b"IDAT", b"abCd", b"tEXt"])
def test_more_chunks_than_any_program_writes_are_refused(kind: bytes) -> None:
    content = encode(Image.new("RGB", (9, 7), (1, 2, 3)), "PNG")
    start, rest = content[:33], content[33:]
    with pytest.raises(UndecodableImage, match="65,536 chunks"):
        read_header(BytesIO(start + 65_536 * make_chunk(kind, b"") + rest), 1000)
    many = start + 60_000 * make_chunk(b"tEXt", b"") + rest
    assert decode_image(BytesIO(many)).size == (9, 7)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "I;16"])
@pytest.mark.parametrize("missing", [1, 20])
def test_packed_pixels_that_end_too_early_are_an_error(mode: str, missing: int) -> None:
    content = encode(Image.new(mode, (30, 40)), "PNG")
    pieces = {name: content[start:end] for name, start, end in walk_chunks(content)}
    pixels = zlib.decompress(pieces[b"IDAT"])
    fewer = pixels[: len(pixels) * (40 - missing) // 40]
    cut = content.replace(
        make_chunk(b"IDAT", pieces[b"IDAT"]), make_chunk(b"IDAT", zlib.compress(fewer))
    )
    with pytest.raises(UndecodableImage, match=f"about {100 - 100 * missing // 40} %|damaged"):
        decode_image(BytesIO(cut))


def test_chunk_that_nobody_knows_is_an_error_only_where_it_is_needed() -> None:
    content = encode(Image.new("RGB", (9, 7), (1, 2, 3)), "PNG")
    for name in (b"abCd", b"vpAg"):
        assert decode_image(BytesIO(content[:33] + make_chunk(name, b"1") + content[33:]))
    with pytest.raises(UndecodableImage, match="unknown types"):
        decode_image(BytesIO(content[:33] + make_chunk(b"ABCD", b"1") + content[33:]))
    with pytest.raises(UnsupportedVariant, match="CgBI"):
        decode_image(BytesIO(content[:8] + make_chunk(b"CgBI", bytes(4)) + content[8:]))


def test_picture_is_not_turned_by_exif_that_is_a_text() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x013B] = 6, "Anna"
    digits = exif.tobytes().hex().encode()
    text = b"Raw profile type exif\0\nexif\n%8d\n%s\n" % (len(digits) // 2, digits)
    content = encode(Image.new("RGB", (9, 7)), "PNG")
    picture = decode_image(BytesIO(content[:33] + make_chunk(b"tEXt", text) + content[33:]))
    assert picture.size == (9, 7)
    assert picture.metadata.exif is not None
    assert b"Anna" in picture.metadata.exif
