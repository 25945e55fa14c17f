"""IPTC: its datasets, where they are, and what damage costs."""

import struct
from io import BytesIO

import pytest

from superres.images.image_codec import decode_image
from superres.images.iptc import (
    MAX_IPTC_BYTES,
    MAX_RESOURCES_BYTES,
    PHOTOSHOP_HEAD,
    find_iptc,
    join_segments,
    keep_iptc,
    make_resource,
    read_words,
)
from testkit.kinds import PHOTO
from testkit.pictures import encode


def dataset(record: int, number: int, value: bytes) -> bytes:
    return struct.pack(">BBBH", 0x1C, record, number, len(value)) + value


UTF_8 = dataset(1, 90, b"\x1b%G")
AUTHOR, CITY, PREVIEW = dataset(2, 80, b"Anna"), dataset(2, 90, b"Ulm"), dataset(2, 202, b"pixels")
TRACKER = dataset(2, 40, b"FBMD0123")
OTHER = dataset(3, 10, b"of pixels")


def test_datasets_are_kept_by_policy() -> None:
    content = UTF_8 + AUTHOR + CITY + PREVIEW + TRACKER + OTHER
    assert keep_iptc(content, "safe") == UTF_8 + AUTHOR
    assert keep_iptc(content, "all") == UTF_8 + AUTHOR + CITY + TRACKER
    assert keep_iptc(content, "none") is None


@pytest.mark.parametrize("name", [b"\0\0", b"\3abc", b"\4abcd\0"])
def test_iptc_is_found_among_other_resources(name: bytes) -> None:
    other = b"8BIM\x03\xed" + name + struct.pack(">I", 3) + b"abc\0"
    assert find_iptc(other + make_resource(AUTHOR) + other) == AUTHOR
    assert keep_iptc(other + make_resource(AUTHOR), "safe") == AUTHOR
    assert find_iptc(other) == b""


def resource(content: bytes) -> bytes:
    """A resource other than IPTC."""
    return b"8BIM\x03\xed\0\0" + struct.pack(">I", len(content)) + content + bytes(len(content) % 2)


def jpeg(*pieces: bytes) -> bytes:
    """A JPEG with resources in some segments."""
    content = encode(PHOTO, "JPEG")
    bodies = [PHOTOSHOP_HEAD + each for each in pieces]
    segments = [b"\xff\xed" + struct.pack(">H", 2 + len(each)) + each for each in bodies]
    return content[:2] + b"".join(segments) + content[2:]


LONG = resource(b"x" * 100_001) + make_resource(UTF_8 + AUTHOR)
SEGMENTS = {
    "one": (make_resource(UTF_8 + AUTHOR),),
    "other resources first": (resource(b"abc"), make_resource(UTF_8 + AUTHOR)),
    "empty one first": (make_resource(b""), make_resource(UTF_8 + AUTHOR)),
    "damaged one first": (resource(bytes(1000))[:99], make_resource(UTF_8 + AUTHOR)),
    "split within another resource": (LONG[:60_000], LONG[60_000:]),
    "split within IPTC": (LONG[:50_000], LONG[50_000:-9], LONG[-9:]),
    "split within a head": (LONG[:60_000], LONG[60_000:100_015], LONG[100_015:]),
}


@pytest.mark.parametrize("kind", SEGMENTS)
def test_iptc_is_found_in_several_segments_of_a_jpeg(kind: str) -> None:
    picture = decode_image(BytesIO(jpeg(*SEGMENTS[kind])), "safe")
    assert picture.metadata.iptc == UTF_8 + AUTHOR


def test_segments_beyond_the_limit_are_not_looked_at() -> None:
    long = PHOTOSHOP_HEAD + resource(bytes(50_000))
    last = PHOTOSHOP_HEAD + make_resource(AUTHOR)
    assert join_segments([long, last]) == AUTHOR
    assert join_segments([long] * (1 + MAX_RESOURCES_BYTES // len(long)) + [last]) == b""


def test_damage_ends_the_datasets() -> None:
    for damaged in (b"rubbish", AUTHOR[:-1], AUTHOR[:3], dataset(2, 80, b"")[:3] + b"\xff\xff"):
        assert keep_iptc(CITY + UTF_8 + damaged, "all") == CITY + UTF_8
    for resources in (b"8BIM", b"8BIM\x04\x04\xff", make_resource(AUTHOR)[:12]):
        assert keep_iptc(resources, "all") is None


def test_too_much_iptc_is_left_out() -> None:
    assert keep_iptc(dataset(2, 120, bytes(30_000)) * 3, "all") is None
    assert len(keep_iptc(dataset(2, 120, bytes(29_000)) * 2, "all") or b"") < MAX_IPTC_BYTES


def charset(escape: bytes) -> bytes:
    return dataset(1, 90, escape)


@pytest.mark.parametrize("declared", [UTF_8, charset(b"\x1b%/I"), charset(b"\x1b%G\0"), b""])
def test_words_in_utf_8_are_read_whether_declared_or_not(declared: bytes) -> None:
    name = dataset(2, 80, "José".encode())
    assert read_words(declared + name + CITY) == {80: ["José"], 90: ["Ulm"]}


@pytest.mark.parametrize("declared", [b"", charset(b""), charset(b"\x1b.A"), UTF_8])
def test_words_in_latin_1_are_read(declared: bytes) -> None:
    name = dataset(2, 80, "José".encode("latin-1"))
    assert read_words(declared + name + CITY) == {80: ["José"], 90: ["Ulm"]}


def test_words_are_latin_1_if_they_say_so() -> None:
    assert read_words(charset(b"\x1b-A") + dataset(2, 80, b"\xc3\xa9")) == {80: ["Ã©"]}


def test_words_in_other_character_sets_are_left_out() -> None:
    russian = dataset(2, 80, "Анна".encode("iso8859-5"))
    assert read_words(charset(b"\x1b-L") + russian + CITY) == {90: ["Ulm"]}
    japanese = "アンナ".encode("iso2022_jp")
    assert read_words(dataset(2, 80, japanese) + CITY) == {90: ["Ulm"]}
    assert read_words(charset(b"\x1b$B") + dataset(2, 80, japanese[3:-3]) + CITY) == {}
