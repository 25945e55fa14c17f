"""Versions of the libraries that produce a result's bytes: other versions may produce others."""

import zlib
from importlib import import_module

import cv2
from PIL import features

# Bundled in Pillow's wheels. PNG results are compressed by Python's zlib, which is the system's.
PILLOW_PARTS = ("pil", "libjpeg_turbo", "zlib_ng", "webp", "avif", "libtiff", "littlecms2")


def list_libraries() -> tuple[str, ...]:
    """Return the name and version of each."""
    # libavif only packs what these code; one from a distribution may have others.
    av1 = import_module("PIL._avif").codec_versions() if features.check("avif") else "none"
    return (
        f"opencv {cv2.__version__}",
        f"zlib {zlib.ZLIB_RUNTIME_VERSION}",
        f"av1 {av1}",
        *(f"{part} {features.version(part)}" for part in PILLOW_PARTS),
    )
