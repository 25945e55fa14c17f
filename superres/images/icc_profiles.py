"""Makes ICC profiles for colours that a file gives as numbers rather than as a profile."""

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# x and y of red, green, blue and white (CIE 1931).
Chromaticities = tuple[float, ...]
Matrix = npt.NDArray[np.float64]
# ICC.1:2022, 7.2.16, and the matrix of its annex E: cone responses, for chromatic adaptation.
D50 = (0.9642, 1.0, 0.8249)
BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
# Version 4.3, and 4.4, which can name code points.
VERSION, VERSION_OF_CODE_POINTS = 0x04300000, 0x04400000
HEADER_BYTES, TABLE_ENTRY_BYTES, ALIGNMENT = 128, 12, 4
ONE = 65_536
# Numbers of the functions of a parametric curve by how many parameters they have (10.18).
FUNCTIONS = {1: 0, 5: 3}


def encode_text(text: str) -> bytes:
    """Return a tag of an English text."""
    encoded = text.encode("utf-16-be")
    return b"mluc" + bytes(4) + struct.pack(">II4sII", 1, 12, b"enUS", len(encoded), 28) + encoded


# Encoded once, since a sandboxed process cannot load Python's codecs.
DESCRIPTION, COPYRIGHT = encode_text("Colours of the original file"), encode_text("No copyright")


@dataclass(frozen=True)
class Colours:
    """What samples mean.

    Attributes
    ----------
    primaries : of red, green, blue and white
    curve : from samples to light, both 0 to 1: exponent g of x**g, or g, a, b, c, d of
        (a x + b)**g from d on and c x below; more numbers are equally spaced values
    code_points : primaries and transfer (ITU-T H.273), if no matrix and curve can express them
    """

    primaries: Chromaticities
    curve: tuple[float, ...]
    code_points: tuple[int, int] | None = None


def make_profile(colours: Colours, is_grey: bool) -> bytes | None:
    """Return a display profile; None if no display can have such primaries.

    Parameters
    ----------
    is_grey : for one sample per pixel, whose primaries do not matter
    """
    tags = {
        b"desc": DESCRIPTION,
        b"cprt": COPYRIGHT,
        b"wtpt": encode_xyz(D50),
    }
    version = VERSION
    curve = encode_curve(colours.curve)
    if is_grey:
        tags[b"kTRC"] = curve
    else:
        matrices = adapt_primaries(colours.primaries)
        if matrices is None:
            return None
        columns, adaptation = matrices
        tags[b"chad"] = b"sf32" + bytes(4) + encode_fixed(adaptation.ravel())
        for letter, column in zip(b"rgb", columns.T, strict=True):
            tags[bytes([letter]) + b"XYZ"] = encode_xyz(tuple(column))
            tags[bytes([letter]) + b"TRC"] = curve
        if colours.code_points is not None:
            version = VERSION_OF_CODE_POINTS
            tags[b"cicp"] = b"cicp" + bytes(4) + bytes([*colours.code_points, 0, 1])
    return join_tags(tags, version, b"GRAY" if is_grey else b"RGB ")


def adapt_primaries(primaries: Chromaticities) -> tuple[Matrix, Matrix] | None:
    """Return XYZ of red, green and blue under D50, as columns, and the matrix that adapts to D50.

    None if the primaries lie on a line, or nowhere.
    """
    x, y = np.array(primaries, np.float64).reshape(4, 2).T
    if y.min() <= 0:
        return None
    xyz = np.array([x / y, np.ones(4), (1 - x - y) / y])
    try:
        shares = np.linalg.solve(xyz[:, :3], xyz[:, 3])
        cones = np.diag(BRADFORD @ np.array(D50) / (BRADFORD @ xyz[:, 3]))
        adaptation = np.linalg.solve(BRADFORD, cones @ BRADFORD)
    except np.linalg.LinAlgError:
        return None
    columns = adaptation @ (xyz[:, :3] * shares)
    is_usable = np.isfinite(columns).all() and np.abs([columns, adaptation]).max() < 100
    return (columns, adaptation) if is_usable and (shares > 0).all() else None


def encode_fixed(numbers: npt.ArrayLike) -> bytes:
    """Return numbers as s15Fixed16."""
    fixed: npt.NDArray[np.int32] = np.rint(np.asarray(numbers) * ONE).astype(">i4")
    return fixed.tobytes()


def encode_xyz(xyz: tuple[float, ...]) -> bytes:
    """Return a tag of a colour."""
    return b"XYZ " + bytes(4) + encode_fixed(xyz)


def encode_curve(curve: tuple[float, ...]) -> bytes:
    """Return a tag of a curve: see `Colours`."""
    if len(curve) in FUNCTIONS:
        head = b"para" + bytes(4) + struct.pack(">H2x", FUNCTIONS[len(curve)])
        return head + encode_fixed(curve)
    values: npt.NDArray[np.uint16] = np.rint(np.array(curve) * 65_535).astype(">u2")
    return b"curv" + bytes(4) + struct.pack(">I", len(values)) + values.tobytes()


def join_tags(tags: dict[bytes, bytes], version: int, space: bytes) -> bytes:
    """Return a profile with these tags; equal ones are stored once."""
    start = HEADER_BYTES + 4 + TABLE_ENTRY_BYTES * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    places: dict[bytes, int] = {}
    for name, content in tags.items():
        if content not in places:
            places[content] = start + len(body)
            body += content + bytes(-len(content) % ALIGNMENT)
        table += name + struct.pack(">II", places[content], len(content))
    header = struct.pack(
        ">I4xI4s4s4s12x4s28x",
        start + len(body),
        version,
        b"mntr",
        space,
        b"XYZ ",
        b"acsp",
    )
    illuminant = encode_fixed(D50)
    return (header + illuminant).ljust(HEADER_BYTES, b"\0") + table + body
