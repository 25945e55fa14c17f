"""Colours that a file states without a profile: results look the same.

The expected colours are what Chromium 143 shows of the upload (`tests/e2e/test_colours.py` asks the
one that is installed).
"""

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageCms

from superres.engines.upscaler import Upscaler
from superres.images.code_points import HLG, PQ, decode_hlg, decode_pq, find_colours
from superres.images.icc_profiles import Colours, make_profile
from superres.images.image_codec import decode_image
from superres.images.png_file import walk_chunks
from testkit.coloured_files import (
    COLOURED,
    P3,
    SRGB_CHROMATICITIES,
    avif,
    cicp,
    gama,
    heic_of,
    icc,
    png,
    srgb,
)
from testkit.kinds import GRAY, SRGB, enhance, reopen

OTHERS = {"webp": None, "jpeg": 100, "avif": 100}
NAMES = (b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM")


def shown(content: bytes) -> list[int]:
    """The colour of a result, with its profile, by LittleCMS."""
    image = reopen(content).convert("RGB")
    profile = reopen(content).info.get("icc_profile")
    if profile is not None:
        if ImageCms.ImageCmsProfile(BytesIO(profile)).profile.xcolor_space.strip() == "GRAY":
            image = image.convert("L")
        converted = ImageCms.profileToProfile(
            image, BytesIO(profile), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
        assert converted is not None
        image = converted
    return [int(each) for each in np.asarray(image)[8, 8]]


def colour_chunks(content: bytes) -> dict[bytes, bytes]:
    found = {name: content[start:end] for name, start, end in walk_chunks(content)}
    return {name: found[name] for name in NAMES if name in found}


@pytest.mark.parametrize("kind", COLOURED)
def test_results_look_like_the_upload(kind: str, fake_super_resolution: Upscaler) -> None:
    content, expected = COLOURED[kind]
    for image_format, quality in OTHERS.items():
        result = enhance(fake_super_resolution, content, format=image_format, quality=quality)
        tolerance = 8 if image_format == "avif" else 2
        assert np.abs(np.subtract(shown(result), expected)).max() <= tolerance, image_format


@pytest.mark.parametrize("kind", COLOURED)
def test_png_keeps_what_a_png_says(kind: str, fake_super_resolution: Upscaler) -> None:
    content, expected = COLOURED[kind]
    result = enhance(fake_super_resolution, content)
    if content[:4] == b"\x89PNG":
        said, kept = colour_chunks(content), colour_chunks(result)
        assert {name: kept.get(name) for name in said if name != b"iCCP"} == {
            name: value for name, value in said.items() if name != b"iCCP"
        }
    assert np.abs(np.subtract(shown(result), expected)).max() <= 2
    # A result of another size may be made from this one.
    found, first = (decode_image(BytesIO(each)).metadata for each in (result, content))
    assert (found.icc_profile, found.colour_chunks) == (first.icc_profile, first.colour_chunks)


@pytest.mark.parametrize(
    "content",
    [
        png(gama(0.45455)),
        png(gama(0.44), SRGB_CHROMATICITIES),
        png(srgb(), gama(1.0)),
        png(cicp(1, 13)),
        png(SRGB_CHROMATICITIES),
        avif(1, 13),
        avif(1, 1),
        avif(2, 2),
        heic_of(1, 13),
        heic_of(1, 6),
        heic_of(2, 2),
    ],
)
def test_srgb_gets_no_profile(content: bytes) -> None:
    metadata = decode_image(BytesIO(content)).metadata
    assert metadata.icc_profile is None
    if content[4:8] == b"ftyp":
        assert metadata.colour_chunks is None


def test_code_points_overrule_a_profile_and_a_profile_gamma(
    fake_super_resolution: Upscaler,
) -> None:
    """PNG 3rd edition, 4.3: cICP, then iCCP, then sRGB, then gAMA with cHRM."""
    wide = png(cicp(12, 13), icc(SRGB), gama(1.0))
    assert shown(enhance(fake_super_resolution, wide, format="webp")) == pytest.approx(
        (215, 93, 31), abs=2
    )
    plain = png(icc(SRGB), gama(1.0), P3)
    assert decode_image(BytesIO(plain)).metadata.icc_profile == SRGB
    assert colour_chunks(enhance(fake_super_resolution, plain)) == colour_chunks(plain) | {
        b"iCCP": b"icc\0\0" + zlib.compress(SRGB)
    }
    unknown = png(cicp(200, 13), icc(SRGB))
    assert decode_image(BytesIO(unknown)).metadata.icc_profile == SRGB
    broken = png(icc(b"rubbish" * 40), gama(1.0))
    assert shown(enhance(fake_super_resolution, broken, format="webp")) == pytest.approx(
        (229, 168, 122), abs=2
    )


@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_hdr_is_named_in_the_profile(transfer: int, fake_super_resolution: Upscaler) -> None:
    """Programs that know HDR find its code points, others something to show."""
    for content in (avif(9, transfer), heic_of(9, transfer), png(cicp(9, transfer))):
        result = enhance(fake_super_resolution, content)
        assert colour_chunks(result)[b"cICP"] == bytes([9, transfer, 0, 1])
        jpeg = reopen(enhance(fake_super_resolution, content, format="jpeg", quality=90))
        assert b"cicp" + bytes(4) + bytes([9, transfer, 0, 1]) in jpeg.info["icc_profile"]
        profile = ImageCms.ImageCmsProfile(BytesIO(jpeg.info["icc_profile"])).profile
        assert profile.version == pytest.approx(4.4)


def test_hdr_curves_are_those_of_the_standard() -> None:
    """ITU-R BT.2100 and BT.2408: levels of reference whites and greys."""
    levels = np.array([0.0, 0.38, 0.58, 0.7518, 1.0])
    np.testing.assert_allclose(decode_pq(levels), [0, 26, 203, 1000, 10_000], rtol=0.03)
    np.testing.assert_allclose(
        decode_hlg(np.array([0.0, 0.38, 0.75, 1.0])), [0, 26, 203, 1000], 0.03
    )
    for transfer in (PQ, HLG):
        colours = find_colours(9, transfer)
        assert colours is not None
        curve = np.array(colours.curve)
        assert (np.diff(curve) >= 0).all()
        assert curve[0] == 0
        assert 0.99 < curve[-1] <= 1


@pytest.mark.parametrize(
    "chunk",
    [
        gama(0.0),
        gama(0.001),
        gama(40_000.0),
        (b"gAMA", b"\0\0\1"),
        (b"cICP", bytes([12, 13, 0])),
        (b"cICP", bytes([12, 13, 1, 1])),
        (b"cICP", bytes([12, 13, 0, 0])),
        (b"cICP", bytes([2, 13, 0, 1])),
        (b"cICP", bytes([200, 13, 0, 1])),
        (b"cICP", bytes([12, 200, 0, 1])),
    ],
)
def test_nonsense_is_ignored(chunk: tuple[bytes, bytes]) -> None:
    assert decode_image(BytesIO(png(chunk))).metadata.icc_profile is None


@pytest.mark.parametrize(
    "numbers",
    [
        (0, 0, 0, 0, 0, 0, 0, 0),
        (31270, 32900, 1, 1, 1, 1, 1, 1),
        (31270, 32900, 10000, 10000, 20000, 20000, 30000, 30000),
        (2**32 - 1,) * 8,
        (90000, 1, 64000, 33000, 30000, 60000, 15000, 6000),
    ],
)
def test_impossible_chromaticities_are_ignored_and_the_gamma_counts(
    numbers: tuple[int, ...],
) -> None:
    content = png(gama(1.0), (b"cHRM", struct.pack(">8I", *numbers)))
    alone = decode_image(BytesIO(png(gama(1.0)))).metadata
    assert alone.icc_profile is not None
    assert decode_image(BytesIO(content)).metadata == alone


def test_impossible_gamma_is_not_copied() -> None:
    assert decode_image(BytesIO(png(gama(0.0)))).metadata.colour_chunks is None


def test_profiles_of_greys_are_grey() -> None:
    profile = make_profile(Colours((), (1.8,)), is_grey=True)
    assert profile is not None
    opened = ImageCms.ImageCmsProfile(BytesIO(profile)).profile
    assert opened.xcolor_space.strip() == "GRAY"
    assert ImageCms.ImageCmsProfile(BytesIO(GRAY)).profile.xcolor_space.strip() == "GRAY"
    ramp = Image.linear_gradient("L").resize((32, 32))
    content = png(gama(1 / 1.8), image=ramp)
    assert decode_image(BytesIO(content)).is_grey
