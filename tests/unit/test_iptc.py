"""IPTC: its datasets, where they are, and what damage costs."""

import struct

import pytest

from superres.images.iptc import MAX_IPTC_BYTES, find_iptc, keep_iptc, make_resource, read_words


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


def test_damage_ends_the_datasets() -> None:
    for damaged in (b"rubbish", AUTHOR[:-1], AUTHOR[:3], dataset(2, 80, b"")[:3] + b"\xff\xff"):
        assert keep_iptc(CITY + UTF_8 + damaged, "all") == CITY + UTF_8
    for resources in (b"8BIM", b"8BIM\x04\x04\xff", make_resource(AUTHOR)[:12]):
        assert keep_iptc(resources, "all") is None


def test_too_much_iptc_is_left_out() -> None:
    assert keep_iptc(dataset(2, 120, bytes(30_000)) * 3, "all") is None
    assert len(keep_iptc(dataset(2, 120, bytes(29_000)) * 2, "all") or b"") < MAX_IPTC_BYTES


def test_words_have_the_declared_encoding() -> None:
    name = dataset(2, 80, "José".encode())
    assert read_words(UTF_8 + name + CITY) == {80: ["José"], 90: ["Ulm"]}
    assert read_words(dataset(2, 80, "José".encode("latin-1"))) == {80: ["José"]}
