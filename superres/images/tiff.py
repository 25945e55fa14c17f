"""Opens a TIFF: Pillow reads some layouts; the others are assembled from what Pillow can read.

Pillow supports a list of layouts; it reads planar 16 bits with wrong colours, and Lab, 16-bit CMYK
and 16-bit grey with alpha not at all. But its libtiff supports the compressions. So Pillow reads
whole-byte samples as rows of grey, just as they are stored, and `tiff_samples.py` assembles them.
"""

import shutil
from collections.abc import Iterator
from io import BytesIO
from typing import BinaryIO

import numpy as np
from PIL import Image, ImagePalette, UnidentifiedImageError

from superres.errors import UndecodableImage
from superres.images.cut_files import IS_DAMAGED, PICTURE, cut_words
from superres.images.exif import MAX_EXIF_BYTES
from superres.images.raw_files import refuse_raw
from superres.images.tiff_directory import (
    LONG8_TYPES,
    Directory,
    Entry,
    Form,
    Values,
    encode_directory,
    find_picture,
    keep_entry,
    make_entry,
)
from superres.images.tiff_layout import (
    BITS,
    BLACK_IS_ZERO,
    COLOURS,
    COMPRESSION,
    HEIGHT,
    LAYOUT_TAGS,
    PHOTOMETRIC,
    SAMPLES,
    STRIP_BYTES,
    STRIP_OFFSETS,
    STRIP_ROWS,
    TILE_BYTES,
    TILE_HEIGHT,
    TILE_OFFSETS,
    TILE_WIDTH,
    UNCOMPRESSED,
    WIDTH,
    Layout,
    chunk_bytes,
    count_chunks,
    read_layout,
    refuse_layout,
)
from superres.images.tiff_samples import TiffSamples

PROFILE = 34675
EIGHT_BITS = 256
Numbers = dict[int, Values | int]


def open_tiff(file: BinaryIO, form: Form) -> tuple[Image.Image, TiffSamples | None]:
    """Open a TIFF's only image.

    Returns
    -------
    the image as read by Pillow, and None; or one of the same size and metadata without its
    pixels, and the samples

    Raises
    ------
    UnsupportedUpload, UndecodableImage
        As `find_picture`, `refuse_raw` and `read_layout`.
    ValueError, SyntaxError, and anything else that Pillow raises
        The header is damaged.
    """
    directory = find_picture(file, form)
    refuse_raw(directory)
    layout = read_layout(directory)
    if layout.is_bytewise:
        samples = rewrite(file, directory, layout)
        return open_with_pillow(samples.file, layout), samples
    if layout.is_misread:
        raise refuse_layout(layout)
    content = copy_file(file)
    if readable_form(form) == form:
        content.write(form.start(directory.offset))
    else:
        write_small_directory(content, directory)
    image = open_with_pillow(content, layout)
    colours = directory.values(COLOURS)
    # Old writers use 8-bit colours, as libtiff knows; Pillow always divides by 256.
    if image.mode in {"P", "PA"} and (colours < EIGHT_BITS).all():
        image.palette = ImagePalette.raw("RGB;L", colours.astype(np.uint8).tobytes())
    return image, None


def readable_form(form: Form) -> Form:
    """Return a form that Pillow reads: it does not recognize big-endian BigTIFFs."""
    return Form(form.order, form.is_big and form.order == "<")


def write_small_directory(copy: BytesIO, directory: Directory) -> None:
    """Make a copy of a BigTIFF start with the same directory in classic TIFF form."""
    form = readable_form(directory.form)
    entries = [
        make_entry(int(entry["tag"]), directory.values(entry["tag"]), form)
        if entry["type"] in LONG8_TYPES
        else keep_entry(entry, directory.form, form)
        for entry in directory.entries
    ]
    offset = copy.seek(0, 2)
    copy.write(encode_directory(form, entries, offset))
    copy.seek(0)
    copy.write(form.start(offset))


def open_with_pillow(file: BinaryIO, layout: Layout) -> Image.Image:
    """Open a TIFF whose first directory is the image."""
    try:
        return Image.open(file, formats=("TIFF",))
    except UnidentifiedImageError:
        raise refuse_layout(layout) from None


def rewrite(file: BinaryIO, directory: Directory, layout: Layout) -> TiffSamples:
    """Copy a TIFF and give the copy directories that Pillow can open.

    The first directory has the image's size and all its metadata. Nothing points to the others:
    one for each plane, or one for all samples, read as rows of single samples. They have no
    predictor: it would have to know which samples are neighbours.
    """
    form = readable_form(directory.form)
    length = file.seek(0, 2)
    copy = copy_file(file)
    copy.write(form.start(length))
    copy.seek(length)
    basis: Numbers = {HEIGHT: layout.height, PHOTOMETRIC: BLACK_IS_ZERO, SAMPLES: 1}
    picture: Numbers = {WIDTH: layout.width, BITS: 8, COMPRESSION: UNCOMPRESSED, STRIP_OFFSETS: 0}
    entries = make_entries(basis | picture, form)
    entries += keep_metadata(directory, form)
    copy.write(encode_directory(form, entries, length))
    planes, samples = (layout.samples, 1) if layout.is_planar else (1, layout.samples)
    basis |= {BITS: layout.bits[0], COMPRESSION: layout.compression, WIDTH: layout.width * samples}
    pages = []
    for chunks in find_chunks(directory, layout, planes, length):
        pages.append(copy.tell())
        entries = make_entries(basis | describe_chunks(layout, *chunks, samples), form)
        copy.write(encode_directory(form, entries, copy.tell()))
    return TiffSamples(layout, copy, [form.start(page) for page in pages])


def copy_file(file: BinaryIO) -> BytesIO:
    """Return a writable copy without holding the file in memory twice."""
    copy = BytesIO()
    file.seek(0)
    shutil.copyfileobj(file, copy)
    copy.seek(0)
    return copy


def keep_metadata(directory: Directory, form: Form) -> list[Entry]:
    """Return the entries that a result may need; editors' layers take megabytes."""
    tags = directory.entries["tag"]
    entries = (
        keep_entry(entry, directory.form, form)
        for entry in directory.entries[~np.isin(tags, LAYOUT_TAGS)]
    )
    return [each for each in entries if each.tag == PROFILE or each.length <= MAX_EXIF_BYTES]


def make_entries(numbers: Numbers, form: Form) -> list[Entry]:
    """Make a directory's entries."""
    return [make_entry(tag, number, form) for tag, number in numbers.items()]


def describe_chunks(layout: Layout, offsets: Values, lengths: Values, samples: int) -> Numbers:
    """Return the entries of a plane's strips or tiles."""
    width, height = layout.chunk
    if layout.is_tiled:
        tile: Numbers = {TILE_WIDTH: width * samples, TILE_HEIGHT: height}
        return tile | {TILE_OFFSETS: offsets, TILE_BYTES: lengths}
    return {STRIP_ROWS: height, STRIP_OFFSETS: offsets, STRIP_BYTES: lengths}


def find_chunks(
    directory: Directory, layout: Layout, planes: int, file_bytes: int
) -> Iterator[tuple[Values, Values]]:
    """Yield the offsets and lengths of each plane's strips or tiles.

    Raises
    ------
    UndecodableImage
        Some are missing, or lie outside the file.
    """
    tags = (TILE_OFFSETS, TILE_BYTES) if layout.is_tiled else (STRIP_OFFSETS, STRIP_BYTES)
    shape = planes, count_chunks(layout)
    count = shape[0] * shape[1]
    offsets, lengths = (directory.values(tag).astype(np.uint64)[:count] for tag in tags)
    if len(offsets) < count:
        raise UndecodableImage(IS_DAMAGED)
    if (offsets >= file_bytes).any():
        raise UndecodableImage(cut_words(PICTURE, float((offsets < file_bytes).mean())))
    rest = file_bytes - offsets
    if layout.compression == UNCOMPRESSED:
        lengths = np.tile(chunk_bytes(layout), planes).astype(np.uint64)
        if (lengths > rest).any():
            share = np.minimum(lengths, rest).sum() / lengths.sum()
            raise UndecodableImage(cut_words(PICTURE, float(share)))
    elif len(lengths) < count:
        lengths = rest
    else:
        lengths = np.where(lengths > 0, np.minimum(lengths, rest), rest)
    yield from zip(offsets.reshape(shape), lengths.reshape(shape), strict=True)
