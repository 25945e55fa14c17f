"""Versions of the libraries that produce a result's bytes: other versions may produce others."""

import zlib
from importlib import import_module

import cv2
import pi_heif
from PIL import features
from zlib_ng import zlib_ng

# Bundled in Pillow's wheels. Python's zlib, which is the system's, compresses metadata.
PILLOW_PARTS = ("pil", "libjpeg_turbo", "zlib_ng", "webp", "avif", "libtiff", "littlecms2")


def list_libraries() -> tuple[str, ...]:
    """Return the name and version of each."""
    # libavif only packs what these code; one from a distribution may have others.
    av1 = import_module("PIL._avif").codec_versions() if features.check("avif") else "none"
    hevc = ", ".join(pi_heif.libheif_info()["decoders"].values())
    return (
        f"opencv {cv2.__version__}",
        f"zlib {zlib.ZLIB_RUNTIME_VERSION}",
        f"zlib-ng {zlib_ng.ZLIBNG_RUNTIME_VERSION}",
        f"av1 {av1}",
        f"heif {pi_heif.libheif_version()}, {hevc}",
        *(f"{part} {features.version(part)}" for part in PILLOW_PARTS),
    )
