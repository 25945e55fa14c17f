"""No image takes more memory than it is admitted for: measured on noise, the worst case."""

import os
import struct
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from mmap import PAGESIZE
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from superres.engines import upscaler
from superres.engines.upscaler import Upscaler
from superres.images import enlargement, resampling
from superres.images.encoders import encode_png
from superres.images.enlargement import resample_picture
from superres.images.metadata import MAX_PROFILE_BYTES, Metadata
from superres.images.options import Options
from superres.images.picture import ImageHeader, Picture
from superres.images.png_file import make_chunk
from superres.images.png_text import MAX_TEXT_BYTES
from superres.images.resampling import to_levels
from superres.images.xmp_packet import Node, Packet, write_packet
from superres.sandbox.confinement import Limits
from superres.sandbox.picture_transfer import SharedPicture
from superres.sandbox.sandbox import Ending, Sandbox
from superres.service.memory_estimate import (
    MAX_METADATA_BYTES,
    decoding_bytes,
    deriving_bytes,
    encoding_bytes,
    header_bytes,
    network_bytes,
)
from superres.service.sandboxed_codec import SandboxedCodec, share_picture
from superres.store.stored_result import PayloadFile, ResultInfo, StoredResult
from testkit.heif_files import deep_heic
from testkit.kinds import rgb_profile
from testkit.pictures import encode
from testkit.tiff_files import write_tiff

SIZES = ((3, 5), (1000, 1010), (2000, 40))
EIGHT, SIXTEEN = np.uint8, np.uint16


class WatchedSandbox(Sandbox):
    """Records how much memory its children took."""

    peak_bytes = 0

    def run(
        self,
        task: dict[str, Any],
        descriptors: Sequence[int],
        limits: Limits,
        has_left: Callable[[], bool],
    ) -> Ending:
        ending = super().run(task, descriptors, limits, has_left)
        self.peak_bytes = ending.reply.get("peak_bytes", -1)
        return ending


@pytest.fixture(scope="module")
def sandbox() -> Iterator[WatchedSandbox]:
    made = WatchedSandbox()
    yield made
    made.close()


@pytest.fixture
def codec(sandbox: WatchedSandbox) -> SandboxedCodec:
    made = SandboxedCodec("all")
    made.sandbox = sandbox
    return made


def draw_noise(height: int, width: int, channels: int, dtype: type = EIGHT) -> Any:
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def draw_image(height: int, width: int, mode: str) -> Image.Image:
    channels = len(Image.new(mode, (1, 1)).getbands())
    return Image.fromarray(draw_noise(height, width, channels), mode if mode == "LAB" else None)


def write_deep(ending: str, channels: int) -> Callable[[int, int], bytes]:
    def write(height: int, width: int) -> bytes:
        samples = draw_noise(height, width, channels, SIXTEEN)
        return bytes(cv2.imencode(ending, samples)[1])

    return write


def write(image_format: str, mode: str, **options: object) -> Callable[[int, int], bytes]:
    def write_it(height: int, width: int) -> bytes:
        image = draw_image(height, width, "RGB" if mode in {"P", "CMYK", "1"} else mode)
        return encode(image.convert(mode) if image.mode != mode else image, image_format, **options)

    return write_it


def write_deep_grey(height: int, width: int) -> bytes:
    samples = draw_noise(height, width, 2, SIXTEEN)
    levels = (samples // 257).astype(EIGHT)
    picture = Picture(levels[:, :, 0], levels[:, :, 1], np.ascontiguousarray(samples[:, :, :1]))
    return bytes(encode_png(picture))


def write_masked_bmp(height: int, width: int) -> bytes:
    """With masks that Pillow does not support."""
    content = bytearray(encode(draw_image(height, width, "RGBA"), "BMP"))
    assert content[14:18] == struct.pack("<I", 40)
    masks = struct.pack("<4I", 0xFF << 8, 0xFF << 24, 0xFF, 0xFF << 16)
    content[10:14] = struct.pack("<I", 54 + len(masks))
    content[30:34] = struct.pack("<I", 6)
    return bytes(content[:54] + masks + content[54:])


def write_layout(
    photometric: str, channels: int, dtype: type, extra: tuple[str, ...] = (), **options: Any
) -> Callable[[int, int], bytes]:
    def write(height: int, width: int) -> bytes:
        samples = draw_noise(height, width, channels, dtype).reshape(height, width, channels)
        return write_tiff(samples, photometric, extra, rowsperstrip=64, **options)

    return write


def write_heic(channels: int, dtype: type, **options: Any) -> Callable[[int, int], bytes]:
    def write(height: int, width: int) -> bytes:
        samples = draw_noise(height, width, channels, dtype).reshape(height, width, channels)
        return deep_heic(samples, enc_params={"preset": "ultrafast"}, **options)

    return write


MB = 10**6


def metadata_of_any_length() -> Metadata:
    """As much of it as is kept, and of what takes most memory."""
    noise = np.random.default_rng(0).integers(65, 91, MAX_TEXT_BYTES - 100, EIGHT).tobytes()
    profile = bytearray(rgb_profile(1.0).ljust(MAX_PROFILE_BYTES, b"\0"))
    profile[:4] = struct.pack(">I", len(profile))
    name = "{https://example.org/}"
    properties = {f"{name}a{each}": Node(f"{name}a{each}", text="&") for each in range(9000)}
    xmp = write_packet(Packet(properties))
    texts = make_chunk(b"tEXt", b"workflow\0" + noise)
    return Metadata(bytes(profile), xmp=xmp, iptc=b"\x1c\2\x78" + bytes(2), texts=texts)


def write_metadata(height: int, width: int) -> bytes:
    picture = Picture(draw_noise(height, width, 3), metadata=metadata_of_any_length())
    return bytes(encode_png(picture))


ALPHA, ASSOCIATED, UNKNOWN = ("unassalpha",), ("assocalpha",), ("unspecified",)
UPLOADS = {
    "PNG": write("PNG", "RGB"),
    "PNG, transparent": write("PNG", "RGBA"),
    "PNG, grey": write("PNG", "L"),
    "PNG, grey and transparent": write("PNG", "LA"),
    "PNG, palette": write("PNG", "P"),
    "PNG, black and white": write("PNG", "1"),
    "PNG, metadata": write_metadata,
    "PNG, 16 bits": write_deep(".png", 3),
    "PNG, 16 bits, transparent": write_deep(".png", 4),
    "PNG, 16 bits, grey": write_deep(".png", 1),
    "JPEG": write("JPEG", "RGB"),
    "JPEG, progressive": write("JPEG", "RGB", progressive=True, subsampling=0, quality=50),
    "JPEG, CMYK": write("JPEG", "CMYK"),
    "WebP": write("WEBP", "RGB", method=0),
    "WebP, transparent, no loss": write("WEBP", "RGBA", method=0, lossless=True),
    "TIFF": write("TIFF", "RGB"),
    "TIFF, LZW": write("TIFF", "RGB", compression="tiff_lzw"),
    "TIFF, transparent": write("TIFF", "RGBA"),
    "TIFF, CMYK": write("TIFF", "CMYK"),
    "TIFF, LAB": write("TIFF", "LAB"),
    "TIFF, 16 bits": write_deep(".tif", 3),
    "TIFF, 16 bits, transparent": write_deep(".tif", 4),
    "PNG, 16 bits, grey and transparent": write_deep_grey,
    "JPEG without its end": lambda height, width: write("JPEG", "RGB")(height, width)[:-2],
    "JPEG, fine": write("JPEG", "RGB", quality=100, subsampling=0),
    "JPEG, grey with a profile": write("JPEG", "L", icc_profile=rgb_profile(1.0)),
    "TIFF, planes": write_layout("rgb", 3, EIGHT, planar=True),
    "TIFF, 16 bits, grey": write_layout("minisblack", 1, SIXTEEN),
    "TIFF, 16 bits, grey, transparent": write_layout("minisblack", 2, SIXTEEN, ALPHA),
    "TIFF, 16 bits, planes": write_layout("rgb", 4, SIXTEEN, ALPHA, planar=True),
    "TIFF, 16 bits, planes, packed": write_layout(
        "rgb", 4, SIXTEEN, ASSOCIATED, planar=True, compression="zlib", predictor=True
    ),
    "TIFF, 16 bits, packed": write_layout("rgb", 4, SIXTEEN, ASSOCIATED, compression="zlib"),
    "TIFF, 16 bits, tiles": write_layout("rgb", 4, SIXTEEN, ALPHA, tiled=True),
    "TIFF, 16 bits, big-endian": write_layout("rgb", 4, SIXTEEN, ALPHA, order=">", big=True),
    "TIFF, 16 bits, Lab": write_layout("cielab", 4, SIXTEEN, ALPHA),
    "TIFF, Lab, transparent": write_layout("cielab", 4, EIGHT, ASSOCIATED),
    "TIFF, CMYK, transparent": write_layout("separated", 5, EIGHT, ALPHA),
    "TIFF, 16 bits, CMYK": write_layout("separated", 5, SIXTEEN, ALPHA),
    "TIFF, 16 bits, CMYK, planes": write_layout("separated", 5, SIXTEEN, ALPHA, planar=True),
    "TIFF, 16 bits, 16 samples": write_layout("rgb", 16, SIXTEEN, 13 * UNKNOWN),
    # Editors keep their layers in a tag.
    "TIFF, layers": write_layout("rgb", 3, EIGHT, extratags=[(37724, "B", MB, bytes(MB), True)]),
    "TIFF, 16 samples": write_layout("minisblack", 16, EIGHT, 15 * UNKNOWN),
    "BMP": write("BMP", "RGB"),
    "BMP, masks": write_masked_bmp,
    "GIF": write("GIF", "P"),
    "HEIC": write_heic(3, EIGHT),
    "HEIC, transparent": write_heic(4, EIGHT),
    "HEIC, premultiplied": write_heic(4, EIGHT, is_premultiplied=True),
    "HEIC, grey": write_heic(1, EIGHT),
    "HEIC, tiles": write_heic(3, EIGHT, tile_size=512, chroma=420),
    "HEIC, 10 bits": write_heic(3, SIXTEEN),
    "HEIC, 10 bits, transparent": write_heic(4, SIXTEEN),
    "HEIC, 10 bits, premultiplied": write_heic(4, SIXTEEN, is_premultiplied=True),
    "HEIC, 10 bits, tiles": write_heic(3, SIXTEEN, tile_size=512),
    "AVIF": write("AVIF", "RGB", speed=10),
    "AVIF, transparent": write("AVIF", "RGBA", speed=10),
}


@pytest.mark.parametrize("kind", UPLOADS)
def test_decoding_takes_no_more_than_estimated(
    codec: SandboxedCodec, sandbox: WatchedSandbox, kind: str
) -> None:
    for size in SIZES:
        content = UPLOADS[kind](*size)
        file = BytesIO(content)
        header = codec.read_header(file, 10**7)
        assert sandbox.peak_bytes <= header_bytes(content[:16], len(content), 10**7)
        picture = codec.decode(file, header)
        assert picture.size == (size[1], size[0])
        least = header.pixels if header.pixels > MB else 0  # small ones fit into freed memory
        assert least <= sandbox.peak_bytes <= decoding_bytes(header, len(content))


def draw_picture(height: int, width: int, is_deep: bool, has_alpha: bool, is_grey: bool) -> Picture:
    deep = draw_noise(height, width, 3, SIXTEEN) if is_deep else None
    return Picture(
        draw_noise(height, width, 1 if is_grey else 3),
        draw_noise(height, width, 1) if has_alpha else None,
        deep if deep is None or not is_grey else np.ascontiguousarray(deep[:, :, :1]),
    )


def count_bytes(shared: SharedPicture) -> int:
    """Memory that an image in shared memory takes."""
    return sum(512 * os.fstat(descriptor).st_blocks for descriptor in shared.descriptors)


RESULTS = (
    *(Options(), Options("webp", 100), Options("webp"), Options("jpeg", 100), Options("avif", 90)),
)


@pytest.mark.parametrize("options", RESULTS, ids=lambda each: f"{each.format}-{each.quality}")
@pytest.mark.parametrize("is_deep", [False, True], ids=["8 bits", "16 bits"])
@pytest.mark.parametrize("has_alpha", [False, True], ids=["opaque", "transparent"])
@pytest.mark.parametrize("is_grey", [False, True], ids=["colour", "grey"])
def test_encoding_takes_no_more_than_estimated(
    codec: SandboxedCodec,
    sandbox: WatchedSandbox,
    options: Options,
    is_deep: bool,
    has_alpha: bool,
    is_grey: bool,
) -> None:
    for height, width in SIZES:
        picture = draw_picture(height, width, is_deep, has_alpha, is_grey)
        shared = share_picture(picture, options)
        shared_bytes = count_bytes(shared)
        content = codec.encode(shared, options)
        estimate = encoding_bytes(width, height, options, has_alpha, is_deep)
        # Small ones fit into freed memory, and a part of others does.
        least = height * width / 2 if height * width > MB else 0
        assert least <= sandbox.peak_bytes <= estimate
        # Each row's memory was given back when it had been read; the rest is on its last page.
        assert count_bytes(shared) <= 3 * (2 * PAGESIZE + 8 * width)
        if options.format == "png":
            # The file grows while the image shrinks.
            assert sandbox.peak_bytes + max(0, len(content) - shared_bytes) <= estimate
        elif options.format == "jpeg":
            # The file follows the image's copy.
            assert sandbox.peak_bytes + len(content) <= estimate


@pytest.mark.parametrize("options", RESULTS, ids=lambda each: f"{each.format}-{each.quality}")
def test_encoding_metadata_takes_no_more_than_estimated(
    codec: SandboxedCodec, sandbox: WatchedSandbox, options: Options
) -> None:
    metadata = metadata_of_any_length()
    picture = Picture(draw_noise(40, 50, 3), metadata=metadata)
    shared = share_picture(picture, options)
    codec.encode(shared, options)
    known = shared.metadata_bytes
    assert known <= MAX_METADATA_BYTES
    assert MB < sandbox.peak_bytes <= encoding_bytes(50, 40, options, False, False, known)


@pytest.mark.parametrize("has_alpha", [False, True], ids=["opaque", "transparent"])
def test_encoding_large_drawn_images_takes_no_more_than_estimated(
    codec: SandboxedCodec, sandbox: WatchedSandbox, has_alpha: bool
) -> None:
    """Their blocks are alike: libaom reserves room for a table of them."""
    side = 4000
    squares = draw_noise(side // 8, side // 8, 3) // 128 * 255
    pixels = np.ascontiguousarray(squares.repeat(8, axis=0).repeat(8, axis=1))
    picture = Picture(pixels, pixels[:, :, 0] if has_alpha else None)
    options = Options("avif", 80)
    shared = share_picture(picture, options)
    assert len(codec.encode(shared, options)) > 1000
    estimate = encoding_bytes(side, side, options, has_alpha, is_deep=False)
    assert side * side <= sandbox.peak_bytes <= estimate


@pytest.mark.parametrize("size", [(1, 32_768), (32_768, 1), (120, 18_000), (24_000, 100)])
@pytest.mark.parametrize("has_alpha", [False, True], ids=["opaque", "transparent"])
def test_encoding_long_sides_takes_no_more_than_estimated(
    codec: SandboxedCodec, sandbox: WatchedSandbox, has_alpha: bool, size: tuple[int, int]
) -> None:
    height, width = size
    picture = draw_picture(height, width, is_deep=False, has_alpha=has_alpha, is_grey=False)
    for options in (Options(), Options("jpeg", 90), Options("avif", 80)):
        shared = share_picture(picture, options)
        codec.encode(shared, options)
        estimate = encoding_bytes(width, height, options, has_alpha, is_deep=False)
        assert sandbox.peak_bytes <= estimate


@pytest.mark.parametrize("is_deep", [False, True], ids=["8 bits", "16 bits"])
@pytest.mark.parametrize("has_alpha", [False, True], ids=["opaque", "transparent"])
@pytest.mark.parametrize("is_grey", [False, True], ids=["colour", "grey"])
def test_reading_a_result_takes_no_more_than_estimated(
    codec: SandboxedCodec, sandbox: WatchedSandbox, is_deep: bool, has_alpha: bool, is_grey: bool
) -> None:
    for width, height in ((1, 2), (350, 340), (700, 40)):
        size = 3 * height, 3 * width
        content = bytes(encode_png(draw_picture(*size, is_deep, has_alpha, is_grey)))
        header = ImageHeader(width, height, has_alpha, is_deep)
        estimate = deriving_bytes(header, Options(), len(content))
        picture = read_result(codec, content, *size, estimate)
        assert picture.size == (3 * width, 3 * height)
        least = 9 * header.pixels if header.pixels > MB / 9 else 0
        assert least <= sandbox.peak_bytes <= estimate


@pytest.fixture(scope="module")
def many_parts() -> tuple[Picture, bytes]:
    """A large result with all parts, and its file."""
    gradient = np.add.outer(np.arange(2700), np.arange(2700)).astype(SIXTEEN)
    deep = np.dstack([gradient] * 3) * 11
    picture = Picture(to_levels(deep), (gradient // 23).astype(EIGHT), deep)
    return picture, bytes(encode_png(picture))


@pytest.mark.parametrize("options", RESULTS, ids=lambda each: f"{each.format}-{each.quality}")
def test_large_result_of_many_parts_is_encoded_from_a_stored_one(
    codec: SandboxedCodec, many_parts: tuple[Picture, bytes], options: Options
) -> None:
    """All parts are in one memory, which takes addresses even where a format needs none of it."""
    picture, content = many_parts
    side = picture.size[0]
    estimate = deriving_bytes(ImageHeader(side // 3, side // 3, True, True), options, len(content))
    stored = read_result(codec, content, side, side, estimate)
    direct = codec.encode(share_picture(picture, options), options)
    assert bytes(codec.encode(share_picture(stored, options), options)) == bytes(direct)


def test_reading_a_results_metadata_takes_no_more_than_estimated(
    codec: SandboxedCodec, sandbox: WatchedSandbox
) -> None:
    metadata = metadata_of_any_length()
    content = bytes(encode_png(Picture(draw_noise(30, 60, 3), metadata=metadata)))
    estimate = deriving_bytes(ImageHeader(20, 10), Options(), len(content))
    assert read_result(codec, content, 30, 60, estimate).metadata == metadata
    assert MB < sandbox.peak_bytes <= estimate


def allocate_reported(shape: tuple[int, ...], dtype: type = EIGHT) -> Any:
    """As `shared_arrays.allocate`, but not in shared memory, which NumPy does not report."""
    return np.zeros(shape, dtype)


def read_result(
    codec: SandboxedCodec, content: bytes, height: int, width: int, limit_bytes: int
) -> Picture:
    file = PayloadFile(os.memfd_create("result"), "rb+")
    file.write(content)
    with file:
        info = ResultInfo.describe(content, width, height)
        return codec.decode_result(StoredResult(file, info, 0), limit_bytes)


@pytest.mark.parametrize("scale", [1, 2, 4])
@pytest.mark.parametrize("is_deep", [False, True], ids=["8 bits", "16 bits"])
@pytest.mark.parametrize("has_alpha", [False, True], ids=["opaque", "transparent"])
@pytest.mark.parametrize("is_grey", [False, True], ids=["colour", "grey"])
def test_resampling_a_result_takes_no_more_than_estimated(
    monkeypatch: pytest.MonkeyPatch, scale: int, is_deep: bool, has_alpha: bool, is_grey: bool
) -> None:
    """Here the result is read into shared memory."""
    for module in (enlargement, resampling):
        monkeypatch.setattr(module, "allocate", allocate_reported)
    height, width = 400, 500
    options = Options(scale=scale)
    samples = draw_picture(3 * height, 3 * width, is_deep, has_alpha, is_grey)
    tracemalloc.start()
    try:
        resample_picture(samples, scale * width, scale * height)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    shared = sum(
        part.nbytes for part in (samples.pixels, samples.alpha, samples.deep) if part is not None
    )
    header = ImageHeader(width, height, has_alpha, is_deep)
    assert peak + shared <= deriving_bytes(header, options, 0)


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("is_deep", [False, True], ids=["8 bits", "16 bits"])
@pytest.mark.parametrize("has_alpha", [False, True], ids=["opaque", "transparent"])
@pytest.mark.parametrize("is_grey", [False, True], ids=["colour", "grey"])
def test_enlarging_takes_no_more_than_estimated(
    fake_super_resolution: Upscaler,
    monkeypatch: pytest.MonkeyPatch,
    scale: int,
    is_deep: bool,
    has_alpha: bool,
    is_grey: bool,
) -> None:
    """NumPy reports its arrays to tracemalloc, and OpenCV allocates its own with NumPy."""
    for module in (upscaler, enlargement, resampling):
        monkeypatch.setattr(module, "allocate", allocate_reported)
    height, width = 400, 500
    options = Options(scale=scale)
    tracemalloc.start()
    try:
        picture = draw_picture(height, width, is_deep, has_alpha, is_grey)
        tracemalloc.reset_peak()
        fake_super_resolution.enlarge(picture, options)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= network_bytes(ImageHeader(width, height, has_alpha, is_deep), options)
