"""TIFF files of every layout, written by tifffile from known samples, and read by the service."""

from collections.abc import Iterator
from io import BytesIO
from typing import Any, Literal

import numpy as np
import tifffile
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile
from skimage import data as pictures

from superres.images.image_codec import decode_image, read_header
from superres.images.picture import Picture
from superres.images.resampling import to_levels

# Compressions for which tifffile needs a package of 40 MB; Pillow has them.
BY_PILLOW = {"lzw": ("tiff_lzw", 5), "packbits": ("packbits", 32773)}
TILE = 16
HEIGHT, WIDTH = 37, 45
PHOTO = pictures.astronaut()[60:132, 180:276]
ALPHA, ASSOCIATED, UNKNOWN = "unassalpha", "assocalpha", "unspecified"
PACKINGS = (
    *((None, False), ("zlib", False), ("zlib", True), ("lzw", False), ("lzw", True)),
    *(("packbits", False), ("lzma", True)),
)
Order = Literal["<", ">"]
Page = tuple[np.ndarray, dict[str, Any]]
COLOUR: dict[str, Any] = {"photometric": "rgb"}
ORDERS: tuple[tuple[Order, bool], ...] = (("<", False), (">", False), ("<", True), (">", True))


def write_tiff(
    samples: np.ndarray,
    photometric: str,
    extra: tuple[str, ...] = (),
    *,
    planar: bool = False,
    compression: str | None = None,
    predictor: bool = False,
    tiled: bool = False,
    order: Order = "<",
    big: bool = False,
    **others: Any,
) -> bytes:
    """Write a TIFF.

    Parameters
    ----------
    samples : (H, W, S) uint8 or uint16
    """
    buffer = BytesIO()
    data: Any = np.moveaxis(samples, 2, 0) if planar else samples
    if data.shape[0 if planar else -1] == 1:
        data, planar = samples[:, :, 0], False
    options: dict[str, Any] = {"photometric": photometric, "metadata": None}
    options |= {"extrasamples": extra} if extra else {}
    options |= {"planarconfig": "separate" if planar else "contig"} if data.ndim == 3 else {}
    options |= {"tile": (TILE, TILE)} if tiled else {"rowsperstrip": 7}
    options |= others
    options |= {"predictor": 2} if predictor else {}
    if compression in BY_PILLOW:
        options |= {"shape": data.shape, "dtype": data.dtype, "compression": "zlib"}
        chunks = split(data, planar, tiled)
        data = (compress(chunk, compression, predictor, order) for chunk in chunks)
    elif compression:
        options["compression"] = compression
    with tifffile.TiffWriter(buffer, byteorder=order, bigtiff=big) as writer:
        writer.write(data, **options)
    if compression in BY_PILLOW:
        buffer.seek(0)
        with tifffile.TiffFile(buffer, mode="r+") as reader:
            reader.pages.first.tags["Compression"].overwrite(BY_PILLOW[compression][1])
    return buffer.getvalue()


def write_pages(*pages: Page) -> bytes:
    """Write a TIFF of several directories, each with its options for tifffile."""
    buffer = BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        for pixels, options in pages:
            writer.write(pixels, metadata=None, **options)
    return buffer.getvalue()


def split(data: np.ndarray, planar: bool, tiled: bool) -> Iterator[np.ndarray]:
    """Yield strips or tiles in order, as (rows, columns, samples)."""
    planes = [plane[:, :, None] for plane in data] if planar else [np.atleast_3d(data)]
    for plane in planes:
        height, width = plane.shape[:2]
        if not tiled:
            yield from (plane[top : top + 7] for top in range(0, height, 7))
            continue
        padded = np.pad(plane, ((0, -height % TILE), (0, -width % TILE), (0, 0)))
        for top in range(0, height, TILE):
            for left in range(0, width, TILE):
                yield padded[top : top + TILE, left : left + TILE]


def compress(chunk: np.ndarray, compression: str, predictor: bool, order: Order) -> bytes:
    """Compress a strip or tile as a row of bytes with Pillow's libtiff."""
    if predictor:
        chunk = np.diff(chunk, axis=1, prepend=np.zeros_like(chunk[:, :1]))
    content = chunk.astype(chunk.dtype.newbyteorder(order)).tobytes()
    buffer = BytesIO()
    Image.frombytes("L", (len(content), 1), content).save(
        buffer, "TIFF", compression=BY_PILLOW[compression][0]
    )
    with TiffImageFile(BytesIO(buffer.getvalue())) as image:
        tags = image.tag_v2
        return buffer.getvalue()[tags[273][0] : tags[273][0] + tags[279][0]]


def draw(channels: int, dtype: type) -> np.ndarray:
    """Gradients, a different one for each sample, that use every bit."""
    row, column = np.mgrid[:HEIGHT, :WIDTH]
    slopes = [column * (each + 1) * 311 + row * (each + 2) * 177 for each in range(channels)]
    return (np.stack(slopes, 2) % (np.iinfo(dtype).max + 1)).astype(dtype)


def decode(content: bytes) -> Picture:
    """Decode an image, and check that its header agrees."""
    header, picture = read_header(BytesIO(content), 10**6), decode_image(BytesIO(content))
    assert (header.width, header.height) == picture.size
    assert header.has_alpha == (picture.alpha is not None)
    assert header.is_deep == (picture.deep is not None)
    return picture


def rgb_of(picture: Picture) -> np.ndarray:
    """Return (H, W, C): RGB or grey, in the decoded depth."""
    pixels = np.atleast_3d(picture.pixels if picture.deep is None else picture.deep)
    if picture.deep is not None:
        np.testing.assert_array_equal(np.atleast_3d(picture.pixels), to_levels(picture.deep))
    return pixels[:, :, ::-1]
