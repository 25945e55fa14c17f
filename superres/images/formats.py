"""The formats of results: all that is particular to each, but for how it is encoded."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """A format that results can have.

    Attributes
    ----------
    name : what clients call it, and how a stored result's name ends
    media_type : of HTTP
    ending : of files for people; clients may call the format by this, too
    max_side : longest side in pixels that it, or its usual library, has
    encoder_bytes : memory that encoding takes for each pixel of the result, opaque and transparent,
        the result itself and its file included (`tests/integration/test_memory_estimate.py`)
    has_alpha : it has transparency
    has_lossless : it can be without loss
    default_quality : of 1 to 100; None where it is always without loss
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
    encoder_bytes=(9, 18),
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
    encoder_bytes=(9, 22),
    has_alpha=False,
    default_quality=92,
)
# libavif reads no longer side.
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
    """Return the format that has a name or an ending; None: there is none."""
    return next((each for each in FORMATS.values() if text in {each.name, each.ending}), None)
