"""Estimates the peak memory that an image needs, in bytes.

Measured on noise, which is incompressible, by `tests/integration/test_memory_estimate.py`.
"""

from superres.disk import MEGABYTE
from superres.images.formats import FORMATS
from superres.images.metadata import MAX_PROFILE_BYTES
from superres.images.options import DEFAULT_OPTIONS, MODEL_SCALE, Options
from superres.images.picture import ImageHeader
from superres.images.png_strips import STRIP_BYTES, count_threads
from superres.images.png_text import MAX_TEXT_BYTES
from superres.images.xmp_packet import MAX_KEPT_BYTES

# For a process that decodes or encodes the smallest image: interpreter, colour profiles, codecs.
PROCESS_BYTES = 12 * MEGABYTE
# Address space is not memory: what a process may reserve beyond what it is expected to use.
SLACK_BYTES = 24 * MEGABYTE
# For a header check, and copies of the file, of which some of Pillow's readers have three.
HEADER_BYTES, HEADER_COPIES = 16 * MEGABYTE, 3
# Of a file with megabytes of metadata, beside the pixels.
DECODER_COPIES = 3
# Per accepted pixel: Pillow fills a GIF's frame when it opens it; for WebP it reserves two
# canvases, which take no memory until they are drawn on.
GIF_FRAME_BYTES, WEBP_CANVAS_BYTES = 2, 8
# Per pixel of the upload, including the decoded image in shared memory.
DECODER_BYTES, DEEP_DECODER_BYTES = 32, 46
# The network's input and output; with transparency, also a second image's and float buffers.
NETWORK_BYTES, NETWORK_BYTES_WITH_ALPHA = 36, 76
# Per pixel of the upload and of the result, if resampled: includes Pillow's own planes.
RESIZED_BYTES = (24, 10)
# Per pixel of a 16-bit result.
DEEP_BYTES = 18
# Per pixel of a stored PNG that is read again, opaque and transparent, including its samples in
# shared memory; and of these samples alone.
STORED_BYTES, DEEP_STORED_BYTES = (8, 17), (25, 40)
SAMPLE_BYTES, DEEP_SAMPLE_BYTES = (3, 4), (9, 10)
# Per pixel of the result, opaque and transparent, where `Format.encoder_bytes` is too low.
LOSSLESS_WEBP_BYTES = (64, 66)
DEEP_PNG_BYTES = (10, 11)
# Of each strip of a PNG that is being compressed, and what zlib-ng takes.
STRIP_COPIES = 11
# Per pixel of the longer side: libaom keeps rows of superblocks, however short they are.
AVIF_SIDE_BYTES = 1700
# Of a result's metadata, and its most.
METADATA_COPIES = 4
MAX_METADATA_BYTES = MAX_PROFILE_BYTES + MAX_TEXT_BYTES + MAX_KEPT_BYTES


def header_bytes(start: bytes, file_bytes: int, max_pixels: int) -> int:
    """Return the memory that a header check may take.

    Parameters
    ----------
    start : the file's first bytes
    """
    frame = GIF_FRAME_BYTES * max_pixels if start.startswith(b"GIF") else 0
    return HEADER_BYTES + HEADER_COPIES * file_bytes + frame


def header_slack_bytes(start: bytes, max_pixels: int) -> int:
    """Return the address space that a header check may reserve beyond its memory."""
    return SLACK_BYTES + (WEBP_CANVAS_BYTES * max_pixels if start[8:12] == b"WEBP" else 0)


def decoding_bytes(header: ImageHeader, file_bytes: int) -> int:
    """Return the memory that decoding takes, including the decoded image."""
    per_pixel = DEEP_DECODER_BYTES if header.is_deep else DECODER_BYTES
    return PROCESS_BYTES + DECODER_COPIES * file_bytes + header.pixels * per_pixel


def encoding_bytes(
    width: int,
    height: int,
    options: Options,
    has_alpha: bool,
    is_deep: bool,
    metadata_bytes: int = 0,
) -> int:
    """Return the memory that encoding a result takes, including its pixels and its file."""
    fixed = PROCESS_BYTES + METADATA_COPIES * metadata_bytes
    per_pixel = FORMATS[options.format].encoder_bytes
    if options.format == "png":
        row_bytes = width * (4 if has_alpha else 3) * (2 if is_deep else 1)
        strips_bytes = count_threads() * max(STRIP_BYTES, row_bytes)
        fixed += STRIP_COPIES * min(strips_bytes, height * row_bytes)
        if is_deep:
            per_pixel = DEEP_PNG_BYTES
    elif options.format == "webp" and options.quality is None:
        per_pixel = LOSSLESS_WEBP_BYTES
    elif options.format == "avif":
        fixed += max(width, height) * AVIF_SIDE_BYTES
    return fixed + width * height * per_pixel[has_alpha]


def network_bytes(header: ImageHeader, options: Options) -> int:
    """Return the memory that upscaling takes, including the decoded image and the result."""
    per_pixel = NETWORK_BYTES_WITH_ALPHA if header.has_alpha else NETWORK_BYTES
    if header.is_deep:
        per_pixel += DEEP_BYTES * MODEL_SCALE**2
    return header.pixels * per_pixel + resampling_bytes(header, options)


def resampling_bytes(header: ImageHeader, options: Options) -> int:
    """Return the memory that a result's size takes, if it is not the network's own."""
    if options.scale == MODEL_SCALE:
        return 0
    width, height = options.result_size(header.width, header.height)
    per_pixel, per_result_pixel = RESIZED_BYTES
    if header.is_deep:
        per_result_pixel += DEEP_BYTES
    return header.pixels * per_pixel + width * height * per_result_pixel


def deriving_bytes(header: ImageHeader, options: Options, file_bytes: int) -> int:
    """Return the most memory that making a result from a stored PNG takes, until it is encoded.

    Parameters
    ----------
    header : of the upload
    file_bytes : of the PNG
    """
    pixels = header.pixels * MODEL_SCALE**2
    metadata = METADATA_COPIES * min(file_bytes, MAX_METADATA_BYTES)
    reading, samples = STORED_BYTES, SAMPLE_BYTES
    if header.is_deep:
        reading, samples = DEEP_STORED_BYTES, DEEP_SAMPLE_BYTES
    return max(
        PROCESS_BYTES + file_bytes + metadata + pixels * reading[header.has_alpha],
        pixels * samples[header.has_alpha] + resampling_bytes(header, options),
    )


def computing_bytes(header: ImageHeader, options: Options, file_bytes: int) -> int:
    """Return the most memory that an image takes until its result is computed."""
    return max(decoding_bytes(header, file_bytes), network_bytes(header, options))


def result_bytes(header: ImageHeader, options: Options, file_bytes: int) -> int:
    """Return the memory that encoding an upload's result takes: see `encoding_bytes`.

    Parameters
    ----------
    file_bytes : of the file that the metadata is from
    """
    shape = options.result_size(header.width, header.height)
    metadata_bytes = min(file_bytes, MAX_METADATA_BYTES)
    return encoding_bytes(*shape, options, header.has_alpha, header.is_deep, metadata_bytes)


def preview_bytes(header: ImageHeader, file_bytes: int) -> int:
    """Return the memory that a preview takes: decoded, and encoded beside that."""
    samples = DEEP_SAMPLE_BYTES if header.is_deep else SAMPLE_BYTES
    encoding = encoding_bytes(
        *(header.width, header.height, DEFAULT_OPTIONS, header.has_alpha),
        is_deep=False,
        metadata_bytes=min(file_bytes, MAX_PROFILE_BYTES),
    )
    decoded = header.pixels * samples[header.has_alpha]
    return max(decoding_bytes(header, file_bytes), decoded + encoding)


def peak_bytes(header: ImageHeader, options: Options, file_bytes: int) -> int:
    """Return the memory that an image takes at its peak, from its header to its result."""
    return max(
        computing_bytes(header, options, file_bytes), result_bytes(header, options, file_bytes)
    )
