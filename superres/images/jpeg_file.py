"""Truncated JPEGs: tells whether all of the image is present, or else about how much.

libjpeg fills missing parts with grey and emits a warning that Pillow does not pass on. But it does
show whether more data would have changed the image: a JPEG that lacks nothing but its end marker
has the same pixels whatever follows its data.
"""

import re
from dataclasses import dataclass, field
from io import BytesIO
from typing import BinaryIO

from PIL import Image, ImageChops

from superres.errors import UndecodableImage, UnsupportedVariant
from superres.images.cut_files import cut_words

START, END = b"\xff\xd8", b"\xff\xd9"
SCAN, RESTART_INTERVAL, FIRST_RESTART, END_CODE = 0xDA, 0xDD, 0xD0, 0xD9
BASELINE, EXTENDED, PROGRESSIVE = 0xC0, 0xC1, 0xC2
HUFFMAN_FRAMES = frozenset({BASELINE, EXTENDED, PROGRESSIVE})
ARITHMETIC_FRAMES = frozenset({0xC9, 0xCA})
# Lossless and hierarchical frames.
OTHER_FRAMES = frozenset({0xC3, 0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF})
# A marker that ends a scan: neither a stuffed byte nor a restart marker.
AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
RESTART = re.compile(rb"\xff[\xd0-\xd7]")
COEFFICIENTS = 64
MAX_COMPONENTS = 4
# After data truncated anywhere, its first bits differ from the zeros that libjpeg fills in.
FILLER = b"\xfe" + bytes((7 * number * number + 91 * number) % 255 for number in range(1, 90))
# An encoder that stops a few bits early spoils at most one block of an image, and the adjacent
# pixels, into which its colour is smoothed.
LARGEST_UNIT, SMOOTHED = 16, 2


@dataclass
class JpegFile:
    """What a JPEG's markers say.

    Attributes
    ----------
    end : where its data ends, excluding the end marker or a partial segment
    has_end : whether it has an end marker
    is_huffman : whether it is Huffman-coded; then zeros are never omitted
    is_progressive : whether its scans refine the image
    restarts : number of restart markers in the last scan; None if it has none
    missing_bits : for each of the frame's components and coefficients, how many bits are missing;
        None if all are
    former_detail : `detail` before the last scan
    """

    end: int = 0
    has_end: bool = False
    is_huffman: bool = False
    is_progressive: bool = False
    restarts: int | None = None
    missing_bits: dict[int, list[int | None]] = field(default_factory=dict)
    former_detail: float = 0

    @property
    def detail(self) -> float:
        """Share of the coefficients that the scans have; one without its last bits counts half."""
        known = [bits for each in self.missing_bits.values() for bits in each]
        shares = [0.0 if bits is None else 0.5 if bits else 1.0 for bits in known]
        return sum(shares) / len(shares) if shares else 0.0


def read_jpeg(content: bytes) -> JpegFile:
    """Walk through a JPEG's markers.

    Raises
    ------
    UnsupportedVariant
        A kind of JPEG that neither the service nor browsers can read.
    """
    jpeg = JpegFile(end=len(content))
    has_restarts = False
    position = len(START)
    while True:
        marker = AFTER_SCAN.search(content, position)
        if marker is None:
            jpeg.end = len(content) if jpeg.missing_bits else position
            return jpeg
        code, position = content[marker.end() - 1], marker.end()
        if code == END_CODE:
            jpeg.end, jpeg.has_end = marker.start(), True
            return jpeg
        length = int.from_bytes(content[position : position + 2])
        segment = content[position + 2 : position + length]
        if length < 2 or position + length > len(content):
            jpeg.end = marker.start()
            return jpeg
        position += length
        if code in HUFFMAN_FRAMES | ARITHMETIC_FRAMES | OTHER_FRAMES:
            note_frame(jpeg, code, segment)
        elif code == RESTART_INTERVAL:
            has_restarts = any(segment)
        elif code == SCAN:
            note_scan(jpeg, segment)
            following = AFTER_SCAN.search(content, position)
            stop = following.start() if following else len(content)
            jpeg.restarts = None
            if has_restarts:
                jpeg.restarts = sum(1 for _ in RESTART.finditer(content, position, stop))


def note_frame(jpeg: JpegFile, code: int, segment: bytes) -> None:
    """Record what the frame's header says."""
    if code in OTHER_FRAMES or segment[:1] != b"\x08":
        raise UnsupportedVariant(
            "Lossless JPEGs and those of more than 8 bits are not accepted; save it as PNG."
        )
    # With a wrong count, 16,000 coefficients would be looked through for each of a thousand scans.
    components = segment[6::3]
    if len(segment) < 6 or segment[5] != len(components) or len(components) > MAX_COMPONENTS:
        raise UndecodableImage("The JPEG's header is damaged.")
    jpeg.is_huffman = code in HUFFMAN_FRAMES
    jpeg.is_progressive = code == PROGRESSIVE
    for component in components:
        jpeg.missing_bits[component] = [None] * COEFFICIENTS


def note_scan(jpeg: JpegFile, segment: bytes) -> None:
    """Record which coefficients a scan has, and how many of their bits are still missing."""
    try:
        count = segment[0]
        first, last, bits = segment[1 + 2 * count : 4 + 2 * count]
    except (IndexError, ValueError):
        return
    jpeg.former_detail = jpeg.detail
    if not jpeg.is_progressive:
        first, last, bits = 0, COEFFICIENTS - 1, 0
    for component in segment[1 : 1 + 2 * count : 2]:
        known = jpeg.missing_bits.get(component, [])
        for coefficient in range(first, min(last + 1, len(known))):
            known[coefficient] = bits & 15


def complete_jpeg(file: BinaryIO, jpeg: JpegFile) -> BinaryIO:
    """Return the file with an end marker, adding it if missing."""
    if jpeg.has_end:
        return file
    file.seek(0)
    # Interrupted downloads often have the full file's length, with zeros at the end.
    data = file.read()[: jpeg.end].rstrip(b"\0")
    return BytesIO(data + (b"\0" if data.endswith(b"\xff") else b"") + END)


def check_complete(image: Image.Image, file: BinaryIO, jpeg: JpegFile) -> None:
    """Reject a JPEG whose data ends before its image does.

    Parameters
    ----------
    image : as it was decoded
    file : as `complete_jpeg` returned it

    Raises
    ------
    UndecodableImage
    """
    if not jpeg.is_huffman:
        return  # arithmetic coding may omit zeros at the end
    share = shown_share(image, file, jpeg)
    if share == 1 and (jpeg.has_end or jpeg.detail == 1):
        return
    if jpeg.is_progressive:
        share = jpeg.former_detail + share * (jpeg.detail - jpeg.former_detail)
        there = "it is a progressive JPEG with {} of its detail"
    else:
        share *= jpeg.detail
        there = "{} of the image is present"
    raise UndecodableImage(cut_words(there, share))


def shown_share(image: Image.Image, file: BinaryIO, jpeg: JpegFile) -> float:
    """Return the share of the image that stays the same when other bytes follow the data."""
    file.seek(0)
    content = file.read()
    end = jpeg.end if jpeg.has_end else len(content) - len(END)
    filler = FILLER
    if jpeg.restarts is not None:
        filler += bytes([0xFF, FIRST_RESTART + jpeg.restarts % 8]) + FILLER
    other = Image.open(BytesIO(content[:end] + filler + END), formats=("JPEG",))
    del content
    other.load()
    difference = ImageChops.difference(image, other)
    box = difference.getbbox()
    if box is None:
        return 1.0
    left, top, right, bottom = box
    if jpeg.has_end and max(right - left, bottom - top) <= LARGEST_UNIT + SMOOTHED:
        return 1.0
    lines = min(LARGEST_UNIT, image.height - top)
    first = difference.crop((0, top, image.width, top + lines)).getbbox()
    return (top + lines * (first[0] if first else 0) / image.width) / image.height
