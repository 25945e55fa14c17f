"""XMP packets: what is kept, what is fitted, and what hostile ones cost."""

import hashlib
import json
import struct
import subprocess
from io import BytesIO
from pathlib import Path

import pytest

from superres.images.encoders import encode_picture
from superres.images.image_codec import decode_image
from superres.images.metadata import Metadata
from superres.images.options import Options
from superres.images.result_metadata import MAX_SEGMENT_XMP, fit_metadata
from superres.images.xmp import EXTENSION, keep_xmp
from superres.images.xmp_packet import MAX_DEPTH, MAX_KEPT_BYTES, MAX_PACKET_BYTES
from testkit.kinds import PHOTO
from testkit.pictures import encode

NAMESPACES = {
    "dc": "http://purl.org/dc/elements/1.1/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "tiff": "http://ns.adobe.com/tiff/1.0/",
    "exif": "http://ns.adobe.com/exif/1.0/",
    "aux": "http://ns.adobe.com/exif/1.0/aux/",
    "plus": "http://ns.useplus.org/ldf/xmp/1.0/",
    "hdrgm": "http://ns.adobe.com/hdr-gain-map/1.0/",
    "GCamera": "http://ns.google.com/photos/1.0/camera/",
    "Container": "http://ns.google.com/photos/1.0/container/",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "mwg-rs": "http://www.metadataworkinggroup.com/schemas/regions/",
    "MP": "http://ns.microsoft.com/photo/1.2/",
    "acdsee-rs": "http://ns.acdsee.com/regions/",
    "own": "https://example.org/own/",
    "xmpNote": "http://ns.adobe.com/xmp/note/",
}
HEAD = (
    '<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="toolkit of Anna">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
)
TAIL = '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'


def packet(attributes: str = "", inner: str = "") -> bytes:
    declared = " ".join(f'xmlns:{prefix}="{each}"' for prefix, each in NAMESPACES.items())
    description = f'<rdf:Description rdf:about="uuid:of-Anna" {declared} {attributes}>{inner}'
    return f"{HEAD}{description}</rdf:Description>{TAIL}".encode()


def keep(content: bytes, policy: str = "safe") -> str:
    return (keep_xmp([content], policy) or b"").decode()


def fit(content: bytes, size: tuple[int, int], dpi: tuple[float, float] | None, name: str) -> bytes:
    return fit_metadata(Metadata(xmp=content, dpi=dpi), size, name).xmp or b""


def test_properties_are_kept_by_policy() -> None:
    content = packet(
        'dc:format="image/jpeg" plus:DataMining="no" hdrgm:Version="1.0" GCamera:MotionPhoto="1" '
        'own:secret="Ulm"',
        '<dc:creator><rdf:Seq><rdf:li xml:lang="de">Anna &amp; &lt;Eva&gt;</rdf:li></rdf:Seq>'
        "</dc:creator><Container:Directory><rdf:Seq/></Container:Directory>"
        '<own:thing rdf:parseType="Resource"><own:part>1</own:part></own:thing>',
    )
    safe, everything = keep(content), keep(content, "all")
    for found in (safe, everything):
        assert '<rdf:li xml:lang="de">Anna &amp; &lt;Eva&gt;</rdf:li>' in found
        assert "<plus:DataMining>no</plus:DataMining>" in found
        for stale in ("image/jpeg", "hdrgm", "GCamera", "Container", "of Anna", "of-Anna"):
            assert stale not in found
    assert "own" not in safe
    assert "<own:secret>Ulm</own:secret>" in everything
    assert '<own:thing rdf:parseType="Resource"><own:part>1</own:part></own:thing>' in everything
    assert keep(content, "none") == ""


@pytest.mark.parametrize("policy", ["safe", "all"])
def test_positions_in_pixels_of_the_original_survive_in_no_case(policy: str) -> None:
    area = "<rdf:Seq><rdf:li>48</rdf:li><rdf:li>36</rdf:li></rdf:Seq>"
    stale = (
        *("exif:SubjectArea", "exif:SubjectLocation", "exif:FocalPlaneXResolution"),
        *("exif:FocalPlaneYResolution", "exif:FocalPlaneResolutionUnit"),
        *("Iptc4xmpExt:ImageRegion", "mwg-rs:Regions", "MP:RegionInfo", "acdsee-rs:Regions"),
    )
    content = "".join(f"<{name}>{area}</{name}>" for name in stale)
    found = keep(packet('exif:FNumber="2"', content), policy)
    assert found == keep(packet('exif:FNumber="2"'), policy)
    assert "<exif:FNumber>2</exif:FNumber>" in found


PRIVATE = 'exif:GPSLatitude="48,51.4933N" aux:SerialNumber="SN1234567"'
PRIVATE_FIELDS = (
    "<exif:GPSLatitude>48,51.4933N</exif:GPSLatitude>"
    "<aux:SerialNumber><rdf:Bag><rdf:li>SN1234567</rdf:li></rdf:Bag></aux:SerialNumber>"
)
# With what is to be left of each under "safe".
NESTED = {
    f'<dc:title {PRIVATE}><rdf:Alt {PRIVATE}><rdf:li xml:lang="de" {PRIVATE}>Bild</rdf:li>'
    "</rdf:Alt></dc:title>": '<dc:title><rdf:Alt><rdf:li xml:lang="de">Bild</rdf:li></rdf:Alt>'
    "</dc:title>",
    '<dc:creator><rdf:Seq><rdf:li rdf:parseType="Resource"><rdf:value>Anna</rdf:value>'
    f"{PRIVATE_FIELDS}</rdf:li><rdf:li><rdf:Description {PRIVATE}/></rdf:li></rdf:Seq>"
    "</dc:creator>": '<dc:creator><rdf:Seq><rdf:li rdf:parseType="Resource"><rdf:value>Anna'
    "</rdf:value></rdf:li></rdf:Seq></dc:creator>",
    f'<dc:rights><rdf:Description rdf:about="SN1234567" rdf:value="A" {PRIVATE}/></dc:rights>': (
        '<dc:rights><rdf:Description rdf:value="A"/></dc:rights>'
    ),
    f'<exif:Flash exif:Fired="True" {PRIVATE}/>': '<exif:Flash exif:Fired="True"/>',
    '<plus:ImageCreator><rdf:Seq><rdf:li rdf:parseType="Resource"><plus:ImageCreatorName>Anna'
    "</plus:ImageCreatorName><plus:ImageCreatorID>SN1234567</plus:ImageCreatorID></rdf:li>"
    "</rdf:Seq></plus:ImageCreator>": "<plus:ImageCreator><rdf:Seq><rdf:li rdf:parseType="
    '"Resource"><plus:ImageCreatorName>Anna</plus:ImageCreatorName></rdf:li></rdf:Seq>'
    "</plus:ImageCreator>",
    f'<dc:date rdf:parseType="Resource">{PRIVATE_FIELDS}</dc:date>': "",
    f"<aux:LensInfo><own:Lens>{PRIVATE_FIELDS}</own:Lens></aux:LensInfo>": "",
    '<dc:language><rdf:Bag/></dc:language><dc:type xml:lang="de"/>': (
        '<dc:language><rdf:Bag/></dc:language>\n<dc:type xml:lang="de"/>'
    ),
}


@pytest.mark.parametrize("content", NESTED)
def test_what_is_inside_a_safe_property_is_kept_by_policy_too(content: str) -> None:
    found = keep(packet("", content))
    assert "48,51" not in found
    assert "SN1234567" not in found
    assert f"\n{NESTED[content]}\n" in found if NESTED[content] else found == ""
    assert keep(found.encode()) == found
    if "SN1234567" in content:
        assert "SN1234567" in keep(packet("", content), "all")


def test_packet_is_recognised_by_its_namespaces_rather_than_prefixes() -> None:
    content = packet().replace(b"xmlns:dc=", b"xmlns:a=").replace(b"xmlns:exif=", b"xmlns:x=")
    content = content.replace(
        b"</rdf:Description>",
        b'<a:title>A</a:title><x:FNumber>2</x:FNumber><title xmlns="http://purl.org/dc/elements/'
        b'1.1/">B</title><rights xmlns="http://purl.org/dc/elements/1.1/">C</rights>'
        b"</rdf:Description>",
    )
    found = keep(content)
    assert "<a:title>A</a:title>" in found
    assert "<a:rights>C</a:rights>" in found
    assert "<ns1:FNumber>2</ns1:FNumber>" in found  # x is the packet's own
    assert keep(found.encode()) == found


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_packet_is_read_in_each_encoding_and_written_alike_again(encoding: str) -> None:
    content = packet('dc:title="größer 图 &#10;&#9;&#13;&quot;"').decode().encode(encoding)
    found = keep(content)
    assert "größer 图 &#10;&#9;&#13;&quot;" in found
    assert keep(found.encode()) == found


def test_bytes_that_are_not_utf_8_cost_no_other_property() -> None:
    content = packet('dc:title="Jos?" dc:rights="A"').replace(b"Jos?", b"Jos\xe9")
    found = keep(content)
    assert "<dc:title>Jos\ufffd</dc:title>" in found
    assert "<dc:rights>A</dc:rights>" in found


def test_node_with_a_type_is_a_description() -> None:
    content = packet('dc:rights="A"', "<dc:title>B</dc:title><own:city>Ulm</own:city>").decode()
    typed = content.replace("rdf:Description", "own:Photo")
    for policy in ("safe", "all"):
        assert keep(typed.encode(), policy) == keep(content.encode(), policy) != ""


SIZES = 'tiff:ImageWidth="96" tiff:ImageLength="72" exif:PixelXDimension="96"'
RESOLUTION = 'tiff:XResolution="100/1" tiff:YResolution="100/1" tiff:ResolutionUnit="3"'


def test_result_is_described_only_where_the_original_was() -> None:
    content = packet(f'{SIZES} {RESOLUTION} tiff:Orientation="8" dc:rights="A"')
    found = fit(keep(content).encode(), (288, 216), (300, 150), "png").decode()
    for element in (
        *("tiff:ImageWidth>288<", "tiff:ImageLength>216<", "exif:PixelXDimension>288<"),
        *("tiff:XResolution>3000000/10000<", "tiff:YResolution>1500000/10000<"),
        *("tiff:ResolutionUnit>2<", "tiff:Orientation>1<", "dc:rights>A<"),
    ):
        assert element in found
    assert "PixelYDimension" not in found
    assert "Resolution" not in fit(keep(content).encode(), (9, 9), None, "png").decode()


@pytest.mark.parametrize("name", ["png", "webp", "jpeg"])
def test_fitting_again_is_as_fitting_once(name: str) -> None:
    kept = keep(packet(f'{SIZES} {RESOLUTION} dc:rights="A"')).encode()
    once = fit(kept, (500, 400), (200, 200), name)
    assert fit(fit(kept, (288, 216), (300, 300), "png"), (500, 400), (200, 200), name) == once
    assert keep(once) == once.decode()


# --- JPEG


def extended(extra: bytes, pieces: int, total: int | None = None) -> bytes:
    """A JPEG with XMP in two packets."""
    name = hashlib.md5(extra, usedforsecurity=False).hexdigest().upper()
    content = encode(PHOTO, "JPEG", xmp=packet(f'xmpNote:HasExtendedXMP="{name}" dc:rights="A"'))
    step = -(-len(extra) // pieces)
    segments = b""
    for offset in reversed(range(0, len(extra), step)):
        head = struct.pack(">II", len(extra) if total is None else total, offset)
        body = EXTENSION + name.encode() + head + extra[offset : offset + step]
        segments += b"\xff\xe1" + struct.pack(">H", 2 + len(body)) + body
    return content[:2] + segments + content[2:]


def kept(content: bytes, policy: str = "all") -> bytes:
    return decode_image(BytesIO(content), policy).metadata.xmp or b""


def test_extended_xmp_of_a_jpeg_is_read() -> None:
    extra = packet(f'dc:title="T" own:long="{"a" * 100_000}"')
    for pieces in (2, 7):
        found = kept(extended(extra, pieces))
        assert b"<dc:rights>A</dc:rights>" in found
        assert b"<dc:title>T</dc:title>" in found
        assert b"a" * 100_000 in found
        assert b"HasExtendedXMP" not in found
    for damaged in (extended(extra, 2, total=50_000), extended(extra, 2, total=2**32 - 1)):
        assert b"<dc:rights>A</dc:rights>" in kept(damaged)
        assert b"title" not in kept(damaged)


def test_longest_properties_are_left_out_of_a_jpeg(tmp_path: Path) -> None:
    extra = packet(f'dc:title="T" own:long="{"a" * 40_000}" own:longer="{"b" * 50_000}"')
    picture = decode_image(BytesIO(extended(extra, 2)), "all")
    assert len(fit_metadata(picture.metadata, picture.size, "jpeg").xmp or b"") <= MAX_SEGMENT_XMP
    path = tmp_path / "result.jpg"
    path.write_bytes(encode_picture(picture, Options("jpeg", 90)))
    command = ["exiftool", "-json", "-G1", str(path)]
    (found,) = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    assert (found["XMP-dc:Title"], found["XMP-dc:Rights"]) == ("T", "A")
    assert found["XMP-own:Long"] == "a" * 40_000
    assert "XMP-own:Longer" not in found
    for name in ("webp", "png", "avif"):
        assert b"b" * 50_000 in bytes(encode_picture(picture, Options(name, 90)))


# --- damaged and hostile

LAUGHS = b'<!DOCTYPE a [<!ENTITY a "aaa"><!ENTITY b "&a;&a;&a;&a;">]>'
HOSTILE: dict[str, bytes] = {
    "empty": b"",
    "rubbish": bytes(range(256)),
    "cut": packet('dc:title="A"')[:-20],
    "no namespace": HEAD.encode()
    + b"<rdf:Description><title>A</title></rdf:Description>"
    + TAIL.encode(),
    "unknown prefix": packet("", "<who:title>A</who:title>"),
    "entities": LAUGHS + packet("", "<dc:title>&b;</dc:title>"),
    "unknown entity": packet("", "<dc:title>&nbsp;</dc:title>"),
    "external": b'<!DOCTYPE a SYSTEM "file:///etc/passwd">' + packet('dc:title="A"'),
    "deep": packet("", f"<dc:title>{'<dc:a>' * 50_000}{'</dc:a>' * 50_000}</dc:title>"),
    "deep enough": packet("", "<dc:a>" * MAX_DEPTH + "</dc:a>" * MAX_DEPTH),
    "many elements": packet("", f"<dc:title>{'<dc:a/>' * 100_000}</dc:title>"),
    "many attributes": packet(" ".join(f'own:a{each}=""' for each in range(50_000))),
    "long namespace": packet("", f'<a:b xmlns:a="{"a" * 500_000}">{"<a:c/>" * 50_000}</a:b>'),
    "many namespaces": packet(
        "", "<dc:a " + " ".join(f'xmlns:a{each}="b"' for each in range(300)) + "/>"
    ),
    "too long": packet(f'dc:title="{"a" * MAX_PACKET_BYTES}"'),
    "too long to be kept": packet(f'dc:rights="{"a" * MAX_KEPT_BYTES}"'),
    "declared encoding": b'<?xml version="1.0" encoding="cp037"?>' + bytes(range(128, 256)),
    "UTF-16 that does not say so": packet('dc:title="A"').decode().encode("utf-16-le"),
    "half of UTF-16": b"\xff\xfe<\0x\xd8",
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("policy", ["safe", "all"])
def test_xmp_that_is_damaged_or_hostile_is_left_out(kind: str, policy: str) -> None:
    assert keep_xmp([HOSTILE[kind]], policy) is None
    assert b"<dc:title>A" in (keep_xmp([HOSTILE[kind], packet('dc:title="A"')], policy) or b"")


def test_history_that_is_not_kept_costs_nothing_else() -> None:
    history = f"<own:history><rdf:Bag>{'<rdf:li>a</rdf:li>' * 50_000}</rdf:Bag></own:history>"
    assert "<dc:rights>A</dc:rights>" in keep(packet('dc:rights="A"', history))


def test_damaged_xmp_costs_no_picture() -> None:
    for content in (b"rubbish", packet()[:-30], LAUGHS):
        for image_format in ("JPEG", "WEBP", "AVIF"):
            picture = decode_image(BytesIO(encode(PHOTO, image_format, xmp=content)))
            assert picture.metadata.xmp is None
            assert picture.size == PHOTO.size
