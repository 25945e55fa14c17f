"""Small files that are expensive to process, each generated."""

import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

from superres.images.gif_file import find_pixels
from superres.images.png_file import make_chunk
from testkit.heif_files import grid_of_one_tile, heic, lying_heic, much_exif
from testkit.pictures import encode

# The largest upload.
ROOM = 16 * 1024 * 1024 - 1024


def png_header(width: int, height: int, bits: int = 8, kind: int = 2) -> bytes:
    fields = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + make_chunk(b"IHDR", fields)


def flat_png(width: int, height: int, bits: int = 8, kind: int = 2) -> bytes:
    """A valid image of one colour, a few kilobytes whatever its dimensions."""
    samples = {0: 1, 2: 3, 4: 2, 6: 4}[kind]
    row, pack = b"\0" + bytes([120]) * (samples * bits // 8 * width), zlib.compressobj(9)
    pixels = b"".join(pack.compress(row) for _ in range(height)) + pack.flush()
    ends = make_chunk(b"IDAT", pixels) + make_chunk(b"IEND", b"")
    return png_header(width, height, bits, kind) + ends


def lying_avif(real: int, said: int) -> bytes:
    """A container that claims sides of `said`, with a coded image whose sides are `real`."""
    content = bytearray(encode(Image.new("RGB", (real, real), (9, 99, 200)), "AVIF", speed=10))
    at = content.find(b"ispe")
    while at >= 0:
        if struct.unpack(">II", content[at + 8 : at + 16]) == (real, real):
            content[at + 8 : at + 16] = struct.pack(">II", said, said)
        at = content.find(b"ispe", at + 4)
    return bytes(content)


def jpeg_segments(segment: bytes, room: int = ROOM) -> bytes:
    """A JPEG of one pixel, padded with copies of a segment."""
    jpeg = encode(Image.new("RGB", (1, 1), (1, 2, 3)), "JPEG")
    return jpeg[:2] + segment * ((room - len(jpeg)) // len(segment)) + jpeg[2:]


def one_pixel_png(*chunks: bytes) -> bytes:
    ends = make_chunk(b"IDAT", zlib.compress(b"\0\1\2\3")) + make_chunk(b"IEND", b"")
    return png_header(1, 1) + b"".join(chunks) + ends


def chunk_flood(kind: bytes, content: bytes = b"") -> bytes:
    chunk = make_chunk(kind, content)
    return one_pixel_png(chunk * ((ROOM - 200) // len(chunk)))


def packed_zeros(megabytes: int) -> bytes:
    """Zeros that deflate has made a thousand times smaller (RFC 1950).

    Only two are compressed, the others are copies of the second: a gigabyte would take seconds.
    """
    packer = zlib.compressobj(9)
    first, other = (
        packer.compress(bytes(10**6)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2)
    )
    last_block, checksum = b"\x03\0", struct.pack(">HH", megabytes * 10**6 % 65521, 1)
    return first + other * (megabytes - 1) + last_block + checksum


def packed_chunk(kind: bytes, start: bytes, megabytes: int) -> bytes:
    """A chunk whose text or profile is a thousand times larger than the file."""
    return one_pixel_png(make_chunk(kind, start + packed_zeros(megabytes)))


def xmp_png(inner: str, end: str) -> bytes:
    """A PNG with a packet of XMP that compresses well."""
    packet = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-'
        'syntax-ns#"><rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/">'
        f"{inner}{end}</rdf:Description></rdf:RDF></x:xmpmeta>"
    )
    start = b"XML:com.adobe.xmp\0\1\0\0\0"
    return one_pixel_png(make_chunk(b"iTXt", start + zlib.compress(packet.encode())))


def pixels_in_bytes() -> bytes:
    """An image of noise with a separate chunk for every byte."""
    noise = np.random.default_rng(0).integers(0, 256, (580, 581 * 3), np.uint8)
    packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in noise), 0)
    chunks = b"".join(make_chunk(b"IDAT", packed[at : at + 1]) for at in range(len(packed)))
    return png_header(581, 580) + chunks + make_chunk(b"IEND", b"")


def behind_scan(piece: bytes) -> bytes:
    """A JPEG with restart markers, followed by copies of a piece, without an end marker."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    jpeg = encode(Image.fromarray(noise), "JPEG", restart_marker_blocks=1)
    return jpeg[:-2] + piece * ((ROOM - len(jpeg)) // len(piece))


def gif_pixels() -> bytes:
    """A GIF truncated within its pixels, with a separate block for every byte."""
    noise = np.random.default_rng(0).integers(0, 256, (2500, 2500), np.uint8)
    gif = encode(Image.fromarray(noise), "GIF")
    found = find_pixels(gif)
    assert found is not None
    blocks = b"".join(b"\1" + found.packed[at : at + 1] for at in range(len(found.packed)))
    return gif[: gif.index(b",", 13 + 768) + 11] + blocks[: ROOM - 2000]


def gif_blocks(label: bytes, head: bytes = b"") -> bytes:
    """A GIF of one pixel after millions of one-byte blocks."""
    gif = encode(Image.new("P", (1, 1)), "GIF")
    at = gif.index(b",", 13)
    block = b"\x01A" * ((ROOM - len(gif) - 20) // 2)
    return gif[:at] + b"\x21" + label + head + block + b"\0" + gif[at:]


def gif_extensions() -> bytes:
    gif = encode(Image.new("P", (1, 1)), "GIF")
    at = gif.index(b",", 13)
    extension = b"\x21\xff\x0bABCDEFGHIJK\0"
    return gif[:at] + extension * ((ROOM - len(gif)) // len(extension)) + gif[at:]


def gif_frame(side: int) -> bytes:
    """A frame larger than its canvas, which is filled when the file is opened."""
    screen = struct.pack("<HHBBB", 10, 10, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    control = b"!\xf9\x04" + bytes([2 << 2]) + b"\0\0\0\0"
    frame = b"," + struct.pack("<HHHHB", 0, 0, side, side, 0) + b"\x02\x02\x44\x01\0;"
    return b"GIF89a" + screen + control + frame


def exif_with_broken_tags() -> bytes:
    """Some 60,000 tags that point past the end."""
    tags = [tag for tag in range(400, 64000) if tag not in {0x8769, 0x8825, 0xA005}]
    entries = b"".join(struct.pack("<HHLL", tag, 1, 10**8 + tag, 8) for tag in tags)
    return b"II*\0" + struct.pack("<LH", 8, len(tags)) + entries + bytes(4)


def profile_of_many_elements(number: int) -> bytes:
    """Return an RGB profile whose D2B0 names one matrix again and again."""
    matrix = b"matf" + bytes(4) + struct.pack(">HH12f", 3, 3, *np.eye(4, 3).ravel())
    at = 16 + 8 * number
    elements = b"mpet" + bytes(4) + struct.pack(">HHI", 3, 3, number)
    elements += struct.pack(">II", at, len(matrix)) * number + matrix
    tags = {b"D2B0": elements}
    colours = {b"wtpt": (63190, 65536, 54061), b"rXYZ": (28575, 14549, 911)}
    colours |= {b"gXYZ": (25231, 46989, 6361), b"bXYZ": (9372, 3971, 46793)}
    tags |= {name: b"XYZ " + bytes(4) + struct.pack(">iii", *xyz) for name, xyz in colours.items()}
    tags |= {name: b"curv" + bytes(8) for name in (b"rTRC", b"gTRC", b"bTRC")}
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(body), len(content))
        body += content
    header = bytearray(128)
    header[:4] = struct.pack(">I", start + len(body))
    header[4:24] = b"lcms\x04\x30\0\0mntrRGB XYZ "
    header[36:40] = b"acsp"
    header[68:80] = struct.pack(">iii", 63190, 65536, 54061)
    return bytes(header) + table + body


def grey_png(profile: bytes) -> bytes:
    """Return a grey image with a profile for colours."""
    chunk = make_chunk(b"iCCP", b"a\0\0" + zlib.compress(profile, 9))
    image = encode(Image.new("L", (8, 8), 99), "PNG")
    return image[:33] + chunk + image[33:]


def jpeg_components(scans: int) -> bytes:
    """Return a JPEG that announces one component, lists 256, and then has scans."""
    components = b"".join(bytes([each, 0x11, 0]) for each in range(256))
    frame = struct.pack(">BHHB", 8, 1, 1, 1) + components
    scan = b"\x01\x00\x00\x00\x3f\x00"
    head = b"\xff\xd8\xff\xc0" + struct.pack(">H", len(frame) + 2) + frame
    return head + (b"\xff\xda" + struct.pack(">H", len(scan) + 2) + scan) * scans + b"\xff\xd9"


def tiff(entries: list[tuple[int, int, int, int]], rest: bytes = b"") -> bytes:
    """A TIFF with one directory of these entries: tag, type, count, value."""
    directory = b"".join(struct.pack("<HHLL", *entry) for entry in sorted(entries))
    return b"II*\0" + struct.pack("<LH", 8, len(entries)) + directory + bytes(4) + rest


def tiff_picture(
    width: int, height: int, *others: tuple[int, int, int, int]
) -> list[tuple[int, int, int, int]]:
    """The entries of an 8-bit grey image."""
    size = [(256, 4, 1, width), (257, 4, 1, height)]
    return [*size, (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1), *others]


def tiff_pages() -> bytes:
    """An image followed by a chain of a million empty directories."""
    content = bytearray(tiff(tiff_picture(1, 1, (273, 4, 1, 0), (279, 4, 1, 1))))
    room = (ROOM - len(content)) // 8
    content[-4:] = struct.pack("<L", len(content))
    for _ in range(room):
        content += struct.pack("<HL", 0, len(content) + 8) + bytes(2)
    return bytes(content)


def huge_webp() -> bytes:
    """A canvas of 16383x16383 around an image of one pixel."""
    picture = encode(Image.new("RGB", (1, 1)), "WEBP")[12:]
    canvas = b"VP8X" + struct.pack("<LB3x", 10, 0) + b"\xfe\x3f\0\xfe\x3f\0"
    return b"RIFF" + struct.pack("<L", len(canvas) + len(picture) + 4) + b"WEBP" + canvas + picture


def webp_chunks() -> bytes:
    picture = encode(Image.new("RGB", (1, 1)), "WEBP")[12:]
    canvas = b"VP8X" + struct.pack("<LB3x", 10, 0) + bytes(6)
    body = canvas + picture + b"abcd\0\0\0\0" * ((ROOM - 200) // 8)
    return b"RIFF" + struct.pack("<L", len(body) + 4) + b"WEBP" + body


def many_scans(width: int, height: int, room: int) -> bytes:
    """A progressive JPEG whose scans cover all pixels again and again, with few bytes each."""
    jpeg = encode(Image.new("L", (width, height), 99), "JPEG", progressive=True)
    scans = [at for at in range(len(jpeg) - 1) if jpeg[at : at + 2] == b"\xff\xda"]
    last = jpeg[scans[-1] : -2]  # the lowest bits of all frequencies, which are zero
    return jpeg[:-2] + last * ((room - len(jpeg)) // len(last)) + jpeg[-2:]


def bmp(width: int, height: int) -> bytes:
    """Run-length encoded: an image that ends immediately."""
    palette, pixels = bytes(1024), b"\0\1"
    offset = 14 + 40 + len(palette)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(pixels), 0, 0, 256, 0)
    start = b"BM" + struct.pack("<IHHI", offset + len(pixels), 0, 0, offset)
    return start + info + palette + pixels


def flat_image(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), (9, 99, 200))


def flat(image_format: str, width: int, height: int, **options: object) -> bytes:
    return encode(flat_image(width, height), image_format, **options)


# Each of these files once took gigabytes, seconds or the log's disk, or is similar to one that did;
# "valid" ones are images that anybody may send.
FILES: dict[str, Callable[[], bytes]] = {
    "frame of 65535x65535.gif": lambda: gif_frame(65535),
    "frame of 9000x9000.gif": lambda: gif_frame(9000),
    "comment in bytes.gif": lambda: gif_blocks(b"\xfe"),
    "extension in bytes.gif": lambda: gif_blocks(b"\xff", b"\x0bNETSCAPE2.0"),
    "extensions.gif": gif_extensions,
    "private chunks.png": lambda: chunk_flood(b"abCd"),
    "pixels in bytes.png": pixels_in_bytes,
    "texts.png": lambda: chunk_flood(b"tEXt", b"a\0b"),
    "packed texts.png": lambda: chunk_flood(b"zTXt", b"a\0\0" + zlib.compress(bytes(30_000), 9)),
    "packed text.png": lambda: packed_chunk(b"zTXt", b"a\0\0", 1000),
    "packed profile.png": lambda: packed_chunk(b"iCCP", b"a\0\0", 1000),
    "packed xmp.png": lambda: packed_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0", 1000),
    "xmp of many elements.png": lambda: xmp_png("<dc:title>" + "<dc:a/>" * 140_000, "</dc:title>"),
    "xmp of a long namespace.png": lambda: xmp_png(
        f'<a:b xmlns:a="{"a" * 500_000}">' + "<a:b>" * 50_000, ""
    ),
    "exif of broken tags.png": lambda: one_pixel_png(make_chunk(b"eXIf", exif_with_broken_tags())),
    "profile of one matrix.png": lambda: grey_png(profile_of_many_elements(10_000)),
    "components.jpg": lambda: jpeg_components(7000),
    "one pixel, 16 MB.png": lambda: one_pixel_png() + bytes(ROOM - 100),
    "valid, 16 bits, transparent.png": lambda: flat_png(3990, 3990, 16, 6),
    "valid, 16 bits, grey.png": lambda: flat_png(3990, 3990, 16, 0),
    "valid, transparent.png": lambda: flat_png(3990, 3990, 8, 6),
    "empty segments.jpg": lambda: jpeg_segments(b"\xff\xe5\x00\x02"),
    "exif in pieces, 4 MB.jpg": lambda: jpeg_segments(b"\xff\xe1\x00\x0bExif\0\0ABC", 4_000_000),
    "exif in pieces.jpg": lambda: jpeg_segments(b"\xff\xe1\x00\x0bExif\0\0ABC"),
    "restarts.jpg": lambda: behind_scan(b"\xff\xd0"),
    "segments behind the scan.jpg": lambda: behind_scan(b"\xff\xe5\x00\x02"),
    "pixels in bytes.gif": gif_pixels,
    "profile in pieces.jpg": lambda: jpeg_segments(b"\xff\xe2\x00\x10ICC_PROFILE\0\1\1"),
    "comments.jpg": lambda: jpeg_segments(b"\xff\xfe\x00\x03A"),
    "scans.jpg": lambda: many_scans(4000, 3000, 2_000_000),
    "valid, 12 megapixels.jpg": lambda: flat("JPEG", 4000, 3000),
    "valid, 16 megapixels.jpg": lambda: flat("JPEG", 4000, 3990),
    "lie of 16000x16000.avif": lambda: lying_avif(16000, 16),
    "lie of 8000x8000.avif": lambda: lying_avif(8000, 16),
    "valid, 12 megapixels.avif": lambda: flat("AVIF", 4000, 3000, speed=10),
    "lie of 8000x8000.heic": lambda: lying_heic(8000, 16),
    "tiles.heic": lambda: grid_of_one_tile(37, 27, (37 * 64, 27 * 64)),
    "exif in one place.heic": lambda: much_exif(900, ROOM - 100_000),
    "valid, 12 megapixels.heic": lambda: heic(flat_image(4000, 3000), chroma=420, tile_size=512),
    "canvas of 16383x16383.webp": huge_webp,
    "chunks.webp": webp_chunks,
    "valid, 12 megapixels.webp": lambda: flat("WEBP", 4000, 3000),
    "tag of 4 GB.tif": lambda: tiff(tiff_picture(1, 1, (273, 4, 2**32 - 1, 8), (279, 4, 1, 1))),
    "tag of 16 MB.tif": lambda: tiff(
        tiff_picture(1, 1, (273, 4, 1, 8), (279, 4, 1, 1), (40000, 5, ROOM // 8 - 100, 200)),
        bytes(ROOM - 200),
    ),
    "tile of 60000x60000.tif": lambda: tiff(
        tiff_picture(1, 1, (322, 4, 1, 60000), (323, 4, 1, 60000), (324, 4, 1, 8), (325, 4, 1, 9))
    ),
    "directories.tif": tiff_pages,
    "valid, 12 megapixels.tif": lambda: flat("TIFF", 4000, 3000, compression="tiff_lzw"),
    "ends at once.bmp": lambda: bmp(4000, 3990),
}


def salt(content: bytes, number: int) -> bytes:
    """The same image to every decoder, but a different upload to the service."""
    return content + struct.pack(">Q", number)
