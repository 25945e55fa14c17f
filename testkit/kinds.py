"""Files of every supported kind, and what their results must be."""

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageCms
from skimage import data

from superres.engines.upscaler import Upscaler
from superres.images.encoders import encode_picture
from superres.images.image_codec import decode_image
from superres.images.metadata import Metadata
from superres.images.options import Options
from superres.images.picture import Picture
from superres.images.png_file import make_chunk
from superres.images.png_text import make_text
from testkit.coloured_files import cicp, gama, png
from testkit.heif_files import deep_heic, heic
from testkit.pictures import encode

PHOTO = Image.fromarray(data.astronaut()[60:132, 180:276])  # 96x72
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
DEEP = (data.astronaut()[60:132, 180:276].astype(np.uint16) * 257 // 3 + 12_345).astype(np.uint16)


def enhance(model: Upscaler, content: bytes, keep: str = "safe", **options: Any) -> bytes:
    chosen = Options(**options)
    return bytes(
        encode_picture(model.enlarge(decode_image(BytesIO(content), keep), chosen), chosen)
    )


def reopen(content: bytes) -> Image.Image:
    image = Image.open(BytesIO(content))
    image.load()
    return image


def cv2_encode(ending: str, samples: np.ndarray) -> bytes:
    written, encoded = cv2.imencode(ending, samples)
    assert written
    return encoded.tobytes()


def gray_profile() -> bytes:
    """The smallest grey profile: ICC version 2, gamma 2.2, white point D50."""
    white = b"XYZ " + bytes(4) + struct.pack(">iii", 63190, 65536, 54061)
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, 563) + bytes(2)
    text = b"desc" + bytes(4) + struct.pack(">I", 5) + b"grey\0" + bytes(78) + bytes(1)
    rights = b"text" + bytes(4) + b"none\0\0\0\0"
    table, body = b"", b""
    tags = {b"desc": text, b"cprt": rights, b"wtpt": white, b"kTRC": curve}
    for name, content in tags.items():
        table += name + struct.pack(">II", 128 + 4 + 12 * len(tags) + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = bytearray(128)
    head[8:12] = struct.pack(">I", 0x02100000)
    head[12:24] = b"mntrGRAYXYZ "
    head[36:40] = b"acsp"
    head[68:80] = struct.pack(">iii", 63190, 65536, 54061)
    profile = bytes(head) + struct.pack(">I", len(tags)) + table + body
    return struct.pack(">I", len(profile)) + profile[4:]


GRAY = ImageCms.ImageCmsProfile(BytesIO(gray_profile())).tobytes()


def soft_disc() -> Image.Image:
    """A red disc with a soft edge; black where fully transparent, as editors leave it."""
    row, column = np.mgrid[:72, :96]
    distance = np.hypot(row - 36, column - 48)
    pixels = np.zeros((72, 96, 4), np.uint8)
    pixels[:, :, 3] = np.clip((30 - distance) * 40, 0, 255)
    pixels[pixels[:, :, 3] > 0, :3] = (220, 40, 30)
    return Image.fromarray(pixels)


def sharp_black_and_white() -> Image.Image:
    return PHOTO.convert("1", dither=Image.Dither.NONE)


XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-'
    b'syntax-ns#"><rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:photoshop="'
    b'http://ns.adobe.com/photoshop/1.0/" photoshop:City="Ulm" photoshop:Credit="Agency" '
    b'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:ImageWidth="9" tiff:XResolution="72">'
    b'<dc:title><rdf:Alt><rdf:li xml:lang="x-default">A title</rdf:li></rdf:Alt></dc:title>'
    b"</rdf:Description></rdf:RDF></x:xmpmeta>"
)
# Character set UTF-8, city, author.
IPTC = b"\x1c\x01\x5a\0\3\x1b%G\x1c\x02\x5a\0\3Ulm\x1c\x02\x50\0\5Jos\xc3\xa9"
TEXTS = (
    make_text(b"parameters", "a fox 狐\nSteps: 20"),
    make_text(b"Comment", "größer"),
    (b"zTXt", b"mxfile\0\0" + zlib.compress(b"%3Cmxfile%3E")),
)


def write_with_metadata(image_format: str, quality: int | None) -> bytes:
    texts = b"".join(make_chunk(*text) for text in TEXTS)
    pixels = np.ascontiguousarray(np.asarray(PHOTO)[:, :, ::-1])
    picture = Picture(pixels, metadata=Metadata(SRGB, None, (72, 72), XMP, IPTC, texts))
    return bytes(encode_picture(picture, Options(image_format, quality)))


def grey_jpeg() -> bytes:
    return encode(PHOTO.convert("L"), "JPEG", quality=95)


@dataclass(frozen=True)
class Kind:
    """A kind of file, and what its result must be."""

    content: Callable[[], bytes]
    mode: str = "RGB"
    depth: int = 8
    # Mean absolute difference, in levels, between the result reduced again and the input.
    tolerance: float = 2.0


KINDS = {
    "RGB PNG": Kind(lambda: encode(PHOTO, "PNG")),
    "JPEG": Kind(lambda: encode(PHOTO, "JPEG", quality=95)),
    "progressive JPEG": Kind(lambda: encode(PHOTO, "JPEG", quality=95, progressive=True)),
    "grey JPEG": Kind(grey_jpeg, "L"),
    "CMYK JPEG": Kind(lambda: encode(PHOTO.convert("CMYK"), "JPEG", quality=95)),
    "phone JPEG": Kind(
        lambda: encode(PHOTO, "MPO", save_all=True, append_images=[PHOTO], quality=95)
    ),
    "JPEG with metadata": Kind(lambda: write_with_metadata("jpeg", 95)),
    "PNG with metadata": Kind(lambda: write_with_metadata("png", None)),
    "PNG with gamma": Kind(lambda: png(gama(1.0), image=PHOTO)),
    "HDR PNG": Kind(lambda: png(cicp(9, 16), image=PHOTO)),
    "WebP": Kind(lambda: encode(PHOTO, "WEBP", quality=95)),
    "lossless WebP": Kind(lambda: encode(PHOTO, "WEBP", lossless=True)),
    "AVIF": Kind(lambda: encode(PHOTO, "AVIF", quality=95)),
    "HEIC": Kind(lambda: heic(PHOTO, quality=95)),
    "phone HEIC": Kind(
        lambda: heic(PHOTO, PHOTO, quality=90, chroma=420, tile_size=64, thumbnails=[48]),
        tolerance=3,
    ),
    "grey HEIC": Kind(lambda: heic(PHOTO.convert("L"), quality=95), "L"),
    "BMP": Kind(lambda: encode(PHOTO, "BMP")),
    "GIF": Kind(lambda: encode(PHOTO, "GIF"), tolerance=4),
    "palette PNG": Kind(lambda: encode(PHOTO.quantize(200), "PNG"), tolerance=4),
    "grey PNG": Kind(lambda: encode(PHOTO.convert("L"), "PNG"), "L"),
    "1-bit PNG": Kind(lambda: encode(sharp_black_and_white(), "PNG"), "L", tolerance=12),
    "1-bit TIFF": Kind(
        lambda: encode(sharp_black_and_white(), "TIFF", compression="group4"), "L", tolerance=12
    ),
    "TIFF": Kind(lambda: encode(PHOTO, "TIFF")),
    "LZW TIFF": Kind(lambda: encode(PHOTO, "TIFF", compression="tiff_lzw")),
    "Lab TIFF": Kind(lambda: encode(to_lab(PHOTO), "TIFF"), tolerance=3),
    "RGBA PNG": Kind(lambda: encode(soft_disc(), "PNG"), "RGBA"),
    "RGBA WebP": Kind(lambda: encode(soft_disc(), "WEBP", lossless=True), "RGBA"),
    "RGBA AVIF": Kind(lambda: encode(soft_disc(), "AVIF", quality=95), "RGBA", tolerance=4),
    "RGBA HEIC": Kind(lambda: heic(soft_disc(), quality=95), "RGBA", tolerance=4),
    "grey and alpha PNG": Kind(lambda: encode(soft_disc().convert("LA"), "PNG"), "LA"),
    "palette and alpha PNG": Kind(
        lambda: encode(soft_disc().quantize(64, Image.Quantize.FASTOCTREE), "PNG"), "RGBA"
    ),
    "16-bit PNG": Kind(lambda: cv2_encode(".png", DEEP[:, :, ::-1]), "RGB", 16),
    "16-bit grey PNG": Kind(lambda: cv2_encode(".png", DEEP[:, :, 1]), "L", 16),
    "16-bit TIFF": Kind(lambda: cv2_encode(".tiff", DEEP[:, :, ::-1]), "RGB", 16),
    "10-bit HEIC": Kind(lambda: deep_heic(DEEP, quality=95), "RGB", 16),
    "16-bit grey TIFF": Kind(lambda: cv2_encode(".tiff", DEEP[:, :, 1]), "L", 16),
    "16-bit RGBA PNG": Kind(
        lambda: cv2_encode(
            ".png", np.dstack([DEEP[:, :, ::-1], np.full(DEEP.shape[:2], 65535, np.uint16)])
        ),
        "RGBA",
        16,
    ),
}


def to_lab(image: Image.Image) -> Image.Image:
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    converted = ImageCms.profileToProfile(image, *profiles, outputMode="LAB")
    assert converted is not None
    return converted


def png_header(content: bytes) -> tuple[int, str]:
    """Bit depth and mode of a PNG."""
    depth, colour_type = struct.unpack_from("BB", content, 24)
    return depth, {0: "L", 2: "RGB", 4: "LA", 6: "RGBA"}[colour_type]


def shown(image: Image.Image) -> np.ndarray:
    """How an image looks, as floats: invisible colours do not count."""
    rgba = np.asarray(image.convert("RGBA")).astype(float)
    alpha = rgba[:, :, 3:]
    return np.dstack([rgba[:, :, :3] * alpha / 255, alpha])


def rgb_profile(gamma: float) -> bytes:
    """The sRGB profile with different curves."""
    profile = bytearray(SRGB)
    count = int.from_bytes(profile[128:132])
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, int(gamma * 256)) + bytes(2)
    place = len(profile)
    for number in range(count):
        entry = 132 + 12 * number
        if bytes(profile[entry : entry + 4]) in {b"rTRC", b"gTRC", b"bTRC"}:
            profile[entry + 4 : entry + 12] = struct.pack(">II", place, 14)
    profile += curve
    profile[:4] = struct.pack(">I", len(profile))
    return bytes(profile)
