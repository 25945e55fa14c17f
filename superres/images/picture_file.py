"""Prepares an image file for Pillow: removes what would make it reject a good image."""

import contextlib
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from superres.errors import UndecodableImage, UnsupportedUpload
from superres.images import bmp_masks
from superres.images.colour_signals import (
    ColourSignal,
    read_avif_signal,
    read_code_points,
    read_png_signal,
)
from superres.images.cut_files import IS_DAMAGED, complete_webp, explain_cut
from superres.images.file_kinds import (
    START_BYTES,
    explain_kind,
    find_accepted,
    find_kind,
    is_heif,
)
from superres.images.gif_file import complete_gif, find_gif_xmp
from superres.images.heif_file import HeifSamples, open_heif
from superres.images.jpeg_file import JpegFile, check_complete, complete_jpeg, read_jpeg
from superres.images.png_file import HEADER_IS_DAMAGED, SIGNATURE, PngFile, missing_share, read_png
from superres.images.tiff import open_tiff
from superres.images.tiff_directory import Form
from superres.images.tiff_samples import TiffSamples
from superres.images.xmp import XMP_AS_FOUND, set_xmp_aside

ACCEPTED_FORMATS = ("PNG", "JPEG", "WEBP", bmp_masks.NAME, "BMP", "GIF", "AVIF")
JPEG_START = b"\xff\xd8\xff"
# What Pillow's decoders raise for damaged files, each observed or documented.
DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    RuntimeError,
    EOFError,
    struct.error,
    zlib.error,
)


@contextlib.contextmanager
def translate_decoder_errors(
    message: str, file: BinaryIO | None = None, image: Image.Image | None = None
) -> Iterator[None]:
    """Translate what a decoder raises for damaged files into UndecodableImage.

    Parameters
    ----------
    file, image : if given, the file is searched for a better message: see `explain_damage`
    """
    try:
        yield
    except DECODER_ERRORS as error:
        if is_fault_of_machine(error):
            raise
        words = message if file is None else explain_damage(file, image, message)
        raise UndecodableImage(words) from None


def is_fault_of_machine(error: Exception) -> bool:
    """Tell whether reading the file failed, rather than decoding it."""
    return isinstance(error, OSError) and error.errno is not None


@dataclass(frozen=True)
class PictureFile:
    """An image whose header was read.

    Attributes
    ----------
    file : the file that Pillow reads, which may differ from the upload
    image : as opened by Pillow
    png, jpeg : further information on these formats
    samples : a TIFF's or HEIC's samples, if Pillow cannot read them
    signal : what it says of its colours beside a profile
    """

    file: BinaryIO
    image: Image.Image
    png: PngFile | None = None
    jpeg: JpegFile | None = None
    samples: TiffSamples | HeifSamples | None = None
    signal: ColourSignal | None = None

    def load(self) -> None:
        """Decode the pixels.

        Raises
        ------
        UndecodableImage
            They are damaged or incomplete.
        """
        with translate_decoder_errors(IS_DAMAGED, self.file, self.image):
            self.image.load()
        if self.jpeg is not None:
            check_complete(self.image, self.file, self.jpeg)
        if self.png is not None:
            # If the compressed pixels end too early, Pillow leaves the rest black.
            with contextlib.suppress(zlib.error):
                if missing_share(self.file) > 0:
                    raise UndecodableImage(explain_damage(self.file, self.image, IS_DAMAGED))


def open_picture(file: BinaryIO, with_pixels: bool) -> PictureFile:
    """Read an image's header.

    Parameters
    ----------
    with_pixels : whether the pixels will be decoded, too: then a missing end is repaired

    Raises
    ------
    UnsupportedUpload
        The format is not supported.
    UndecodableImage
        A supported format with a damaged header.
    """
    file.seek(0)
    start = file.read(START_BYTES)
    # Pillow's AVIF reader mistakes videos for damaged AVIF.
    if start[4:8] == b"ftyp" and find_kind(start) is not None:
        raise UnsupportedUpload(explain_kind(start))
    if is_heif(start):
        return open_heif_picture(file)
    png = jpeg = None
    with translate_decoder_errors(HEADER_IS_DAMAGED):
        if start.startswith(SIGNATURE):
            png = read_png(file)
            file = png.file
        elif start.startswith(JPEG_START) and with_pixels:
            file.seek(0)
            jpeg = read_jpeg(file.read())
            file = complete_jpeg(file, jpeg)
        elif start.startswith(b"GIF8") and with_pixels:
            file = complete_gif(file)
        elif start.startswith(b"RIFF") and start[8:12] == b"WEBP":
            file = complete_webp(file)
    image = identify(file, start)
    signal = None
    if png is not None:
        image.info.update(png.info)
        signal = read_png_signal(png.colours)
    elif image.format == "AVIF":
        with contextlib.suppress(*DECODER_ERRORS):
            signal = read_avif_signal(file)
    set_xmp_aside(image)
    if image.format == "GIF" and with_pixels:
        image.info[XMP_AS_FOUND] = find_gif_xmp(file)
    return PictureFile(file, image, png, jpeg, signal=signal)


def open_tiff_picture(file: BinaryIO, form: Form) -> PictureFile:
    """Read a TIFF's header.

    Raises
    ------
    UnsupportedUpload, UndecodableImage
        As `open_tiff`.
    """
    with translate_decoder_errors(HEADER_IS_DAMAGED, file):
        image, samples = open_tiff(file, form)
    set_xmp_aside(image)
    return PictureFile(file, image, samples=samples)


def open_heif_picture(file: BinaryIO) -> PictureFile:
    """Read a HEIC's header.

    Raises
    ------
    UnsupportedUpload, UndecodableImage
        As `open_heif`.
    """
    with translate_decoder_errors(HEADER_IS_DAMAGED, file):
        image, samples = open_heif(file)
    set_xmp_aside(image)
    signal = None if samples.code_points is None else read_code_points(*samples.code_points)
    return PictureFile(file, image, samples=samples, signal=signal)


def identify(file: BinaryIO, start: bytes) -> Image.Image:
    """Let Pillow open a file, or say why it cannot.

    Parameters
    ----------
    start : the file's first `START_BYTES`
    """
    file.seek(0)
    try:
        return Image.open(file, formats=ACCEPTED_FORMATS)
    except DECODER_ERRORS as error:
        if is_fault_of_machine(error):
            raise
        accepted = find_accepted(start)
        if accepted is None and isinstance(error, UnidentifiedImageError):
            raise UnsupportedUpload(explain_kind(start)) from None
        message = HEADER_IS_DAMAGED
        if accepted is not None:
            message = (
                f"The file starts like {accepted}, but its header is damaged, cut short, or of an "
                "unsupported kind."
            )
        raise UndecodableImage(explain_damage(file, None, message)) from None


def explain_damage(file: BinaryIO, image: Image.Image | None, otherwise: str) -> str:
    """Return what is wrong with a file that cannot be decoded.

    Raises
    ------
    UnsupportedUpload
        It is an unsupported kind of JPEG.
    """
    with contextlib.suppress(*DECODER_ERRORS):
        file.seek(0)
        if file.read(len(JPEG_START)) == JPEG_START:
            file.seek(0)
            read_jpeg(file.read())
        return explain_cut(file, image) or otherwise
    return otherwise
