"""An image's metadata as a result has it: fitted to its size and resolution, and to its format."""

import struct
from dataclasses import replace

from superres.images.exif import MAX_SEGMENT_EXIF, add_user_comment, shorten_exif
from superres.images.iptc import PHOTOSHOP_HEAD, make_resource, read_words
from superres.images.metadata import Metadata
from superres.images.png_file import SIGNATURE, make_chunk, walk_chunks
from superres.images.png_text import (
    COMMENT,
    XMP_KEYWORD,
    Text,
    find_words,
    make_international,
    make_raw_profile,
)
from superres.images.xmp import add_words, fit_packet, shorten_packet
from superres.images.xmp_packet import Packet, read_packet, write_packet

# A JPEG's segment has this many bytes of XMP after its name, or of a comment.
MAX_SEGMENT_XMP, MAX_COMMENT = 65_502, 65_533
APP13 = b"\xff\xed"
# The prompt of Automatic1111 and its relatives, which keep it in EXIF where there is no text.
PROMPT = b"parameters"
# Properties for formats without text chunks or IPTC: name, form, the text's keyword, IPTC's
# dataset (IPTC Photo Metadata Standard, "Mapped to IIM"; Metadata Working Group 2.0, chapter 5).
PROPERTIES = (
    ("dc:title", "Alt", b"Title", 5),
    ("dc:creator", "Seq", b"Author", 80),
    ("dc:description", "Alt", b"Description", 120),
    ("dc:rights", "Alt", b"Copyright", 116),
    ("dc:subject", "Bag", None, 25),
    ("xmp:CreatorTool", "text", b"Software", 65),
    ("photoshop:AuthorsPosition", "text", None, 85),
    ("photoshop:CaptionWriter", "text", None, 122),
    ("photoshop:Category", "text", None, 15),
    ("photoshop:City", "text", None, 90),
    ("photoshop:Country", "text", None, 101),
    ("photoshop:Credit", "text", None, 110),
    ("photoshop:Headline", "text", None, 105),
    ("photoshop:Instructions", "text", None, 40),
    ("photoshop:Source", "text", None, 115),
    ("photoshop:State", "text", None, 95),
    ("photoshop:SupplementalCategories", "Bag", None, 20),
    ("photoshop:TransmissionReference", "text", None, 103),
    ("photoshop:Urgency", "text", None, 10),
    ("Iptc4xmpCore:CountryCode", "text", None, 100),
    ("Iptc4xmpCore:Location", "text", None, 92),
)
# As YYYYMMDD.
DATE_CREATED = 55


def fit_metadata(metadata: Metadata, size: tuple[int, int], name: str) -> Metadata:
    """Return metadata as a result has it; fitting it again, to another size, is as fitting once.

    Where a format has no place for IPTC or texts, what XMP and EXIF have properties for goes there.

    Parameters
    ----------
    metadata : its resolution is the result's
    size : of the result, width and height in pixels
    name : of the result's format
    """
    xmp, exif, iptc = metadata.xmp, metadata.exif, metadata.iptc
    if name not in {"png", "jpeg"}:
        iptc = None
    packet = Packet() if xmp is None else read_packet(xmp, lambda _: True) or Packet()
    fit_packet(packet, size, metadata.dpi)
    if name != "png":
        texts = read_texts(metadata)
        words = {} if metadata.iptc is None or iptc is not None else read_words(metadata.iptc)
        add_properties(packet, texts, words)
        prompt = find_words(texts, PROMPT)
        exif = exif if prompt is None else add_user_comment(exif, prompt)
    if name == "jpeg":
        shorten_packet(packet, MAX_SEGMENT_XMP)
        exif = None if exif is None else shorten_exif(exif, MAX_SEGMENT_EXIF)
    xmp = write_packet(packet) if packet.properties else None
    return replace(metadata, xmp=xmp, exif=exif, iptc=iptc)


def read_texts(metadata: Metadata) -> list[Text]:
    """Return the text chunks in an image's metadata."""
    content = SIGNATURE + (metadata.texts or b"")
    return [(name, content[start:end]) for name, start, end in walk_chunks(content)]


def add_properties(packet: Packet, texts: list[Text], iptc: dict[int, list[str]]) -> None:
    """Add what texts and IPTC say to XMP, unless it says it already."""
    for name, form, keyword, number in PROPERTIES:
        words = iptc.get(number, [])
        text = None if words or keyword is None else find_words(texts, keyword)
        if words or text:
            add_words(packet, name, form, words or [text or ""])
    date = "".join(iptc.get(DATE_CREATED, []))
    if len(date) == len("20200229") and date.isdigit():
        iso_date = f"{date[:4]}-{date[4:6]}-{date[6:]}"
        add_words(packet, "photoshop:DateCreated", "text", [iso_date])


def make_text_chunks(metadata: Metadata) -> list[bytes]:
    """Return a PNG's chunks for XMP, IPTC and texts."""
    chunks = []
    if metadata.xmp is not None:
        chunks.append(make_chunk(*make_international(XMP_KEYWORD, metadata.xmp)))
    if metadata.iptc is not None:
        chunks.append(make_chunk(*make_raw_profile(b"iptc", make_resource(metadata.iptc))))
    return chunks if metadata.texts is None else [*chunks, metadata.texts]


def make_iptc_segment(metadata: Metadata) -> bytes:
    """Return a JPEG's segment for IPTC; empty if there is none."""
    if metadata.iptc is None:
        return b""
    body = PHOTOSHOP_HEAD + make_resource(metadata.iptc)
    return APP13 + struct.pack(">H", 2 + len(body)) + body


def find_comment(metadata: Metadata) -> bytes:
    """Return the comment for a JPEG; empty if there is none, or it is too long."""
    comment = (find_words(read_texts(metadata), COMMENT) or "").encode()
    return comment if len(comment) <= MAX_COMMENT else b""
