"""BMPs with bit masks for their samples: Pillow supports a handful of masks, this reads any."""

import struct
from typing import Any

import numpy as np
from PIL import Image, ImageFile

from superres.errors import UnsupportedVariant

FILE_HEADER_BYTES = 14
# Sizes of the headers that may have masks: Windows' version 3 (followed by the masks), 2 and 3 with
# masks, 4 and 5.
HEADERS = frozenset({40, 52, 56, 108, 124})
WITH_ALPHA_MASK = 56
MASKS_AT = 40
BITFIELDS, JPEG, PNG, ALPHA_BITFIELDS = 3, 4, 5, 6
METRES_AN_INCH = 0.0254
NAME = "BMP with masks"
DECODER = "bmp_masks"


class MaskedBmp(ImageFile.ImageFile):
    """A BMP of 16 or 32 bits per pixel with masks."""

    format = "BMP"
    format_description = "Windows bitmap with masks"

    def _open(self) -> None:
        assert self.fp is not None
        start = self.fp.read(FILE_HEADER_BYTES + 4)
        offset, size = struct.unpack_from("<II", start, FILE_HEADER_BYTES - 4)
        if size not in HEADERS:
            raise SyntaxError("no header with masks")
        header = start[FILE_HEADER_BYTES:] + self.fp.read(size - 4 + 16)
        width, height, _, bits, packing = struct.unpack_from("<iiHHI", header, 4)
        if packing in {JPEG, PNG}:
            raise UnsupportedVariant(
                "BMPs that contain a JPEG or PNG are not accepted; save it as JPEG or PNG."
            )
        if packing not in {BITFIELDS, ALPHA_BITFIELDS} or bits not in {16, 32}:
            raise SyntaxError("no masks")
        masks = list(struct.unpack_from("<4I", header, MASKS_AT))
        if size < WITH_ALPHA_MASK and packing != ALPHA_BITFIELDS:
            masks[3] = 0
        if not any(masks[:3]) or any(mask >> bits for mask in masks):
            raise SyntaxError("no masks that say anything")
        self._size = width, abs(height)
        self._mode = "RGBA" if masks[3] else "RGB"
        horizontal, vertical = struct.unpack_from("<ii", header, 24)
        if horizontal > 0 and vertical > 0:
            self.info["dpi"] = horizontal * METRES_AN_INCH, vertical * METRES_AN_INCH
        layout = (bits, tuple(masks), height > 0)
        self.tile = [ImageFile._Tile(DECODER, (0, 0, *self._size), offset, layout)]


# Number of pixels decoded at once.
BAND_PIXELS = 65_536


class MaskDecoder(ImageFile.PyDecoder):
    """Decodes masked pixels, a band of rows at a time."""

    _pulls_fd = True

    def decode(self, buffer: Any) -> tuple[int, int]:
        """Read all rows; see `PIL.ImageFile.PyDecoder`."""
        assert self.fd is not None
        bits, masks, is_upside_down = self.args
        width, height = self.state.xsize, self.state.ysize
        stride = row_bytes(width, bits)
        rows = np.zeros((height, width, 4 if masks[3] else 3), np.uint8)
        # Row by row would take seconds where rows are one pixel wide.
        step = max(BAND_PIXELS // width, 1)
        for first in range(0, height, step):
            count = min(step, height - first)
            data = self.fd.read(stride * count)
            if len(data) < stride * (count - 1) + width * bits // 8:
                raise OSError("the file is cut short")
            padded = np.frombuffer(data.ljust(stride * count, b"\0"), f"<u{bits // 8}")
            values = padded.reshape(count, -1)[:, :width]
            band = rows[height - first - count : height - first][::-1]
            target = band if is_upside_down else rows[first : first + count]
            for channel, mask in enumerate(masks[: rows.shape[2]]):
                target[:, :, channel] = read_samples(values, mask)
        self.set_as_raw(rows.tobytes())
        return -1, 0


def row_bytes(width: int, bits: int) -> int:
    """Return the number of bytes in a row: a multiple of four."""
    return (width * bits + 31) // 32 * 4


def read_samples(values: np.ndarray, mask: int) -> Any:
    """Return the samples under a mask, scaled to 8 bits; 0 if the mask is empty."""
    if mask == 0:
        return 0
    shift = (mask & -mask).bit_length() - 1
    greatest = mask >> shift
    samples = (values.astype(np.uint64) & mask) >> shift
    return (samples * 255 + greatest // 2) // greatest


def register() -> None:
    """Register the reader ahead of Pillow's own, which rejects such BMPs."""
    Image.register_open(NAME, MaskedBmp, lambda prefix: prefix.startswith(b"BM"))
    Image.register_decoder(DECODER, MaskDecoder)


register()
