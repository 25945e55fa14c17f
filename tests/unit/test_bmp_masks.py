"""BMPs with masks of any kind."""

import struct
import subprocess
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from superres.errors import UndecodableImage, UnsupportedVariant
from superres.images.image_codec import decode_image, read_header
from superres.images.picture import Picture

WIDTH, HEIGHT = 23, 11
ROW, COLUMN = np.mgrid[:HEIGHT, :WIDTH]
# Four samples per pixel, from 0 to 1.
SAMPLES = np.stack(
    [COLUMN / (WIDTH - 1), ROW / (HEIGHT - 1), (ROW + COLUMN) % 7 / 6, (COLUMN % 5 + 1) / 5], axis=2
)
BITFIELDS, ALPHA_BITFIELDS = 3, 6
Masks = tuple[int, int, int, int]
MASKS: dict[str, tuple[int, Masks]] = {
    "565": (16, (0xF800, 0x7E0, 0x1F, 0)),
    "555": (16, (0x7C00, 0x3E0, 0x1F, 0)),
    "4444": (16, (0xF00, 0xF0, 0xF, 0xF000)),
    "444": (16, (0xF00, 0xF0, 0xF, 0)),
    "5551": (16, (0x7C00, 0x3E0, 0x1F, 0x8000)),
    "231": (16, (0x3, 0x1C, 0x20, 0)),
    "BGRA": (32, (0xFF0000, 0xFF00, 0xFF, 0xFF000000)),
    "RGBA": (32, (0xFF, 0xFF00, 0xFF0000, 0xFF000000)),
    "ABGR": (32, (0xFF000000, 0xFF0000, 0xFF00, 0xFF)),
    "XRGB in the middle": (32, (0xFF << 12, 0xFF << 2, 0xFF << 22, 0)),
    "10 bits": (32, (0x3FF << 20, 0x3FF << 10, 0x3FF, 0)),
    "10 bits and alpha": (32, (0x3FF << 20, 0x3FF << 10, 0x3FF, 0xC0000000)),
    "11, 11 and 10 bits": (32, (0x7FF << 21, 0x7FF << 10, 0x3FF, 0)),
    "no green": (32, (0xFF0000, 0, 0xFF, 0)),
}


def make_bmp(
    bits: int,
    masks: Masks,
    header_bytes: int = 124,
    *,
    packing: int = BITFIELDS,
    top_down: bool = False,
    samples: np.ndarray = SAMPLES,
) -> bytes:
    values = np.zeros((HEIGHT, WIDTH), np.uint64)
    for channel, mask in enumerate(masks):
        if mask:
            shift = (mask & -mask).bit_length() - 1
            found = np.rint(samples[:, :, channel] * (mask >> shift)).astype(np.uint64)
            values |= found << np.uint64(shift)
    rows = values if top_down else values[::-1]
    stride = -(-WIDTH * bits // 32) * 4
    lines = [row.astype(f"<u{bits // 8}").tobytes().ljust(stride, b"\0") for row in rows]
    height = -HEIGHT if top_down else HEIGHT
    info = (header_bytes, WIDTH, height, 1, bits, packing, stride * HEIGHT, 3937, 7874, 0, 0)
    header = struct.pack("<IiiHHIIiiII", *info)
    if header_bytes == 40:
        header += struct.pack("<4I", *masks)[: 16 if packing == ALPHA_BITFIELDS else 12]
    else:
        header = (header + struct.pack("<4I", *masks)).ljust(header_bytes, b"\0")[:header_bytes]
    offset = 14 + len(header)
    size = offset + stride * HEIGHT
    return b"BM" + struct.pack("<IHHI", size, 0, 0, offset) + header + b"".join(lines)


def decode(content: bytes) -> Picture:
    header = read_header(BytesIO(content), 10**6)
    assert (header.width, header.height) == (WIDTH, HEIGHT)
    return decode_image(BytesIO(content))


def expected(bits_of: Masks) -> np.ndarray:
    """The samples that masks of so many bits leave, scaled to 8 bits."""
    channels = []
    for channel, mask in enumerate(bits_of):
        greatest = mask >> ((mask & -mask).bit_length() - 1) if mask else 0
        found = np.rint(SAMPLES[:, :, channel] * greatest)
        channels.append(np.rint(found * 255 / greatest) if greatest else np.zeros_like(found))
    return np.stack(channels, axis=2)


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("header_bytes", [40, 56, 108, 124])
def test_masks_of_every_kind_give_their_samples(kind: str, header_bytes: int) -> None:
    bits, masks = MASKS[kind]
    packing = ALPHA_BITFIELDS if header_bytes == 40 and masks[3] else BITFIELDS
    for top_down in (False, True):
        content = make_bmp(bits, masks, header_bytes, packing=packing, top_down=top_down)
        picture = decode(content)
        wanted = expected(masks)
        assert np.abs(picture.pixels[:, :, ::-1] - wanted[:, :, :3]).max() <= 1
        assert (picture.alpha is not None) == (masks[3] != 0)
        if picture.alpha is not None:
            assert np.abs(picture.alpha - wanted[:, :, 3]).max() <= 1
        assert picture.metadata.dpi == pytest.approx((100, 200), rel=0.001)


@pytest.mark.parametrize("kind", ["565", "555", "BGRA", "XRGB in the middle", "10 bits"])
def test_imagemagick_sees_the_same_picture(kind: str, tmp_path: Path) -> None:
    """Except for masks of 4 bits or 1, whose maximum it reads as 240, and as 128."""
    bits, masks = MASKS[kind]
    content = make_bmp(bits, masks)
    (tmp_path / "in.bmp").write_bytes(content)
    command = ["convert", str(tmp_path / "in.bmp"), "-depth", "8", "rgba:-"]
    found = subprocess.run(command, check=True, capture_output=True).stdout
    theirs = np.frombuffer(found, np.uint8).reshape(HEIGHT, WIDTH, 4).astype(int)
    picture = decode(content)
    assert np.abs(picture.pixels[:, :, ::-1] - theirs[:, :, :3]).max() <= 1
    if picture.alpha is not None:
        assert np.abs(picture.alpha - theirs[:, :, 3]).max() <= 1


@pytest.mark.parametrize("kind", ["4444", "5551", "BGRA"])
def test_alpha_that_is_zero_everywhere_means_nothing(kind: str) -> None:
    """Programs leave the byte zero; Chromium and Firefox show nothing of such an image."""
    bits, masks = MASKS[kind]
    empty = SAMPLES.copy()
    empty[:, :, 3] = 0
    assert decode(make_bmp(bits, masks, samples=empty)).alpha is None


def test_fourth_byte_is_no_alpha_without_a_mask() -> None:
    for header_bytes in (40, 52):
        content = make_bmp(*MASKS["BGRA"], header_bytes)
        assert decode(content).alpha is None


@pytest.mark.parametrize("header_bytes", [40, 52, 56, 108, 124])
def test_masks_without_packing_by_masks_mean_nothing(header_bytes: int) -> None:
    """As in Windows and Firefox; Chromium uses the alpha mask, but only that one."""
    content = bytearray(make_bmp(*MASKS["BGRA"], header_bytes, packing=0))
    if header_bytes == 40:  # then no masks follow it
        del content[54:66]
        struct.pack_into("<I", content, 10, 54)
    else:
        struct.pack_into("<3I", content, 54, 0xFF, 0xFF00, 0xFF0000)
    picture = decode(bytes(content))
    wanted = expected(MASKS["BGRA"][1])[:, :, :3]
    np.testing.assert_array_equal(picture.pixels[:, :, ::-1], wanted)
    assert picture.alpha is None


def test_cut_bmp_with_masks_tells_how_much_is_there() -> None:
    content = make_bmp(*MASKS["4444"])
    half = 14 + 124 + (len(content) - 14 - 124) // 2
    with pytest.raises(UndecodableImage, match="about 50 % of the image"):
        decode_image(BytesIO(content[:half]))


@pytest.mark.parametrize("packing", [4, 5])
def test_jpeg_or_png_in_a_bmp_is_named(packing: int) -> None:
    with pytest.raises(UnsupportedVariant, match="contain a JPEG or PNG"):
        read_header(BytesIO(make_bmp(*MASKS["BGRA"], packing=packing)), 10**6)
