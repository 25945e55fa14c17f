"""Formats that uploads can have, as people, HTTP and file systems name them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class InputFormat:
    """A format that uploads can have.

    Attributes
    ----------
    name : for people
    media_types : for HTTP
    endings : extensions of files, without the dot
    """

    name: str
    media_types: tuple[str, ...]
    endings: tuple[str, ...]


INPUT_FORMATS = (
    InputFormat("PNG", ("image/png",), ("png", "apng")),
    InputFormat("JPEG", ("image/jpeg",), ("jpg", "jpeg", "jpe", "jfif")),
    InputFormat("WebP", ("image/webp",), ("webp",)),
    InputFormat("TIFF", ("image/tiff",), ("tif", "tiff")),
    InputFormat("BMP", ("image/bmp",), ("bmp", "dib")),
    InputFormat("GIF", ("image/gif",), ("gif",)),
    InputFormat("AVIF", ("image/avif",), ("avif",)),
    InputFormat("HEIC", ("image/heic", "image/heif"), ("heic", "heif", "hif")),
)
INPUT_NAMES = ", ".join(each.name for each in INPUT_FORMATS)
