"""Finds the metadata in an opened image, wherever its format has it, and keeps what may be kept."""

import contextlib

from PIL import Image

from superres.images.exif import IPTC_TAG, PHOTOSHOP_TAG, XMP_TAG, read_exif
from superres.images.iptc import join_segments, keep_iptc
from superres.images.metadata import Metadata, read_dpi
from superres.images.picture_file import PictureFile
from superres.images.png_file import make_chunk
from superres.images.png_text import (
    COMMENT,
    MAX_WORDS_BYTES,
    XMP_KEYWORD,
    Text,
    find_raw_profile,
    find_text,
    keep_texts,
    make_text,
)
from superres.images.tiff_directory import Directory, find_picture, read_form
from superres.images.xmp import EXTENSION, XMP_AS_FOUND, join_extension, keep_xmp
from superres.images.xmp_packet import MAX_PACKET_BYTES


def read_metadata(opened: PictureFile, keep: str) -> Metadata:
    """Return an image's metadata for the result, without its profile.

    Parameters
    ----------
    keep : "all" except what would be wrong in the result; "safe": who made the image, with what and
        how, but no place, person's contact, identifier or serial number; or "none"
    """
    image = opened.image
    if keep == "none":
        return Metadata(dpi=read_dpi(image))
    texts = [] if opened.png is None else opened.png.texts
    form = read_form(opened.file)
    # Not through Pillow, which takes the first of several numbers for all of IPTC.
    directory = None if form is None else find_picture(opened.file, form)
    xmp, iptc = find_xmp(image, texts, directory), find_iptc(image, texts, directory)
    return Metadata(
        exif=read_exif(image, keep),
        dpi=read_dpi(image),
        xmp=keep_xmp(xmp, keep),
        iptc=keep_iptc(iptc, keep),
        texts=join_texts(texts + read_comment(image), keep),
    )


def join_texts(texts: list[Text], keep: str) -> bytes | None:
    """Return the text chunks for the result, as in its file: see `keep_texts`."""
    return b"".join(make_chunk(*text) for text in keep_texts(texts, keep)) or None


def find_xmp(image: Image.Image, texts: list[Text], directory: Directory | None) -> list[bytes]:
    """Return an image's XMP packets: the main one, and its extension in JPEG."""
    if directory is not None:
        return [read_tag(directory, XMP_TAG)]
    main = image.info.get(XMP_AS_FOUND)
    if main is None:
        main = find_text(texts, XMP_KEYWORD, MAX_PACKET_BYTES) or find_raw_profile(texts, b"xmp")
    if main is None:
        return []
    segments = (content for _, content in getattr(image, "applist", ()))
    extension = join_extension(main, (each for each in segments if each.startswith(EXTENSION)))
    return [main] if extension is None else [main, extension]


def find_iptc(image: Image.Image, texts: list[Text], directory: Directory | None) -> bytes:
    """Return an image's IPTC, or Photoshop's resources that may contain it."""
    if directory is not None:
        return read_tag(directory, IPTC_TAG) or read_tag(directory, PHOTOSHOP_TAG)
    segments = (content for name, content in getattr(image, "applist", ()) if name == "APP13")
    return join_segments(segments) or find_raw_profile(texts, b"iptc", b"8bim") or b""


def read_tag(directory: Directory, tag: int) -> bytes:
    """Return a TIFF tag's value; empty if there is none, or the file ends before it."""
    with contextlib.suppress(ValueError):
        return directory.content(tag)
    return b""


def read_comment(image: Image.Image) -> list[Text]:
    """Return the comment of a JPEG or GIF as a text, unless it is too long to be written again.

    Of several in a JPEG it is the first, as in exiftool; Pillow's is the last.
    """
    found = [content for name, content in getattr(image, "applist", ()) if name == "COM"]
    found.append(image.info.get("comment", b""))
    comment = next(filter(None, (each.rstrip(b"\0") for each in found)), b"")
    if not 0 < len(comment) <= MAX_WORDS_BYTES:
        return []
    try:
        return [make_text(COMMENT, comment.decode())]
    except UnicodeDecodeError:
        return [make_text(COMMENT, comment.decode("latin-1"))]
