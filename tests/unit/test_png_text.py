"""Texts of PNGs: prompts and diagrams survive, and nothing private hides in them."""

import json
import struct
import subprocess
import zlib
from io import BytesIO
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image
from PIL.ExifTags import IFD, Base

from superres.engines.upscaler import Upscaler
from superres.images.encoders import encode_picture
from superres.images.image_codec import decode_image
from superres.images.iptc import keep_iptc
from superres.images.metadata import Metadata
from superres.images.options import Options
from superres.images.picture import Picture
from superres.images.png_file import make_chunk
from superres.images.png_text import MAX_TEXT_BYTES, Text, find_raw_profile, make_raw_profile
from superres.images.xmp import keep_xmp
from testkit.hostile import packed_zeros
from testkit.kinds import PHOTO, enhance, reopen
from testkit.pictures import encode

PNG = encode(PHOTO, "PNG")
PROMPT = (
    "a red fox, größer 狐\nNegative prompt: blurry\n"
    "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 96x72, Model: some"
)
WORKFLOW = json.dumps({"nodes": [{"id": each, "type": "KSampler"} for each in range(20_000)]})
DIAGRAM = quote('<mxfile host="app.diagrams.net"><diagram id="a">dZHB</diagram></mxfile>')
LATIN = PROMPT.replace("狐", "").encode("latin-1")
# As the programs write them: Pillow takes iTXt for what Latin-1 lacks.
GENERATED: dict[str, list[Text]] = {
    "Automatic1111": [(b"tEXt", b"parameters\0" + LATIN)],
    "Automatic1111, Unicode": [(b"iTXt", b"parameters\0\0\0\0\0" + PROMPT.encode())],
    "ComfyUI": [
        (b"tEXt", b'prompt\0{"3": {"class_type": "KSampler"}}'),
        (b"tEXt", b"workflow\0" + WORKFLOW.encode()),
    ],
    "InvokeAI": [(b"tEXt", b'invokeai_metadata\0{"positive_prompt": "fox"}')],
    "NovelAI": [
        (b"tEXt", b"Title\0AI generated image"),
        (b"tEXt", b"Software\0NovelAI"),
        (b"tEXt", b'Comment\0{"prompt": "fox", "steps": 28}'),
    ],
    "draw.io": [(b"tEXt", b"mxfile\0" + DIAGRAM.encode())],
    "draw.io, packed": [(b"zTXt", b"mxfile\0\0" + zlib.compress(DIAGRAM.encode()))],
    "Excalidraw": [(b"tEXt", b"application/vnd.excalidraw+json\0{}")],
}


def with_texts(*texts: Text) -> bytes:
    return PNG[:33] + b"".join(make_chunk(*text) for text in texts) + PNG[33:]


def kept_texts(content: bytes, keep: str = "safe") -> bytes:
    return decode_image(BytesIO(content), keep).metadata.texts or b""


@pytest.mark.parametrize("program", GENERATED)
@pytest.mark.parametrize("keep", ["safe", "all"])
def test_prompts_and_diagrams_survive_byte_for_byte(
    program: str, keep: str, fake_super_resolution: Upscaler
) -> None:
    texts = GENERATED[program]
    result = enhance(fake_super_resolution, with_texts(*texts), keep)
    for text in texts:
        assert make_chunk(*text) in result
    before, after = (Image.open(BytesIO(each)) for each in (with_texts(*texts), result))
    assert before.info == after.info
    assert not kept_texts(with_texts(*texts), "none")


@pytest.mark.parametrize("behind", [False, True])
def test_texts_behind_the_pixels_survive(behind: bool) -> None:
    chunk = make_chunk(b"tEXt", b"parameters\0fox")
    content = PNG[:-12] + chunk + PNG[-12:] if behind else with_texts((b"tEXt", b"parameters\0fox"))
    assert kept_texts(content) == chunk


@pytest.mark.parametrize("image_format", ["jpeg", "webp", "avif"])
def test_prompt_is_where_generators_read_it_in_formats_without_texts(
    image_format: str, fake_super_resolution: Upscaler
) -> None:
    """As piexif writes and reads it for Automatic1111: UTF-16, big-endian."""
    exif = Image.Exif()
    exif[Base.Artist] = "Anna"
    exif[IFD.Exif] = {Base.FNumber: 2.5}
    content = encode(PHOTO, "PNG", exif=exif)
    text = make_chunk(*GENERATED["Automatic1111, Unicode"][0])
    content = content[:33] + text + content[33:]
    result = enhance(fake_super_resolution, content, format=image_format, quality=90)
    found = reopen(result).getexif()
    camera = found.get_ifd(IFD.Exif)
    assert camera[Base.UserComment] == b"UNICODE\0" + PROMPT.encode("utf-16-be")
    assert (found[Base.Artist], camera[Base.FNumber]) == ("Anna", 2.5)
    again = enhance(fake_super_resolution, result, format=image_format, quality=90)
    assert reopen(again).getexif().get_ifd(IFD.Exif) == camera


def test_prompt_that_exif_has_no_room_for_is_left_out() -> None:
    content = with_texts((b"tEXt", b"parameters\0" + b"fox" * 20_000))
    picture = decode_image(BytesIO(content))
    assert picture.metadata.exif is None
    assert picture.metadata.texts is not None


@pytest.mark.parametrize("image_format", ["jpeg", "webp", "avif"])
def test_author_and_title_become_xmp_in_formats_without_texts(
    image_format: str, fake_super_resolution: Upscaler, tmp_path: Path
) -> None:
    words = {"Title": "Fuchs", "Author": "Zoë", "Description": "<a & b>", "Copyright": "©"}
    texts = [(b"tEXt", f"{name}\0{text}".encode("latin-1")) for name, text in words.items()]
    path = tmp_path / f"result.{image_format}"
    path.write_bytes(
        enhance(fake_super_resolution, with_texts(*texts), format=image_format, quality=90)
    )
    command = ["exiftool", "-json", "-XMP-dc:all", str(path)]
    (found,) = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    expected = {"Title": "Fuchs", "Creator": "Zoë", "Description": "<a & b>", "Rights": "©"}
    assert {name: found.get(name) for name in expected} == expected


def gps() -> bytes:
    exif = Image.Exif()
    exif[Base.Artist] = "Anna"
    exif[IFD.GPSInfo] = {1: "N", 2: (48.0, 23.0, 59.0)}
    return exif.tobytes().removeprefix(b"Exif\0\0")


PLACE = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-'
    b'syntax-ns#"><rdf:Description xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/" '
    b'photoshop:City="Ulm" photoshop:Credit="Agency"/></rdf:RDF></x:xmpmeta>'
)
IPTC = b"8BIM\x04\x04\0\0\0\0\0\x10" + b"\x1c\x02\x5a\0\3Ulm" + b"\x1c\x02\x50\0\3Eva"


def test_profiles_stored_as_text_obey_the_policy() -> None:
    texts = [make_raw_profile(b"xmp", PLACE), make_raw_profile(b"iptc", IPTC)]
    texts.append(make_raw_profile(b"exif", b"Exif\0\0" + gps()))
    for keep, is_private in (("safe", False), ("all", True)):
        metadata = decode_image(BytesIO(with_texts(*texts)), keep).metadata
        assert metadata.texts is None
        assert metadata.xmp is not None
        assert metadata.iptc is not None
        assert metadata.exif is not None
        assert b"Agency" in metadata.xmp
        assert b"Eva" in metadata.iptc
        assert b"Anna" in metadata.exif
        assert (b"Ulm" in metadata.xmp) == (b"Ulm" in metadata.iptc) == is_private
        found = Image.Exif()
        found.load(metadata.exif)
        assert bool(found.get_ifd(IFD.GPSInfo)) == is_private
    assert decode_image(BytesIO(with_texts(*texts)), "none").metadata.iptc is None


def test_what_imagemagick_writes_smuggles_no_place(tmp_path: Path) -> None:
    """It repeats EXIF, XMP and IPTC as texts, and adds the dates of the file."""
    source, target = tmp_path / "source.jpg", tmp_path / "target.png"
    source.write_bytes(encode(PHOTO, "JPEG"))
    tags = ["-GPSLatitude=48.4", "-XMP-photoshop:City=Ulmxmp", "-IPTC:City=Ulmiptc"]
    command = ["exiftool", "-q", "-overwrite_original", *tags, "-XMP-photoshop:Credit=Agency"]
    subprocess.run([*command, "-IPTC:By-line=Eva", str(source)], check=True)
    subprocess.run(["convert", str(source), str(target)], check=True)
    content = target.read_bytes()
    assert b"date:create" in content
    assert b"Raw profile type iptc" in content
    metadata = decode_image(BytesIO(content), "safe").metadata
    everything = b"".join(each or b"" for each in (metadata.xmp, metadata.iptc, metadata.texts))
    assert b"Agency" in everything
    assert b"Eva" in everything
    assert b"Ulm" not in everything
    assert b"date:" not in kept_texts(content, "all")


@pytest.mark.parametrize(
    ("keyword", "kept_by"),
    [
        ("Author", {"safe", "all"}),
        ("Thumb::URI", set()),
        ("exif:GPSLatitude", set()),
        ("date:create", set()),
        ("svg:base-uri", {"all"}),
        ("anything", {"all"}),
        ("", set()),
        ("k" * 80, set()),
    ],
)
def test_unknown_keywords_are_kept_on_request_only(keyword: str, kept_by: set[str]) -> None:
    content = with_texts((b"tEXt", f"{keyword}\0text".encode()))
    assert {keep for keep in ("safe", "all", "none") if kept_texts(content, keep)} == kept_by


DAMAGED: dict[str, Text] = {
    "no keyword": (b"tEXt", b"parameters"),
    "unknown method": (b"zTXt", b"parameters\0\1" + zlib.compress(b"fox")),
    "damaged": (b"zTXt", b"parameters\0\0" + zlib.compress(b"fox")[:-6] + b"rubbish"),
    "bomb": (b"zTXt", b"parameters\0\0" + packed_zeros(200)),
    "bomb, iTXt": (b"iTXt", b"parameters\0\1\0\0\0" + packed_zeros(200)),
    "no language": (b"iTXt", b"parameters\0\0\0fox"),
    "unknown flag": (b"iTXt", b"parameters\0\2\0\0\0fox"),
    "too long": (b"tEXt", b"parameters\0" + bytes(MAX_TEXT_BYTES + 1)),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_texts_are_left_out(kind: str) -> None:
    sound = (b"tEXt", b"prompt\0fox")
    assert kept_texts(with_texts(DAMAGED[kind], sound)) == make_chunk(*sound)
    wrong_sum = bytearray(with_texts(sound))
    wrong_sum[33 + 8 + len(sound[1])] ^= 1
    assert not kept_texts(bytes(wrong_sum))


def test_texts_are_limited_together() -> None:
    length = MAX_TEXT_BYTES // 3
    packed = zlib.compress(bytes(length))
    texts = [(b"zTXt", b"prompt\0\0" + packed)] * 5
    chunk = make_chunk(*texts[0])
    assert kept_texts(with_texts(*texts)) == chunk * 3


def test_result_is_read_with_the_metadata_that_it_was_written_with() -> None:
    """A result of another size is made from a stored one."""
    texts = [(b"tEXt", b"prompt\0" + bytes(MAX_TEXT_BYTES - 999))] + [(b"tEXt", b"prompt\0")] * 999
    xmp = keep_xmp([PLACE.replace(b"Agency", b"A" * 500_000)], "all")
    iptc = keep_iptc(IPTC, "all")
    joined = b"".join(make_chunk(*text) for text in texts)
    metadata = Metadata(xmp=xmp, iptc=iptc, texts=joined)
    assert xmp is not None
    assert iptc is not None
    result = encode_picture(Picture(np.zeros((5, 7, 3), np.uint8), metadata=metadata), Options())
    assert decode_image(BytesIO(result), "all").metadata == metadata


def test_comments_are_kept_as_their_characters() -> None:
    for comment, text in ((b"gr\xc3\xb6\xc3\x9fer\0", "größer"), (b"gr\xf6\xdfer", "größer")):
        content = encode(PHOTO, "JPEG", comment=comment)
        assert kept_texts(content) == make_chunk(b"tEXt", b"Comment\0" + text.encode("latin-1"))


def test_first_of_several_comments_is_kept() -> None:
    content = encode(PHOTO, "JPEG", comment=b"second")
    for comment in (b"first", b"\0"):
        segment = b"\xff\xfe" + struct.pack(">H", 2 + len(comment)) + comment
        content = content[:2] + segment + content[2:]
    assert kept_texts(content) == make_chunk(b"tEXt", b"Comment\0first")


def test_raw_profile_is_read_back() -> None:
    content = struct.pack(">100I", *range(100))
    assert find_raw_profile([make_raw_profile(b"iptc", content)], b"exif", b"iptc") == content
    assert find_raw_profile([(b"tEXt", b"Raw profile type iptc\0\niptc\n 1\nxy")], b"iptc") is None
