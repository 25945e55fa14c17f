"""Files that say what their colours are without a profile, and how browsers show them."""

import struct
import zlib

from PIL import Image

from superres.images.png_file import make_chunk
from testkit.heif_files import heic
from testkit.pictures import encode

# Of every file here, as it is stored.
COLOUR = (200, 100, 50)
PICTURE = Image.new("RGB", (16, 16), COLOUR)
GREY = PICTURE.convert("L")
AFTER_HEADER = 33
Chunk = tuple[bytes, bytes]


def png(*chunks: Chunk, image: Image.Image = PICTURE) -> bytes:
    """A PNG with more chunks."""
    content = encode(image, "PNG")
    written = b"".join(make_chunk(*chunk) for chunk in chunks)
    return content[:AFTER_HEADER] + written + content[AFTER_HEADER:]


def gama(exponent: float) -> Chunk:
    return b"gAMA", struct.pack(">I", round(exponent * 100_000))


def chrm(*numbers: float) -> Chunk:
    """White, red, green and blue."""
    return b"cHRM", struct.pack(">8I", *[round(number * 100_000) for number in numbers])


def srgb() -> Chunk:
    return b"sRGB", b"\0"


def icc(profile: bytes) -> Chunk:
    return b"iCCP", b"a\0\0" + zlib.compress(profile)


def cicp(primaries: int, transfer: int) -> Chunk:
    return b"cICP", bytes([primaries, transfer, 0, 1])


def avif(primaries: int, transfer: int, image: Image.Image = PICTURE) -> bytes:
    """An AVIF with code points: Pillow writes those of sRGB."""
    content = encode(image, "AVIF", quality=100, subsampling="4:4:4")
    at = content.index(b"colrnclx") + 8
    return content[:at] + struct.pack(">HH", primaries, transfer) + content[at + 4 :]


def heic_of(primaries: int, transfer: int, image: Image.Image = PICTURE) -> bytes:
    """A HEIC with code points."""
    points = {"color_primaries": primaries, "transfer_characteristics": transfer}
    return heic(image, quality=-1, matrix_coefficients=6, full_range_flag=1, **points)


P3 = chrm(0.3127, 0.329, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)
SRGB_CHROMATICITIES = chrm(0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
# Each with the sRGB colour that Chromium 143 shows of it.
COLOURED: dict[str, tuple[bytes, tuple[int, int, int]]] = {
    "nothing": (png(), COLOUR),
    "sRGB": (png(srgb(), gama(1.0)), COLOUR),
    "gamma 1/1.8": (png(gama(0.55555)), (210, 119, 65)),
    "gamma 1": (png(gama(1.0)), (229, 168, 122)),
    "gamma 1, grey": (png(gama(1.0), image=GREY), (185, 185, 185)),
    "gamma 0.3, grey": (png(gama(0.3), image=GREY), (85, 85, 85)),
    "gamma and primaries": (png(gama(0.45455), P3), (216, 93, 24)),
    "primaries alone": (png(P3), COLOUR),
    "PNG, Display P3": (png(cicp(12, 13)), (215, 93, 31)),
    "PNG, BT.2020": (png(cicp(9, 13)), (241, 76, 29)),
    "PNG, BT.709": (png(cicp(1, 1)), (197, 91, 39)),
    "PNG, linear": (png(cicp(1, 8)), (229, 168, 122)),
    "AVIF, Display P3": (avif(12, 13), (215, 93, 31)),
    "AVIF, Display P3 as BT.709": (avif(12, 1), (215, 93, 31)),
    "AVIF, BT.2020": (avif(9, 14), (241, 76, 29)),
    "AVIF, BT.470 M": (avif(4, 13), (232, 93, 30)),
    "AVIF, PAL": (avif(5, 13), (203, 100, 51)),
    "AVIF, NTSC": (avif(6, 13), (196, 102, 49)),
    "AVIF, film": (avif(8, 13), (222, 92, 32)),
    "AVIF, DCI-P3": (avif(11, 13), (211, 93, 32)),
    "AVIF, EBU": (avif(22, 13), (202, 102, 49)),
    "AVIF, gamma 2.8": (avif(12, 5), (204, 66, 0)),
    "AVIF, SMPTE 240M": (avif(12, 7), (221, 109, 55)),
    "AVIF, cinema": (avif(12, 17), (216, 78, 0)),
    "HEIC, Display P3": (heic_of(12, 13), (215, 93, 31)),
    "HEIC, Display P3 as BT.709": (heic_of(12, 1), (215, 93, 31)),
    "HEIC, BT.2020": (heic_of(9, 13), (241, 76, 29)),
}
