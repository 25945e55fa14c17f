"""Text chunks of a PNG: what generators, draw.io and other programs write into it.

PNG 3rd edition, 11.3.3: `tEXt` is a keyword, a zero and Latin-1; `zTXt` is the same, compressed;
`iTXt` is UTF-8 with a language. Kept texts are passed on byte for byte.
"""

import contextlib
import zlib

# The chunk's name, and its content.
Text = tuple[bytes, bytes]
TEXT, PACKED, INTERNATIONAL = b"tEXt", b"zTXt", b"iTXt"
TEXT_CHUNKS = frozenset({TEXT, PACKED, INTERNATIONAL})
# All texts of a result, decompressed: workflows and diagrams take hundreds of kB.
MAX_TEXT_BYTES, MAX_TEXTS = 4 * 1024**2, 1000
MAX_KEYWORD_BYTES = 79
# Of a text that becomes EXIF, XMP or a comment.
MAX_WORDS_BYTES = 64 * 1024
COMMENT = b"Comment"
XMP_KEYWORD = b"XML:com.adobe.xmp"
# How ImageMagick and exiftool write metadata that has no other place in a PNG.
RAW_PROFILE = b"Raw profile type "
# In ASCII: an empty line, the profile's name, its length, and lines of 72 hexadecimal digits.
MAX_RAW_PROFILE_BYTES = 1024**2
RAW_PROFILE_HEAD, RAW_PROFILE_LINE = b"\n%s\n%8d\n", 72
# Any keyword may hold anything: programs write the paths of files (`Thumb::URI`, `svg:base-uri`)
# and copies of EXIF. So only known ones are safe.
SAFE_KEYWORDS = frozenset(
    {
        # of the specification
        *(b"Title", b"Author", b"Description", b"Copyright", b"Creation Time", b"Software"),
        *(b"Disclaimer", b"Warning", b"Source", COMMENT),
        # prompts: Automatic1111 and Forge, ComfyUI, Fooocus, InvokeAI, others (NovelAI: `Comment`)
        *(b"parameters", b"postprocessing", b"extras", b"prompt", b"workflow", b"fooocus_scheme"),
        *(b"invokeai_metadata", b"invokeai_graph", b"invokeai_workflow", b"sd-metadata", b"Dream"),
        *(b"Negative Prompt", b"generation_data", b"Generation time", b"smproj"),
        # diagrams: draw.io, Excalidraw, PlantUML
        *(b"mxfile", b"mxGraphModel", b"application/vnd.excalidraw+json", b"plantuml"),
        # characters of chat programs
        *(b"chara", b"ccv3"),
    }
)
# Metadata that is carried over elsewhere, and what ImageMagick and thumbnailers say about the file
# that they read: its size, orientation and date.
STALE_KEYWORDS = (XMP_KEYWORD, RAW_PROFILE, b"exif:", b"tiff:", b"date:", b"png:", b"Thumb::")


def unpack(packed: bytes, max_bytes: int) -> bytes | None:
    """Decompress data; None if it is damaged, cut short or longer than `max_bytes`."""
    with contextlib.suppress(zlib.error):
        stream = zlib.decompressobj()
        content = stream.decompress(packed, max_bytes + 1)
        return content if stream.eof and len(content) <= max_bytes else None
    return None


def read_keyword(content: bytes) -> bytes:
    """Return a text chunk's keyword, in Latin-1; empty if it has no valid one."""
    keyword, zero, _ = content[: MAX_KEYWORD_BYTES + 1].partition(b"\0")
    return keyword if zero else b""


def read_content(text: Text, max_bytes: int = MAX_TEXT_BYTES) -> bytes | None:
    """Return a text without its keyword: Latin-1, or UTF-8 in an `iTXt`; None if it is damaged."""
    name, content = text
    content = content[len(read_keyword(content)) + 1 :]
    if name == PACKED:
        return unpack(content[1:], max_bytes) if content[:1] == b"\0" else None
    if name == INTERNATIONAL:
        head, *parts = content[:2], *content[2:].split(b"\0", 2)
        if len(parts) < 3 or head not in {b"\0\0", b"\1\0"}:
            return None
        content = parts[2]
        if head == b"\1\0":
            return unpack(content, max_bytes)
    return content if len(content) <= max_bytes else None


def find_text(texts: list[Text], keyword: bytes, max_bytes: int = MAX_TEXT_BYTES) -> bytes | None:
    """Return the first text with a keyword, as `read_content` does; None if there is none."""
    found = (read_content(text, max_bytes) for text in texts if read_keyword(text[1]) == keyword)
    return next((content for content in found if content is not None), None)


def find_words(texts: list[Text], keyword: bytes) -> str | None:
    """Return the first text with a keyword, decoded; None if there is none of moderate length."""
    for text in texts:
        is_found = read_keyword(text[1]) == keyword
        content = read_content(text, MAX_WORDS_BYTES) if is_found else None
        if content is not None:
            encoding = "utf-8" if text[0] == INTERNATIONAL else "latin-1"
            return content.decode(encoding, "replace")
    return None


def find_raw_profile(texts: list[Text], *kinds: bytes) -> bytes | None:
    """Return metadata that is stored as text, of the first of some kinds that the image has."""
    for kind in kinds:
        content = find_text(texts, RAW_PROFILE + kind, MAX_RAW_PROFILE_BYTES)
        with contextlib.suppress(ValueError):
            digits = b"".join((content or b"").split(b"\n")[3:])
            if profile := bytes.fromhex(digits.decode("ascii")):
                return profile
    return None


def make_raw_profile(kind: bytes, content: bytes) -> Text:
    """Return metadata stored as text."""
    digits = content.hex().encode()
    lines = range(0, len(digits), RAW_PROFILE_LINE)
    text = RAW_PROFILE_HEAD % (kind, len(content))
    text += b"".join(digits[at : at + RAW_PROFILE_LINE] + b"\n" for at in lines)
    return PACKED, RAW_PROFILE + kind + b"\0\0" + zlib.compress(text)


def make_text(keyword: bytes, words: str) -> Text:
    """Return a text as `tEXt`, or as `iTXt` if Latin-1 lacks some of its characters."""
    try:
        return TEXT, keyword + b"\0" + words.encode("latin-1")
    except UnicodeEncodeError:
        return make_international(keyword, words.encode())


def make_international(keyword: bytes, content: bytes) -> Text:
    """Return a text of UTF-8 as `iTXt`, not compressed and of no language."""
    return INTERNATIONAL, keyword + bytes(5) + content


def keep_texts(texts: list[Text], keep: str) -> list[Text]:
    """Return the texts for the result, unchanged; damaged ones are left out.

    Parameters
    ----------
    keep : "all" except what would be wrong in the result, "safe" keywords only, or "none"
    """
    kept: list[Text] = []
    room = MAX_TEXT_BYTES
    for text in texts:
        keyword = read_keyword(text[1])
        is_stale = keyword.startswith(STALE_KEYWORDS)
        if keyword in SAFE_KEYWORDS or (keep == "all" and keyword and not is_stale):
            content = read_content(text, room)
            if content is not None:
                room -= len(content)
                kept.append(text)
    return [] if keep == "none" else kept[:MAX_TEXTS]
