"""Opens HEIC files: HEVC-coded images in HEIF containers, as phones take them.

libheif (in pi-heif) decodes them: the primary image, of however many there are; its tiles are put
together, and it is cropped, turned and mirrored as the container says. An orientation in EXIF
repeats that, and does not count (ISO/IEC 23008-12, A.2.1 and 6.5.10).
"""

from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pi_heif
from PIL import Image

from superres.errors import UndecodableImage, UnsupportedVariant
from superres.images.cut_files import IS_DAMAGED, explain_cut
from superres.images.file_kinds import CONVERT
from superres.images.heif_boxes import MAX_ITEMS, DamagedBoxes, Items, find_box, read_items
from superres.images.pixels import DeepPixels, Pixels
from superres.images.tiff_samples import divide, to_bytes

NAME = "HEIF"
HEVC = frozenset({b"hvc1", b"hev1"})
OTHERS = {
    b"av01": "an AV1 image",
    b"avc1": "an H.264 image",
    b"iovl": "an overlay of several images",
    b"j2k1": "a JPEG 2000 image",
    b"jpeg": "a JPEG image",
    b"unci": "an uncompressed image",
    b"vvc1": "a VVC image",
}
SEQUENCE = (
    "A HEIF file with an image sequence or a video, without a still image, is not accepted; save "
    "one frame of it as PNG."
)
# Tiles extend past the edges of small images; their pixels are decoded one tile at a time.
MOST_TILED, FREE_PIXELS = 4, 2**20
WHITE_BITS = 16
BLOCK_SAMPLES = 2**16
Info = dict[str | tuple[int, int], Any]
# What libheif raises by way of pi-heif for damaged files.
ERRORS = (RuntimeError, ValueError, EOFError, SyntaxError)

# A thread per tile would take a stack's memory each; thumbnails, depth and gain maps are not used.
pi_heif.options.DECODE_THREADS = 0
pi_heif.options.THUMBNAILS = False
pi_heif.options.DEPTH_IMAGES = False
pi_heif.options.AUX_IMAGES = False


class HeifHeader(Image.Image):
    """A file's size and metadata under Pillow's names, without pixels."""

    format = NAME

    def __init__(self, size: tuple[int, int], info: Info) -> None:
        super().__init__()
        self._mode, self._size, self.info = "RGB", size, info


@dataclass(frozen=True)
class HeifSamples:
    """An image's samples, to be decoded by libheif.

    Attributes
    ----------
    file : as uploaded
    image : as opened by pi-heif
    """

    file: BinaryIO
    image: pi_heif.HeifImage
    keeps_profile = True

    @property
    def bits(self) -> int:
        """Bits per sample, 8 to 16."""
        return int(self.image.info["bit_depth"])

    @property
    def is_grey(self) -> bool:
        """Whether there is one colour sample per pixel: pi-heif names no subsampling then."""
        return "chroma" not in self.image.info

    @property
    def code_points(self) -> tuple[int, int] | None:
        """Primaries and transfer (ITU-T H.273), if the file states them instead of a profile."""
        said = self.image.info.get("nclx_profile")
        return (said["color_primaries"], said["transfer_characteristics"]) if said else None

    @property
    def has_alpha(self) -> bool:
        """Whether there is transparency."""
        return bool(self.image.has_alpha)

    @property
    def is_deep(self) -> bool:
        """Whether there are more than 8 bits per sample."""
        return self.bits > 8

    def read(self, _profile: bytes | None) -> tuple[Pixels, Pixels | None, DeepPixels | None]:
        """Decode the samples.

        Returns
        -------
        pixels, alpha and deep, as in `picture.Picture`

        Raises
        ------
        UndecodableImage
            They are damaged or cut short.
        """
        try:
            samples = np.atleast_3d(np.asarray(self.image))
        except ERRORS:
            raise UndecodableImage(explain_cut(self.file, None) or IS_DAMAGED) from None
        height, width = samples.shape[:2]
        colours = 1 if self.is_grey else 3
        pixels = np.empty((height, width, colours), np.uint8)
        deep = np.empty((height, width, colours), np.uint16) if self.is_deep else None
        alpha = np.empty((height, width), np.uint8) if self.has_alpha else None
        step = max(1, BLOCK_SAMPLES // width)
        for top in range(0, height, step):
            rows = slice(top, top + step)
            block = widen(samples[rows], self.bits) if self.is_deep else samples[rows]
            part = block[:, :, :colours]
            if alpha is not None:
                opacity = block[:, :, -1]
                alpha[rows] = to_bytes(opacity)
                if self.image.premultiplied_alpha:
                    part = divide(part, opacity, is_lab=False)
            if deep is not None:
                deep[rows] = part
            pixels[rows] = to_bytes(part)
        return pixels[:, :, 0] if self.is_grey else pixels, alpha, deep


def widen(samples: npt.NDArray[np.uint16], bits: int) -> DeepPixels:
    """Scale samples of 9 to 15 bits to 16, so that white stays white: repeat their first bits."""
    missing = WHITE_BITS - bits
    return np.asarray((samples << missing) | (samples >> (bits - missing)), np.uint16)


def open_heif(file: BinaryIO) -> tuple[Image.Image, HeifSamples]:
    """Open a file's primary image; nothing is decoded yet.

    Returns
    -------
    its upright size and its metadata, and its samples

    Raises
    ------
    UnsupportedVariant
        It has no still image, or one that is not coded as HEVC.
    UndecodableImage
        Its tiles do not match its size.
    ValueError, RuntimeError, and anything else that `picture_file.DECODER_ERRORS` lists
        It is damaged.
    """
    items = read_items(file)
    if items is None:
        if find_box(file, b"moov") is not None:
            raise UnsupportedVariant(SEQUENCE)
        raise DamagedBoxes("no image")
    check_items(items)
    file.seek(0)
    opened = pi_heif.HeifFile(file, convert_hdr_to_8bit=False, bgr_mode=True, hdr_to_16bit=False)
    image = opened[opened.primary_index]
    if not image.info["primary"]:
        raise DamagedBoxes("libheif does not know the primary image")
    samples = HeifSamples(file, image)
    names = ("exif", "xmp", "icc_profile")
    info: Info = {name: image.info[name] for name in names if image.info.get(name)}
    return HeifHeader(image.size, info), samples


def check_items(items: Items) -> None:
    """Reject what libheif cannot decode here, or not with the memory that the size suggests.

    libheif itself compares each coded image with the size that the container states for it.

    Raises
    ------
    UnsupportedVariant, UndecodableImage
        As `open_heif`.
    """
    width, height = items.by_number[items.primary].size
    for number in (items.primary, *items.find_alpha()):
        room = MOST_TILED * width * height + FREE_PIXELS
        for count, item in enumerate(items.coded(number)):
            if item.kind not in HEVC:
                content = OTHERS.get(item.kind, "an image of an unknown kind")
                raise UnsupportedVariant(
                    f"A HEIF file with {content} in it is not accepted; {CONVERT}."
                )
            columns, rows = item.size
            room -= columns * rows
            if room < 0 or count >= MAX_ITEMS:
                raise UndecodableImage(
                    "The image's tiles are larger, or more, than an image of its size needs."
                )
