"""HEIC: phones' images, and files that no phone would write."""

import struct
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from skimage import data

from superres.errors import TooManyPixels, UndecodableImage, UnsupportedVariant
from superres.images.encoders import to_pil
from superres.images.image_codec import decode_image, read_header
from superres.images.picture import Picture
from testkit.heif_files import (
    ALPHA_TYPE,
    DEPTH_TYPE,
    Entry,
    box,
    brands,
    coded_tile,
    deep_heic,
    grid_of_itself,
    grid_of_one_tile,
    heic,
    items,
    lying_heic,
    many_items,
    replace_sizes,
)
from testkit.kinds import SRGB, soft_disc

PHOTO = Image.fromarray(data.astronaut()[60:220, 120:360])  # 240x160
DEEP = data.astronaut()[60:220, 120:360].astype(np.uint16) * 257


def decode(content: bytes, keep: str = "safe") -> Picture:
    header = read_header(BytesIO(content), 10**6)
    picture = decode_image(BytesIO(content), keep)
    assert picture.size == (header.width, header.height)
    assert (picture.alpha is not None) == header.has_alpha
    assert (picture.deep is not None) == header.is_deep
    return picture


def rgb_of(picture: Picture) -> np.ndarray:
    return np.asarray(to_pil(picture).convert("RGB")).astype(int)


def distance(picture: Picture, image: Image.Image) -> float:
    """Mean absolute difference in levels."""
    return float(np.abs(rgb_of(picture) - np.asarray(image.convert("RGB"))).mean())


def exif_of(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x013B] = "An artist"
    return exif.tobytes()


@pytest.mark.parametrize("options", [{"chroma": 420}, {"tile_size": 64}, {"thumbnails": [64]}, {}])
def test_photograph_is_decoded(options: dict[str, Any]) -> None:
    """In one piece, in tiles, and beside its thumbnail."""
    content = heic(PHOTO, **options)
    assert (b"grid" in content) == ("tile_size" in options)
    assert (b"thmb" in content) == ("thumbnails" in options)
    picture = decode(content)
    assert picture.size == PHOTO.size
    assert distance(picture, PHOTO) < 3
    assert picture.alpha is None
    assert picture.deep is None
    assert picture.metadata.icc_profile is None


@pytest.mark.parametrize("brand", [b"heic", b"heix", b"mif1", b"hevc", b"miaf"])
def test_heic_is_told_by_any_of_its_brands(brand: bytes) -> None:
    content = heic(PHOTO)
    other = content[:8] + brand + content[12:]
    assert distance(decode(other), PHOTO) < 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_picture_is_turned_upright_once(orientation: int) -> None:
    """As phones write it: in the container, and again in EXIF."""
    content = heic(PHOTO, exif=exif_of(orientation))
    assert (b"irot" in content or b"imir" in content) == (orientation > 1)
    turned = PHOTO.copy()
    turned.getexif()[0x0112] = orientation
    expected = ImageOps.exif_transpose(turned)
    picture = decode(content)
    assert picture.size == expected.size
    assert distance(picture, expected) < 3
    assert picture.metadata.exif is not None
    assert b"An artist" in picture.metadata.exif


def test_container_alone_says_how_a_picture_is_turned() -> None:
    """ISO/IEC 23008-12: EXIF's orientation does not count, whatever it is."""
    turned = heic(PHOTO, exif=exif_of(6))
    for said in (1, 3, 8):
        assert exif_of(6) in turned
        content = turned.replace(exif_of(6), exif_of(said))
        assert decode(content).size == (160, 240)
    upright = heic(PHOTO, exif=exif_of(1)).replace(exif_of(1), exif_of(6))
    assert decode(upright).size == (240, 160)


@pytest.mark.parametrize("bits", [10, 12])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_more_bits_are_kept(bits: int, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pillow_heif.options.SAVE_HDR_TO_12_BIT", bits == 12)
    samples = np.dstack([DEEP, DEEP[:, :, 1]])[:, :, :channels].copy()
    samples[:8, :8] = 65_535
    picture = decode(deep_heic(samples, quality=-1))
    assert picture.deep is not None
    assert picture.is_grey == (channels == 1)
    found = picture.deep[:, :, ::-1].astype(int)
    assert (found[:8, :8] == 65_535).all()
    assert np.abs(found - samples[:, :, :3]).max() <= 2 ** (17 - bits)
    assert np.abs(np.atleast_3d(picture.pixels)[:, :, ::-1] - found / 257).max() <= 0.51
    if channels == 4:
        assert picture.alpha is not None
        assert np.abs(picture.alpha - samples[:, :, 3] / 257).max() <= 1


@pytest.mark.parametrize("is_deep", [False, True])
def test_premultiplied_colours_are_divided(is_deep: bool) -> None:
    straight = np.asarray(soft_disc()).astype(float) / 255
    shares = straight[:, :, 3:]
    stored = np.dstack([straight[:, :, :3] * shares, shares])
    whole = np.rint(stored * (65_535 if is_deep else 255)).astype(
        np.uint16 if is_deep else np.uint8
    )
    for is_premultiplied, expected in ((True, straight), (False, stored)):
        picture = decode(deep_heic(whole, is_premultiplied, quality=-1))
        assert picture.alpha is not None
        np.testing.assert_allclose(picture.alpha, shares[:, :, 0] * 255, atol=1)
        seen = shares[:, :, 0] > 0.5
        np.testing.assert_allclose(rgb_of(picture)[seen], expected[seen][:, :3] * 255, atol=6)


def test_grey_stays_grey() -> None:
    picture = decode(heic(PHOTO.convert("L")))
    assert picture.is_grey
    transparent = decode(heic(soft_disc().convert("LA")))
    assert transparent.is_grey
    assert transparent.alpha is not None


def test_profile_is_kept() -> None:
    assert decode(heic(PHOTO, icc_profile=SRGB)).metadata.icc_profile == SRGB


def test_xmp_is_kept() -> None:
    packet = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-'
        b'syntax-ns#"><rdf:Description rdf:about="" '
        b'xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/" '
        b'photoshop:Credit="An agency"/></rdf:RDF></x:xmpmeta>'
    )
    picture = decode(heic(PHOTO, xmp=packet))
    assert picture.size == PHOTO.size
    assert picture.metadata.xmp is not None
    assert b"An agency" in picture.metadata.xmp


@pytest.mark.parametrize("primary", [0, 1, 2])
def test_primary_picture_of_several_is_taken(primary: int) -> None:
    burst = [Image.new("RGB", (80, 60), colour) for colour in ("red", "lime", "blue")]
    assert distance(decode(heic(*burst, primary=primary)), burst[primary]) < 3


def test_depth_map_is_not_transparency() -> None:
    content = heic(soft_disc())
    assert decode(content).alpha is not None
    assert ALPHA_TYPE in content
    assert decode(content.replace(ALPHA_TYPE, DEPTH_TYPE)).alpha is None


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (b"jpeg", "a JPEG image"),
        (b"avc1", "an H.264 image"),
        (b"j2k1", "a JPEG 2000 image"),
        (b"unci", "an uncompressed image"),
        (b"vvc1", "a VVC image"),
        (b"av01", "an AV1 image"),
        (b"xyz1", "an image of an unknown kind"),
    ],
)
def test_other_codecs_are_refused_by_name(kind: bytes, name: str) -> None:
    content = heic(PHOTO).replace(b"hvc1", kind)
    with pytest.raises(
        UnsupportedVariant, match=f"A HEIF file with {name} in it is not accepted; open it"
    ):
        read_header(BytesIO(content), 10**6)


def test_overlay_is_refused() -> None:
    content = heic(PHOTO, tile_size=64).replace(b"grid", b"iovl")
    with pytest.raises(UnsupportedVariant, match="an overlay of several images"):
        read_header(BytesIO(content), 10**6)


def test_transparency_of_another_codec_is_refused() -> None:
    content = bytearray(heic(soft_disc()))
    at = content.rindex(b"hvc1")
    content[at : at + 4] = b"av01"
    with pytest.raises(UnsupportedVariant, match="an AV1 image"):
        read_header(BytesIO(content), 10**6)


@pytest.mark.parametrize("start", [(b"hevc", b"msf1"), (b"msf1", b"hevc"), (b"heis", b"msf1")])
def test_sequence_without_a_still_image_is_refused(start: tuple[bytes, ...]) -> None:
    content = brands(*start) + box(b"mdat", bytes(99)) + box(b"moov", bytes(99))
    with pytest.raises(UnsupportedVariant, match="an image sequence or a video, without a still"):
        read_header(BytesIO(content), 10**6)


# --- damaged and hostile


@pytest.mark.parametrize(("real", "said"), [(600, 16), (600, 590), (100, 16), (100, 600)])
def test_container_that_lies_about_its_size_is_refused(real: int, said: int) -> None:
    content = lying_heic(real, said)
    assert read_header(BytesIO(content), 10**6).pixels == said**2
    with pytest.raises(UndecodableImage):
        decode_image(BytesIO(content))


def test_tiles_may_share_their_data() -> None:
    picture = decode(grid_of_one_tile(3, 2, (190, 128)))
    assert picture.size == (190, 128)
    assert np.abs(rgb_of(picture) - (9, 99, 200)).max() < 8


def test_small_grid_of_large_tiles_is_refused_before_decoding() -> None:
    content = heic(PHOTO, tile_size=64)
    large = replace_sizes(content, (64, 64), (4000, 4000))
    assert large != content
    with pytest.raises(UndecodableImage, match="tiles are larger, or more, than"):
        read_header(BytesIO(large), 10**6)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (grid_of_one_tile(20, 20, (64, 64)), "tiles are larger, or more"),
        (items([coded_tile(), Entry(b"E\xffif", (), ((b"cdsc", [1]),))]), "header is damaged"),
        (grid_of_itself(), "header is damaged"),
        (many_items(1001), "header is damaged"),
        (brands(b"heic", b"mif1") + box(b"meta", bytes(4)), "header is damaged"),
        (brands(b"heic", b"mif1") + box(b"meta", bytes(4), box(b"free") * 5000), "damaged"),
        (brands(b"heic", b"mif1") + b"\0\0\0\7free", "header is damaged"),
        (brands(b"heic", b"mif1"), "header is damaged"),
    ],
    ids=["tiles", "kind", "itself", "items", "empty", "boxes", "short box", "nothing"],
)
def test_impossible_container_is_refused(content: bytes, words: str) -> None:
    for read in (lambda file: read_header(file, 10**9), decode_image):
        with pytest.raises(UndecodableImage, match=words):
            read(BytesIO(content))


def test_pixel_limit_counts_before_anything_is_decoded() -> None:
    content = heic(PHOTO)
    with pytest.raises(UndecodableImage):
        decode_image(BytesIO(content[:-2000]))
    with pytest.raises(TooManyPixels, match="240 x 160"):
        read_header(BytesIO(content), 240 * 160 - 1)


def test_long_box_sizes_are_read() -> None:
    content = heic(PHOTO)
    start = content.index(b"meta") - 4
    (length,) = struct.unpack_from(">I", content, start)
    large = struct.pack(">I4sQ", 1, b"meta", length + 8) + content[start + 8 : start + length]
    other = content[:start] + large + content[start + length :]
    assert read_header(BytesIO(other), 10**6).pixels == 240 * 160
