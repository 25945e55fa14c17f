"""How a TIFF's samples are laid out, and error messages for unsupported layouts."""

from dataclasses import dataclass

import numpy as np

from superres.errors import UndecodableImage, UnsupportedVariant
from superres.images.tiff_directory import Directory

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 256, 257, 258, 259, 262, 266
STRIP_OFFSETS, SAMPLES, STRIP_ROWS, STRIP_BYTES, PLANES = 273, 277, 278, 279, 284
PREDICTOR, COLOURS, TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES = 317, 320, 322, 323, 324, 325
INK_SET, EXTRA_SAMPLES, SAMPLE_FORMAT, SUBSAMPLING = 332, 338, 339, 530
LAYOUT_TAGS = (
    *(WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, STRIP_OFFSETS, SAMPLES),
    *(STRIP_ROWS, STRIP_BYTES, PLANES, PREDICTOR, COLOURS, TILE_WIDTH, TILE_HEIGHT),
    *(TILE_OFFSETS, TILE_BYTES, INK_SET, EXTRA_SAMPLES, SAMPLE_FORMAT),
)
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, LAB = 0, 1, 2, 3, 5, 6, 8
BASE_SAMPLES = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, CMYK: 4, LAB: 3}
SPACES = {
    **{WHITE_IS_ZERO: "grey", BLACK_IS_ZERO: "grey", RGB: "RGB", PALETTE: "palette", 4: "mask"},
    **{CMYK: "CMYK", YCBCR: "YCbCr", LAB: "Lab", 9: "ICC Lab", 10: "ITU Lab"},
    **{32844: "LogL", 32845: "LogLuv"},
}
UNSIGNED, SIGNED, UNDEFINED = 1, 2, 4
NUMBERS = {SIGNED: "signed", 3: "floating-point", 5: "complex", 6: "complex"}
UNCOMPRESSED, JPEG, PACKBITS, LZW, DEFLATE, OLD_DEFLATE = 1, 7, 32773, 5, 8, 32946
LZMA, ZSTD = 34925, 50000
# Compressions that preserve bytes, and of these, the ones that support a predictor.
PREDICTABLE = frozenset({LZW, DEFLATE, OLD_DEFLATE, LZMA, ZSTD})
BYTEWISE = PREDICTABLE | {UNCOMPRESSED, PACKBITS}
# With CCITT, JPEG and ThunderScan: Pillow's libtiff is built without the others.
READABLE = BYTEWISE | {2, 3, 4, 6, JPEG, 32771, 32809}
COMPRESSIONS = {
    **{33003: "JPEG 2000", 33005: "JPEG 2000", 34661: "JBIG", 34676: "LogLuv", 34677: "LogLuv"},
    **{34712: "JPEG 2000", 34887: "LERC", 34892: "lossy JPEG", 34933: "PNG", 34934: "JPEG XR"},
    **{50001: "WebP", 50002: "JPEG XL", 52546: "JPEG XL"},
}
# Uncompressed samples with reversed bits that Pillow opens but cannot decode.
UNREAD_REVERSED = frozenset({(PALETTE, 1), (PALETTE, 2), (PALETTE, 4), (WHITE_IS_ZERO, 8)})
NO_PREDICTOR, HORIZONTAL = 1, 2
# CorelDRAW 10 writes 999 for alpha.
ASSOCIATED, UNASSOCIATED, COREL_ALPHA = 1, 2, 999
SEPARATE = 2
INK_SET_CMYK = 1
# Pillow reads six, satellite images have more: samples other than colour and alpha are dropped.
MAX_SAMPLES = 16
# The tiles of a TIFF may be larger than the image, and are decoded whole: 16x16 pixels in a tile
# of 14000x14000 took 600 MB. The specification's minimum is 16.
MAX_TILE_PIXELS, MIN_TILE_SIDE = 1024**2, 16
ADVICE = "save it as RGB, grey, CMYK or Lab with 8 or 16 bits per sample"


@dataclass(frozen=True)
class Layout:
    """How a TIFF's samples are laid out.

    Attributes
    ----------
    bits : of each sample of a pixel
    extra : meaning of each sample after the colours
    subsampling : of YCbCr, horizontally and vertically
    chunk : width and height of a tile, or of a strip if it has no tiles
    """

    width: int
    height: int
    bits: tuple[int, ...]
    photometric: int
    extra: tuple[int, ...]
    compression: int
    predictor: int
    is_planar: bool
    is_reversed: bool
    is_tiled: bool
    subsampling: tuple[int, ...]
    chunk: tuple[int, int]

    @property
    def samples(self) -> int:
        """Samples per pixel."""
        return len(self.bits)

    @property
    def colours(self) -> int:
        """Colour samples per pixel."""
        return BASE_SAMPLES[self.photometric]

    @property
    def alpha(self) -> int | None:
        """Index of the alpha sample, or None."""
        for number, kind in enumerate(self.extra):
            if kind in {ASSOCIATED, UNASSOCIATED, COREL_ALPHA}:
                return self.colours + number
        return None

    @property
    def is_associated(self) -> bool:
        """Whether colours are premultiplied by alpha."""
        return self.alpha is not None and self.extra[self.alpha - self.colours] == ASSOCIATED

    @property
    def is_deep(self) -> bool:
        """Whether 16 bits are kept: LittleCMS in Pillow converts only 8-bit CMYK."""
        return self.bits[0] == 16 and self.photometric != CMYK

    @property
    def is_bytewise(self) -> bool:
        """Whether it has whole-byte samples, which compression and predictor preserve."""
        return (
            self.photometric in BASE_SAMPLES
            and self.samples >= self.colours
            and self.bits[0] in {8, 16}
            and len(set(self.bits)) == 1
            and self.compression in BYTEWISE
            and self.predictor in {NO_PREDICTOR, HORIZONTAL}
            and not self.is_reversed
        )

    @property
    def is_subsampled(self) -> bool:
        """Whether its chroma samples cover several pixels each."""
        return self.photometric == YCBCR and self.subsampling != (1, 1)

    @property
    def is_misread(self) -> bool:
        """Whether Pillow would open it but return a wrong image, or call it damaged.

        Without compression it misreads planes of few bits, planar palettes, reversed bits and
        subsampled YCbCr. No reader that was tried, libvips and ImageMagick among them, gets the
        colours of subsampled planes right.
        """
        if self.is_planar and (self.photometric == PALETTE or self.is_subsampled):
            return True
        is_unread = self.is_reversed and (self.photometric, self.bits[0]) in UNREAD_REVERSED
        return self.compression == UNCOMPRESSED and (
            self.is_planar or self.is_subsampled or is_unread
        )

    @property
    def name(self) -> str:
        """Human-readable description."""
        bits = "/".join(str(each) for each in sorted(set(self.bits)))
        planes = ", planar" if self.is_planar else ""
        planes += ", reversed bit order" if self.is_reversed else ""
        space = ("subsampled " if self.is_subsampled else "") + SPACES.get(
            self.photometric, "unknown"
        )
        return f"{space}, {self.samples} x {bits} bits{planes}"


def read_layout(directory: Directory) -> Layout:
    """Read an image's layout, and reject unreadable ones.

    Raises
    ------
    UnsupportedVariant
        Its samples or its compression are not supported.
    UndecodableImage
        Its tiles are damaged.
    ValueError
        The directory is damaged.
    """
    width, height = directory.value(WIDTH, 0), directory.value(HEIGHT, 0)
    photometric = directory.value(PHOTOMETRIC, WHITE_IS_ZERO)
    compression = directory.value(COMPRESSION, UNCOMPRESSED)
    bits = tuple(int(each) for each in directory.values(BITS)[:MAX_SAMPLES]) or (1,)
    samples = directory.value(SAMPLES, len(bits))
    refuse_unreadable(directory, photometric, compression, bits, samples)
    # If all samples have the same depth, some files state it only once.
    bits = (bits * samples)[:samples] if len(bits) == 1 else bits[:samples]
    if not len(bits) == samples > 0:
        raise ValueError("not every sample has its bits")
    if photometric == PALETTE and len(directory.values(COLOURS)) < 3 * 2 ** bits[0]:
        raise ValueError("not every number has its colour")
    extra = tuple(int(each) for each in directory.values(EXTRA_SAMPLES)[:MAX_SAMPLES])
    over = samples - BASE_SAMPLES.get(photometric, samples)
    if not extra and over == 1 and photometric <= RGB:
        extra = (UNASSOCIATED,)  # as Pillow assumes, too
    is_tiled = len(directory.values(TILE_WIDTH)) > 0
    if is_tiled:
        chunk = directory.value(TILE_WIDTH, 0), directory.value(TILE_HEIGHT, 0)
        if chunk[0] * chunk[1] > max(width * height, MAX_TILE_PIXELS):
            raise UndecodableImage("The image's tiles are larger than the image.")
        if min(chunk) < MIN_TILE_SIDE:
            raise UndecodableImage("The image's tiles are smaller than TIFF allows.")
    else:
        chunk = width, min(directory.value(STRIP_ROWS, height), height)
    has_predictor = compression in PREDICTABLE
    return Layout(
        width=width,
        height=height,
        bits=bits,
        photometric=photometric,
        extra=extra[: max(over, 0)],
        compression=compression,
        predictor=directory.value(PREDICTOR, NO_PREDICTOR) if has_predictor else NO_PREDICTOR,
        is_planar=directory.value(PLANES, 1) == SEPARATE and samples > 1,
        is_reversed=directory.value(FILL_ORDER, 1) != 1,
        is_tiled=is_tiled,
        subsampling=tuple(int(each) for each in directory.values(SUBSAMPLING)[:2]) or (2, 2),
        chunk=chunk,
    )


def refuse_unreadable(
    directory: Directory, photometric: int, compression: int, bits: tuple[int, ...], samples: int
) -> None:
    """Reject samples and compressions that neither this service nor Pillow reads correctly."""
    if compression not in READABLE:
        name = COMPRESSIONS.get(compression, f"number {compression}")
        raise UnsupportedVariant(
            f"The TIFF's compression is not accepted ({name}); save it with LZW or Deflate, or "
            "without compression."
        )
    formats = {int(each) for each in directory.values(SAMPLE_FORMAT)[:MAX_SAMPLES]}
    # Lab's a and b are signed, and some writers say so.
    odd = formats - {UNSIGNED, UNDEFINED} - ({SIGNED} if photometric == LAB else set())
    if odd or max(bits) > 16:
        kind = f"{NUMBERS.get(min(odd), 'unknown')} samples" if odd else "samples"
        raise UnsupportedVariant(
            f"A TIFF with {kind} of {max(bits)} bits is not accepted: {ADVICE}."
        )
    if samples > MAX_SAMPLES:
        raise UnsupportedVariant(
            f"The TIFF has {samples} samples per pixel; at most {MAX_SAMPLES} are accepted: "
            f"{ADVICE}."
        )
    if photometric == CMYK and directory.value(INK_SET, INK_SET_CMYK) != INK_SET_CMYK:
        raise UnsupportedVariant(f"The TIFF has inks other than CMYK: {ADVICE}.")


def refuse_layout(layout: Layout) -> UnsupportedVariant:
    """Return the error for a layout that Pillow does not support."""
    return UnsupportedVariant(
        f"A TIFF with this sample layout is not accepted ({layout.name}): {ADVICE}."
    )


def count_chunks(layout: Layout) -> int:
    """Return the number of strips or tiles in a plane."""
    across = -(-layout.width // layout.chunk[0]) if layout.is_tiled else 1
    return across * -(-layout.height // layout.chunk[1])


def chunk_bytes(layout: Layout) -> np.ndarray:
    """Return the uncompressed length of each strip or tile of a plane."""
    width, height = layout.chunk
    row = width * layout.bits[0] // 8 * (1 if layout.is_planar else layout.samples)
    lengths = np.full(count_chunks(layout), row * height, np.int64)
    if not layout.is_tiled:
        lengths[-1] = row * (layout.height - height * (len(lengths) - 1))
    return lengths
