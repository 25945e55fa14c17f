"""From a TIFF's samples to pixels: planes, predictors, transparency, CMYK and Lab."""

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from superres.images.metadata import convert_to_srgb
from superres.images.pixels import DeepPixels, Pixels
from superres.images.resampling import to_levels
from superres.images.tiff_layout import CMYK, HORIZONTAL, LAB, WHITE_IS_ZERO, Layout

Samples = npt.NDArray[Any]
# Per block of rows: keeps the floating-point intermediates small compared with the image.
BLOCK_SAMPLES = 2**16
# The D50 white point, to which Lab refers, and the matrix from its XYZ to linear sRGB: Bradford's
# matrix times that of IEC 61966-2-1, as in the sRGB profile.
D50_WHITE = np.array([0.96422, 1.0, 0.82521])
XYZ_TO_SRGB = np.array(
    [
        [3.1338561, -1.6168667, -0.4906146],
        [-0.9787684, 1.9161415, 0.0334540],
        [0.0719453, -0.2289914, 1.4052427],
    ]
)
LAB_KNEE = 6 / 29


@dataclass(frozen=True)
class TiffSamples:
    """A TIFF's samples, to be read from a copy made by `tiff.rewrite`.

    Attributes
    ----------
    file : the copy
    starts : headers that make Pillow see each page of samples in the copy
    """

    layout: Layout
    file: BytesIO
    starts: list[bytes]

    @property
    def has_alpha(self) -> bool:
        """Whether there is transparency."""
        return self.layout.alpha is not None

    @property
    def is_deep(self) -> bool:
        """Whether there are 16 bits per sample."""
        return self.layout.is_deep

    @property
    def keeps_profile(self) -> bool:
        """Whether the file's colour profile still applies to the pixels."""
        return self.layout.photometric not in {CMYK, LAB}

    def read(self, profile: bytes | None) -> tuple[Pixels, Pixels | None, DeepPixels | None]:
        """Decode the samples.

        Parameters
        ----------
        profile : the file's colour profile, if valid

        Returns
        -------
        pixels, alpha and deep, as in `picture.Picture`, EXIF orientation not applied

        Raises
        ------
        OSError, ValueError, and anything else that Pillow raises
            The file is damaged.
        """
        layout = self.layout
        shape = layout.height, layout.width
        # The colour engine converts 8 bits to RGB; 16-bit Lab is converted here.
        for_engine = layout.photometric in {CMYK, LAB} and not layout.is_deep
        pixels = np.empty((*shape, layout.colours), np.uint8)
        deep = np.empty((*shape, layout.colours), np.uint16) if layout.is_deep else None
        alpha = None if layout.alpha is None else np.empty(shape, np.uint8)
        for rows, block in self.read_blocks():
            colours = separate(block, layout)
            if layout.alpha is not None and alpha is not None:
                alpha[rows] = to_bytes(block[:, :, layout.alpha])
            if layout.photometric == LAB and deep is not None:
                colours = lab_to_srgb(colours)
            if not for_engine:
                colours = colours[:, :, ::-1]  # BGR
            if deep is not None:
                deep[rows] = colours
            pixels[rows] = to_bytes(colours)
        if for_engine:
            pixels = convert(pixels, "CMYK" if layout.photometric == CMYK else "LAB", profile)
        return pixels[:, :, 0] if layout.colours == 1 else pixels, alpha, deep

    def read_blocks(self) -> Iterator[tuple[slice, Samples]]:
        """Yield rows with their samples, (rows, width, samples), in the machine's byte order."""
        layout = self.layout
        last = layout.colours if layout.alpha is None else layout.alpha + 1
        wanted = self.starts[:last] if layout.is_planar else self.starts
        planes = [read_page(self.file, start) for start in wanted]
        width = planes[0].width
        step = max(1, BLOCK_SAMPLES // (width * len(planes)))
        for top in range(0, layout.height, step):
            rows = slice(top, min(top + step, layout.height))
            crops = [np.asarray(plane.crop((0, top, width, rows.stop))) for plane in planes]
            block = np.stack(crops, axis=2) if layout.is_planar else crops[0]
            block = block.reshape(
                -1, layout.width, len(crops) if layout.is_planar else layout.samples
            )
            block = block.astype(block.dtype.newbyteorder("="))
            if layout.predictor == HORIZONTAL:
                undo_differences(block, layout.chunk[0])
            yield rows, block


def read_page(file: BytesIO, start: bytes) -> Image.Image:
    """Decode one of the pages added by `tiff.rewrite`."""
    file.seek(0)
    file.write(start)
    image = Image.open(file, formats=("TIFF",))
    image.load()
    return image


def undo_differences(block: Samples, tile_width: int) -> None:
    """Undo the horizontal predictor in place: samples are differences to their left neighbours."""
    for left in range(0, block.shape[1], tile_width):
        part = block[:, left : left + tile_width]
        np.add.accumulate(part, axis=1, dtype=part.dtype, out=part)


def separate(block: Samples, layout: Layout) -> Samples:
    """Return a block's colours, not premultiplied, with the maximum being white."""
    colours = block[:, :, : layout.colours]
    if layout.alpha is not None and layout.is_associated:
        colours = divide(colours, block[:, :, layout.alpha], layout.photometric == LAB)
    if layout.photometric == WHITE_IS_ZERO:
        colours = np.iinfo(colours.dtype).max - colours
    return colours


def divide(colours: Samples, opacity: Samples, is_lab: bool) -> Samples:
    """Undo premultiplied alpha; a and b of Lab are signed."""
    greatest = int(np.iinfo(colours.dtype).max)
    low, high = np.zeros(colours.shape[2]), np.full(colours.shape[2], greatest)
    numbers = colours.astype(np.float64)
    if is_lab:
        numbers[:, :, 1:] = colours[:, :, 1:].view(f"i{colours.itemsize}")
        low[1:], high[1:] = -(greatest + 1) // 2, greatest // 2
    numbers *= greatest
    numbers /= np.maximum(opacity, 1)[:, :, np.newaxis]
    whole = np.clip(np.rint(numbers), low, high).astype(np.int64)
    return (whole & greatest).astype(colours.dtype)


def to_bytes(samples: Samples) -> Pixels:
    """Round samples to 8 bits."""
    if samples.dtype == np.uint8:
        return samples
    return to_levels(samples)


def convert(samples: Pixels, mode: str, profile: bytes | None) -> Pixels:
    """Convert 8-bit CMYK or Lab to BGR."""
    height, width = samples.shape[:2]
    image = Image.frombytes(mode, (width, height), samples.tobytes())
    return np.asarray(convert_to_srgb(image, profile))[:, :, ::-1]


def lab_to_srgb(lab: DeepPixels) -> DeepPixels:
    """Convert 16-bit CIE Lab (TIFF 6.0, section 23, and its technical note) to sRGB.

    Parameters
    ----------
    lab : (H, W, 3) L from 0 to 65535 for 100; a and b signed, 256 per unit
    """
    a_and_b = np.ascontiguousarray(lab[:, :, 1:]).view(np.int16) / 256
    middle = (lab[:, :, 0] * (100 / 65_535) + 16) / 116
    roots = np.stack([middle + a_and_b[:, :, 0] / 500, middle, middle - a_and_b[:, :, 1] / 200], 2)
    line = 3 * LAB_KNEE**2 * (roots - 4 / 29)
    xyz = np.where(roots > LAB_KNEE, roots**3, line) * D50_WHITE
    # BLAS would start threads, which a sandboxed process must not.
    parts = [xyz[:, :, each, np.newaxis] * XYZ_TO_SRGB[:, each] for each in range(3)]
    linear = np.clip(parts[0] + parts[1] + parts[2], 0, 1)
    curve = 1.055 * np.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, curve)
    return np.asarray(np.rint(encoded * 65_535), np.uint16)
