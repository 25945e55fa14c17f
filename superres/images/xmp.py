"""XMP: collects what of it a result keeps, and sets the properties that describe the result."""

import re
import struct
from collections.abc import Iterable

from PIL import Image

from superres.images.xmp_packet import (
    MAX_KEPT_BYTES,
    MAX_PACKET_BYTES,
    RDF,
    XML,
    Node,
    Packet,
    read_packet,
    write_packet,
)
from superres.images.xmp_policy import (
    DC,
    EXIF,
    IPTC_CORE,
    PHOTOSHOP,
    TIFF,
    XMP,
    drop_unsafe_parts,
    is_kept,
)

# Key in an image's info; Pillow would apply the orientation in XMP under its own keys.
XMP_AS_FOUND = "xmp as found"
# JPEG's second packet, for what exceeds a segment: GUID, full length, offset (XMP part 3, 1.1.3.1).
EXTENSION = b"http://ns.adobe.com/xmp/extension/\0"
EXTENSION_HEAD = struct.Struct(">32sII")
EXTENSION_NAME = re.compile(rb"HasExtendedXMP\s*[=>]\s*[\"']?\s*([0-9A-Fa-f]{32})")
INCH = 2


def set_xmp_aside(image: Image.Image) -> None:
    """Hide an image's XMP from Pillow, which would apply its orientation to a TIFF's pixels."""
    for name in ("xmp", "XML:com.adobe.xmp"):
        found = image.info.pop(name, None)
        if isinstance(found, bytes):
            image.info[XMP_AS_FOUND] = found


def keep_xmp(packets: Iterable[bytes], keep: str) -> bytes | None:
    """Return the XMP for the result: the properties of some packets that are kept.

    Damaged packets are ignored, and so are the longest properties of too long ones.

    Parameters
    ----------
    keep : see `is_kept`
    """
    kept = Packet()
    if keep == "none":
        return None
    for content in packets:
        packet = read_packet(content, lambda name: is_kept(name, keep))
        if packet is not None:
            kept.properties = packet.properties | kept.properties
            kept.prefixes = packet.prefixes | kept.prefixes
    if keep == "safe":
        drop_unsafe_parts(kept)
    shorten_packet(kept, MAX_KEPT_BYTES)
    return write_packet(kept) if kept.properties else None


def join_extension(main: bytes, segments: Iterable[bytes]) -> bytes | None:
    """Return the extended XMP of a JPEG; None if it has none, or parts of it are missing.

    Parameters
    ----------
    main : the packet that names the extension
    segments : APP1 segments that begin with `EXTENSION`
    """
    name = EXTENSION_NAME.search(main)
    pieces: dict[int, bytes] = {}
    total = 0
    for segment in segments:
        body = segment[len(EXTENSION) :]
        if name is None or len(body) < EXTENSION_HEAD.size or not body.startswith(name[1]):
            continue
        _, total, offset = EXTENSION_HEAD.unpack_from(body)
        if total > MAX_PACKET_BYTES:
            return None
        pieces[offset] = body[EXTENSION_HEAD.size :]
    end = 0
    for offset in sorted(pieces):
        if offset != end:
            return None
        end += len(pieces[offset])
    return b"".join(pieces[offset] for offset in sorted(pieces)) if 0 < end == total else None


def fit_packet(packet: Packet, size: tuple[int, int], dpi: tuple[float, float] | None) -> None:
    """Set properties of the size, the resolution and the orientation, where present, to a result's.

    Parameters
    ----------
    size : width and height in pixels
    dpi : pixels per inch; None drops the resolution
    """
    width, height = size
    actual: dict[str, object] = {
        f"{{{TIFF}}}ImageWidth": width,
        f"{{{TIFF}}}ImageLength": height,
        f"{{{TIFF}}}Orientation": 1,
        f"{{{EXIF}}}PixelXDimension": width,
        f"{{{EXIF}}}PixelYDimension": height,
    }
    names = [f"{{{TIFF}}}{name}" for name in ("XResolution", "YResolution", "ResolutionUnit")]
    if dpi is None:
        for name in names:
            packet.properties.pop(name, None)
    else:
        values = [*(f"{round(each * 10_000)}/10000" for each in dpi), INCH]
        actual |= dict(zip(names, values, strict=True))
    for name, value in actual.items():
        if name in packet.properties:
            packet.properties[name] = Node(name, text=str(value))


def shorten_packet(packet: Packet, max_bytes: int) -> None:
    """Leave out a packet's longest properties if it is longer than that."""
    if len(write_packet(packet)) <= max_bytes:
        return
    empty = len(write_packet(Packet()))
    lengths = {
        name: len(write_packet(Packet({name: node}, packet.prefixes))) - empty
        for name, node in packet.properties.items()
    }
    room = max_bytes - empty
    for name in sorted(lengths, key=lambda each: lengths[each]):
        room -= lengths[name]
        if room < 0:
            del packet.properties[name]


def add_words(packet: Packet, name: str, form: str, words: list[str]) -> None:
    """Add a property unless it is there.

    Parameters
    ----------
    name : with its usual prefix
    form : of the value: "text", "Alt" for text in a default language, "Bag", "Seq"
    """
    prefix, _, local = name.partition(":")
    namespace = {"dc": DC, "photoshop": PHOTOSHOP, "xmp": XMP, "Iptc4xmpCore": IPTC_CORE}[prefix]
    node = Node(f"{{{namespace}}}{local}")
    if form == "text":
        node.text = words[0]
    else:
        attributes = {f"{{{XML}}}lang": "x-default"} if form == "Alt" else {}
        shown = words[:1] if form == "Alt" else words
        items = [Node(f"{{{RDF}}}li", attributes, text=each) for each in shown]
        node.children = [Node(f"{{{RDF}}}{form}", children=items)]
    packet.add(node, prefix)
