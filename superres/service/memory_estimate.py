"""What an image takes of the machine's memory at its peak, in bytes.

Measured on noise, which no decoder or encoder makes small, by
`tests/integration/test_memory_estimate.py`.
"""

from superres.images.formats import FORMATS
from superres.images.image_codec import ImageHeader
from superres.images.options import MODEL_SCALE, Options

MEGABYTE = 1024**2
# Of a process that decodes or encodes the smallest image: interpreter, colour profiles, codecs.
PROCESS_BYTES = 12 * MEGABYTE
# Address space is not memory: what such a process may reserve beyond what it is expected to fill.
SLACK_BYTES = 24 * MEGABYTE
# Of a header check, and for each byte of the file, which some of Pillow's readers have three times.
HEADER_BYTES, HEADER_COPIES = 16 * MEGABYTE, 3
# For each pixel that is accepted: Pillow fills a GIF's frame when it opens it; of WebP it reserves
# two canvases, which take no memory until they are drawn on.
GIF_FRAME_BYTES, WEBP_CANVAS_BYTES = 2, 8
# For each pixel of the upload, the decoded image in shared memory included.
DECODER_BYTES, DEEP_DECODER_BYTES = 32, 46
# The network's input and output, with transparency that of a second image and float buffers.
NETWORK_BYTES, NETWORK_BYTES_WITH_ALPHA = 36, 76
# For each pixel of the upload and of the result: resampled, Pillow's own planes included.
RESIZED_BYTES = (24, 10)
# For each pixel of a result of 16 bits.
DEEP_BYTES = 18
# For each pixel of the result, opaque and transparent, where `Format.encoder_bytes` is too little.
LOSSLESS_WEBP_BYTES = (64, 66)
DEEP_PNG_BYTES = (24, 39)


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
    """Return the memory that decoding takes, the decoded image included."""
    per_pixel = DEEP_DECODER_BYTES if header.is_deep else DECODER_BYTES
    return PROCESS_BYTES + 2 * file_bytes + header.pixels * per_pixel


def encoding_bytes(pixels: int, options: Options, has_alpha: bool, is_deep: bool) -> int:
    """Return the memory that encoding a result of so many pixels takes, both included."""
    per_pixel = FORMATS[options.format].encoder_bytes
    if options.format == "png" and is_deep:
        per_pixel = DEEP_PNG_BYTES
    elif options.format == "webp" and options.quality is None:
        per_pixel = LOSSLESS_WEBP_BYTES
    return PROCESS_BYTES + pixels * per_pixel[has_alpha]


def network_bytes(header: ImageHeader, options: Options) -> int:
    """Return the memory that enlarging takes, the decoded image and the result included."""
    width, height = options.result_size(header.width, header.height)
    per_pixel = NETWORK_BYTES_WITH_ALPHA if header.has_alpha else NETWORK_BYTES
    per_result_pixel = DEEP_BYTES if header.is_deep else 0
    if options.scale != MODEL_SCALE:
        per_pixel += RESIZED_BYTES[0]
        per_result_pixel += RESIZED_BYTES[1]
    return header.pixels * per_pixel + width * height * per_result_pixel


def computing_bytes(header: ImageHeader, options: Options, file_bytes: int) -> int:
    """Return the memory that an image takes at most until its result is computed."""
    return max(decoding_bytes(header, file_bytes), network_bytes(header, options))


def peak_bytes(header: ImageHeader, options: Options, file_bytes: int) -> int:
    """Return the memory that an image takes at its peak, from its header to its result."""
    width, height = options.result_size(header.width, header.height)
    return max(
        computing_bytes(header, options, file_bytes),
        encoding_bytes(width * height, options, header.has_alpha, header.is_deep),
    )
