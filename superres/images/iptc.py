"""IPTC-IIM, which press programs write: finds it, and keeps what may be kept.

IPTC-NAA Information Interchange Model 4.2: datasets of a record and a number; editors keep them
among Photoshop's image resources.
"""

import contextlib
import re
import struct
from collections.abc import Iterable, Iterator

# Of a JPEG's segment with such resources.
PHOTOSHOP_HEAD = b"Photoshop 3.0\0"
RESOURCE, IPTC_RESOURCE = b"8BIM", 0x0404
DATASET = 0x1C
# The highest bit marks an extended length, which only files of media have.
EXTENDED = 0x8000
# As found, with previews; of the rest, which must fit into a segment of a JPEG.
MAX_FOUND_BYTES, MAX_IPTC_BYTES = 1024**2, 60_000
# All resources of a JPEG: paths, previews and so on.
MAX_RESOURCES_BYTES = 4 * 1024**2
ENVELOPE, APPLICATION = 1, 2
# ISO 2022's escapes for UTF-8, for Latin-1 in the upper half, and for anything but ASCII in the
# lower half.
CHARACTER_SET, UTF_8 = 90, re.compile(rb"\x1b%(?:G|/[GHI])")
LATIN_1 = re.compile(rb"(?:\x1b\(B)?\x1b[-./]A")
NOT_ASCII = re.compile(rb"\x1b(?:\((?!B)|\$[@AB(])")
# Title, urgency, categories, keywords, instructions, dates, programs, author, headline, credit,
# source, copyright, caption and its writer; no place, contact or identifier.
SAFE_DATASETS = frozenset(
    {
        *(0, 5, 10, 12, 15, 20, 25, 40, 55, 60, 62, 63, 65, 70, 80, 85),
        *(105, 110, 115, 116, 120, 122),
    }
)
# Kind of image, its orientation, and a preview.
STALE_DATASETS = frozenset({130, 131, 200, 201, 202})
# Facebook marks what was uploaded to it, in the instructions.
TRACKER = b"FBMD"

Dataset = tuple[int, int, bytes]


def walk_datasets(content: bytes) -> Iterator[Dataset]:
    """Yield each dataset's record, number and value; damage ends it."""
    position = 0
    while position + 5 <= len(content) and content[position] == DATASET:
        record, number, length = struct.unpack_from(">BBH", content, position + 1)
        position += 5
        if length & EXTENDED or position + length > len(content):
            return
        yield record, number, content[position : position + length]
        position += length


def join_segments(segments: Iterable[bytes]) -> bytes:
    """Return the IPTC, or the resources, in a JPEG's segments; empty if there is none.

    Resources that are too long for a segment go on in the next one, even within a resource. Other
    programs write one segment after another, each of which is complete or damaged.

    Parameters
    ----------
    segments : APP13 segments; others than Photoshop's are ignored
    """
    pieces: list[bytes] = []
    room = MAX_RESOURCES_BYTES
    for segment in segments:
        room -= len(segment)
        if room < 0:
            break
        if segment.startswith(PHOTOSHOP_HEAD):
            pieces.append(segment[len(PHOTOSHOP_HEAD) :])
    for resources in (b"".join(pieces), *pieces):
        found = find_iptc(resources)
        if any(walk_datasets(found)):
            return found
    return b""


def find_iptc(resources: bytes) -> bytes:
    """Return the IPTC among Photoshop's image resources; empty if there is none."""
    position = 0
    while resources[position : position + 4] == RESOURCE and position + 12 <= len(resources):
        (kind,) = struct.unpack_from(">H", resources, position + 4)
        name = resources[position + 6]
        start = position + 6 + (name + 2) // 2 * 2 + 4
        length = int.from_bytes(resources[start - 4 : start])
        if kind == IPTC_RESOURCE and length:
            return resources[start : start + length]
        position = start + (length + 1) // 2 * 2
    return b""


def make_resource(iptc: bytes) -> bytes:
    """Return IPTC as a Photoshop image resource without a name."""
    return RESOURCE + struct.pack(">HHI", IPTC_RESOURCE, 0, len(iptc)) + iptc + bytes(len(iptc) % 2)


def keep_iptc(content: bytes, keep: str) -> bytes | None:
    """Return the IPTC for the result.

    Parameters
    ----------
    content : datasets, or Photoshop's image resources with them
    keep : "all" except what would be wrong in the result, "safe" datasets only, or "none"
    """
    if keep == "none":
        return None
    if content.startswith(RESOURCE):
        content = find_iptc(content)
    kept = []
    for record, number, value in walk_datasets(content[:MAX_FOUND_BYTES]):
        is_safe = record == APPLICATION and number in SAFE_DATASETS
        if keep == "all":
            is_kept = record == ENVELOPE or (record == APPLICATION and number not in STALE_DATASETS)
        else:
            is_kept = is_safe and not value.startswith(TRACKER)
        if is_kept or (record, number) == (ENVELOPE, CHARACTER_SET):
            kept.append(struct.pack(">BBBH", DATASET, record, number, len(value)) + value)
    joined = b"".join(kept)
    return joined if 0 < len(joined) <= MAX_IPTC_BYTES else None


def read_words(iptc: bytes) -> dict[int, list[str]]:
    """Return the texts of the application record, by dataset number.

    Those in character sets that cannot be read are left out.
    """
    datasets = list(walk_datasets(iptc))
    found = [each for *key, each in datasets if key == [ENVELOPE, CHARACTER_SET]]
    encodings = list_encodings(found[0].strip(b"\0 ") if found else b"")
    words: dict[int, list[str]] = {}
    for record, number, value in datasets:
        text = read_text(value, encodings)
        if record == APPLICATION and number and text is not None:
            words.setdefault(number, []).append(text)
    return words


def list_encodings(declared: bytes) -> tuple[str, ...]:
    """Return the encodings that texts may have.

    Parameters
    ----------
    declared : escapes of ISO 2022; many programs write UTF-8 without them
    """
    if LATIN_1.fullmatch(declared):
        return ("latin-1",)
    if not declared or UTF_8.fullmatch(declared):
        return ("utf-8", "latin-1")
    return () if NOT_ASCII.search(declared) else ("ascii",)


def read_text(value: bytes, encodings: tuple[str, ...]) -> str | None:
    """Return a text in the first encoding that it is valid in; None if there is none."""
    if b"\x1b" in value:  # changes the character set within the text
        return None
    for encoding in encodings:
        with contextlib.suppress(UnicodeDecodeError):
            return value.decode(encoding)
    return None
