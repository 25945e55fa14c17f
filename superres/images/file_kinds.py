"""Identifies unsupported files by their first bytes, and tells the sender what to do."""

import re

from superres.images.input_formats import INPUT_NAMES

# Enough of a file to identify it: XML may begin with long comments.
START_BYTES = 4096
BRANDS_AT, BRAND_BYTES = 8, 4
AVIF_BRANDS = frozenset({b"avif", b"avis"})
HEIF_BRANDS = frozenset(
    {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
    | {b"mif2", b"miaf", b"avci", b"avcs", b"jpeg", b"vvic"}
)
REFUSED = f"The file is not an image in a supported format ({INPUT_NAMES})"
CONVERT = "open it in a program that supports it, and save it as PNG or JPEG"
RAW = "a camera raw file", "develop it and export it as TIFF, PNG or JPEG"
VIDEO = "a video", "save one frame of it as PNG"
JPEG_XL = "a JPEG XL image", "convert it to PNG or JPEG (djxl in.jxl out.png)"
JPEG_2000 = "a JPEG 2000 image", CONVERT
ARCHIVE = "an archive or an office document", "extract the images and send each one separately"
SVG = "an SVG drawing, which has no pixels", "render it as PNG at the size you need"
WEB_PAGE = "a web page (HTML)", "save the image on it and send that"
SOUND = "an audio file", "send an image"
ICON = "a Windows icon or cursor", "save the size you need as PNG"
TGA = "a TGA image", CONVERT
PORTABLE = "a PBM, PGM, PPM or PAM image", CONVERT
# First bytes of the kinds that people send; longer ones before shorter ones.
SIGNATURES: tuple[tuple[bytes, tuple[str, str]], ...] = (
    (b"8BPS", ("a Photoshop document", "export it as PNG or TIFF")),
    (b"gimp xcf", ("a GIMP document", "export it as PNG or TIFF")),
    (b"%!PS", ("PostScript", "save or render it as PNG at the size you need")),
    (b"\xc5\xd0\xd3\xc6", ("PostScript", "save or render it as PNG at the size you need")),
    (b"\0\0\0\x0cJXL \r\n\x87\n", JPEG_XL),
    (b"\xff\x0a", JPEG_XL),
    (b"\0\0\0\x0cjP  \r\n\x87\n", JPEG_2000),
    (b"\xff\x4f\xff\x51", JPEG_2000),
    (b"II\xbc\x01", ("a JPEG XR image", CONVERT)),
    (b"\0\0\x01\0", ICON),
    (b"\0\0\x02\0\0\0\0\0", TGA),
    (b"\0\0\x0a\0\0\0\0\0", TGA),
    (b"\0\0\x02\0", ICON),
    (b"icns", ("a macOS icon", "save the size you need as PNG")),
    (b"FUJIFILMCCD-RAW", RAW),
    (b"IIRO", RAW),
    (b"IIRS", RAW),
    (b"MMOR", RAW),
    (b"IIU\0", RAW),
    (b"FOVb", RAW),
    (b"\0MRM", RAW),
    (b"\x8aMNG", ("an MNG animation", "save one frame of it as PNG")),
    (b"\x8bJNG", ("a JNG image", CONVERT)),
    (b"qoif", ("a QOI image", CONVERT)),
    (b"#?RADIANCE", ("a Radiance image", "convert it to 16-bit PNG or TIFF")),
    (b"v/1\x01", ("an OpenEXR image", "convert it to 16-bit PNG or TIFF")),
    (b"DDS ", ("a DDS texture", CONVERT)),
    (b"SIMPLE  =", ("a FITS file", "convert it to 16-bit PNG or TIFF")),
    (b"AT&TFORM", ("a DjVu document", "save the page as PNG")),
    (b"PK\x03\x04", ARCHIVE),
    (b"PK\x05\x06", ARCHIVE),
    (b"Rar!\x1a\x07", ARCHIVE),
    (b"7z\xbc\xaf\x27\x1c", ARCHIVE),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", ARCHIVE),
    (b"\x1f\x8b", ("compressed with gzip", "unpack it and send the image")),
    (b"BZh", ("compressed with bzip2", "unpack it and send the image")),
    (b"\xfd7zXZ\0", ("compressed with xz", "unpack it and send the image")),
    (b"(\xb5/\xfd", ("compressed with zstd", "unpack it and send the image")),
    (b"\x1aE\xdf\xa3", VIDEO),
    (b"FLV\x01", VIDEO),
    (b"\0\0\x01\xba", VIDEO),
    (b"\0\0\x01\xb3", VIDEO),
    (b"0&\xb2u\x8ef\xcf\x11", VIDEO),
    (b"ID3", SOUND),
    (b"OggS", ("an Ogg audio or video file", "send an image")),
    (b"fLaC", SOUND),
    (b"version https://git-lfs", ("a Git LFS pointer", "fetch the file itself: git lfs pull")),
)
# Signatures of the supported formats: a file with one of these is damaged, not unsupported.
ACCEPTED_SIGNATURES = (
    *((b"\x89PNG\r\n\x1a\n", "PNG"), (b"\xff\xd8\xff", "JPEG"), (b"GIF87a", "GIF")),
    *((b"GIF89a", "GIF"), (b"II*\0", "TIFF"), (b"MM\0*", "TIFF"), (b"II+\0", "TIFF")),
    *((b"MM\0+", "TIFF"),),
)
BASE64_PICTURE = re.compile(
    rb"\s*(data:image/[\w.+-]+;base64,|iVBORw0KGgo|/9j/[\w+/]|R0lGOD[dl]h|UklGR[\w+/])"
)
MARKUP = re.compile(rb"<(!doctype\s+)?(svg|html|head|body)[\s>]", re.IGNORECASE)
PORTABLE_MAP = re.compile(rb"P[1-7fF]\s")


def find_kind(start: bytes) -> tuple[str, str] | None:
    """Return what a file is and what to do about it; None if its kind is unknown.

    Parameters
    ----------
    start : its first `START_BYTES` bytes
    """
    if start[4:8] == b"ftyp":
        return find_media_kind(start)
    for signature, kind in SIGNATURES:
        if start.startswith(signature):
            return kind
    if start.startswith(b"RIFF") and start[8:12] in {b"AVI ", b"WAVE"}:
        return VIDEO if start[8:12] == b"AVI " else SOUND
    if b"%PDF-" in start[:1024]:
        return "a PDF", "export the page, or the image in it, as PNG or JPEG"
    if start[128:132] == b"DICM":
        return "a DICOM file", "export the image as 16-bit PNG or TIFF"
    if PORTABLE_MAP.match(start):
        return PORTABLE
    return find_text_kind(start)


def find_media_kind(start: bytes) -> tuple[str, str] | None:
    """Identify an ISO base media file by its brands; None if it may be a supported image."""
    brand, others = read_brands(start)
    if (AVIF_BRANDS | HEIF_BRANDS) & {brand, *others}:
        return None
    if brand == b"crx ":
        return RAW
    return SOUND if brand == b"M4A " else VIDEO


def read_brands(start: bytes) -> tuple[bytes, set[bytes]]:
    """Return the brand of an ISO base media file, and those that it is compatible with."""
    length = min(int.from_bytes(start[:4]), START_BYTES)
    others = {start[at : at + BRAND_BYTES] for at in range(16, length, BRAND_BYTES)}
    return start[BRANDS_AT : BRANDS_AT + BRAND_BYTES], others


def is_heif(start: bytes) -> bool:
    """Tell whether a file is HEIF, but not AVIF."""
    brand, others = read_brands(start)
    brands = {brand, *others}
    is_media = start[4:8] == b"ftyp"
    return is_media and bool(HEIF_BRANDS & brands) and not AVIF_BRANDS & brands


def find_text_kind(start: bytes) -> tuple[str, str] | None:
    """Identify a text file; None if it is not text."""
    if start.startswith((b"\xff\xfe", b"\xfe\xff")) or (b"\0" not in start and is_utf8(start)):
        if BASE64_PICTURE.match(start):
            return "base64 text", "decode it and send the bytes themselves"
        is_markup = start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<")
        markup = MARKUP.search(start) if is_markup else None
        if markup is not None and markup[2].lower() == b"svg":
            return SVG
        if markup is not None:
            return WEB_PAGE
        if start.strip():
            return "text", "send an image"
    return None


def is_utf8(start: bytes) -> bool:
    """Tell whether bytes are UTF-8 text, which may be cut off within its last character."""
    try:
        start.decode("utf-8")
    except UnicodeDecodeError as error:
        return len(start) == START_BYTES and error.start > len(start) - 4
    return True


def explain_kind(start: bytes) -> str:
    """Return the error message for a file that is not an image in a supported format."""
    kind = find_kind(start)
    return f"{REFUSED}." if kind is None else describe(kind)


def describe(kind: tuple[str, str]) -> str:
    """Return the error message for a file of a known kind."""
    name, advice = kind
    return f"{REFUSED}: it is {name}; {advice}."


def find_accepted(start: bytes) -> str | None:
    """Return the supported format whose signature a file has."""
    if start.startswith(b"RIFF") and start[8:12] == b"WEBP":
        return "WebP"
    if start[4:8] == b"ftyp" and find_media_kind(start) is None:
        return "HEIC" if is_heif(start) else "AVIF"
    if start.startswith(b"BM") and len(start) > 18 and start[15:18] == bytes(3):
        return "BMP"
    return next((name for first, name in ACCEPTED_SIGNATURES if start.startswith(first)), None)
