"""Result formats: everything specific to each one except its encoder."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """A format that results can have.

    Attributes
    ----------
    name : what clients call it, and the extension of stored results
    media_type : for HTTP
    ending : extension of users' files; clients may call the format by this, too
    max_side : longest side in pixels that it, or its usual library, supports
    encoder_bytes : memory needed to encode a pixel of the result, opaque and transparent, with the
        result itself, which is given back as it is read, and its file included
        (`tests/integration/test_memory_estimate.py`)
    has_alpha : whether it supports transparency
    has_lossless : whether it can be lossless
    default_quality : from 1 to 100; None if it is always lossless
    """

    name: str
    media_type: str
    ending: str
    max_side: int
    encoder_bytes: tuple[int, int]
    has_alpha: bool = True
    has_lossless: bool = False
    default_quality: int | None = None


PNG = Format(
    name="png",
    media_type="image/png",
    ending="png",
    max_side=1_000_000,
    encoder_bytes=(4, 5),
    has_lossless=True,
)
WEBP = Format(
    name="webp",
    media_type="image/webp",
    ending="webp",
    max_side=16_383,
    encoder_bytes=(34, 56),
    has_lossless=True,
    default_quality=90,
)
JPEG = Format(
    name="jpeg",
    media_type="image/jpeg",
    ending="jpg",
    max_side=65_500,
    encoder_bytes=(6, 6),
    has_alpha=False,
    default_quality=92,
)
# libavif does not read longer sides.
AVIF = Format(
    name="avif",
    media_type="image/avif",
    ending="avif",
    max_side=32_768,
    encoder_bytes=(37, 47),
    default_quality=80,
)
FORMATS = {each.name: each for each in (PNG, WEBP, JPEG, AVIF)}


def find_format(text: str) -> Format | None:
    """Return the format with a given name or extension, or None."""
    return next((each for each in FORMATS.values() if text in {each.name, each.ending}), None)
