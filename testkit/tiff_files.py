"""TIFF files of every layout, written by tifffile from known samples."""

from collections.abc import Iterator
from io import BytesIO
from typing import Any, Literal

import numpy as np
import tifffile
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

# Compressions for which tifffile needs a package of 40 MB; Pillow has them.
BY_PILLOW = {"lzw": ("tiff_lzw", 5), "packbits": ("packbits", 32773)}
TILE = 16


def write_tiff(
    samples: np.ndarray,
    photometric: str,
    extra: tuple[str, ...] = (),
    *,
    planar: bool = False,
    compression: str | None = None,
    predictor: bool = False,
    tiled: bool = False,
    order: Literal["<", ">"] = "<",
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


def compress(
    chunk: np.ndarray, compression: str, predictor: bool, order: Literal["<", ">"]
) -> bytes:
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
