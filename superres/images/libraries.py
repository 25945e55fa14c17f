"""The libraries that make a result's bytes, by version: another one may make others."""

import zlib

import cv2
from PIL import features

# Pillow's wheels bring these. PNG results are packed by Python's zlib, which is the system's.
PILLOW_PARTS = ("pil", "libjpeg_turbo", "zlib_ng", "webp", "avif", "libtiff", "littlecms2")


def list_libraries() -> tuple[str, ...]:
    """Return name and version of each."""
    return (
        f"opencv {cv2.__version__}",
        f"zlib {zlib.ZLIB_RUNTIME_VERSION}",
        *(f"{part} {features.version(part)}" for part in PILLOW_PARTS),
    )
