"""Versions of the libraries that produce a result's bytes: other versions may produce others."""

import zlib

import cv2
from PIL import _avif, features

# Bundled in Pillow's wheels. PNG results are compressed by Python's zlib, which is the system's.
PILLOW_PARTS = ("pil", "libjpeg_turbo", "zlib_ng", "webp", "avif", "libtiff", "littlecms2")


def list_libraries() -> tuple[str, ...]:
    """Return the name and version of each."""
    return (
        f"opencv {cv2.__version__}",
        f"zlib {zlib.ZLIB_RUNTIME_VERSION}",
        # libavif only packs what these code; one from a distribution may have others.
        f"av1 {_avif.codec_versions()}",
        *(f"{part} {features.version(part)}" for part in PILLOW_PARTS),
    )
