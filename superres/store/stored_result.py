"""A stored result: a file that says itself whether it is intact.

It is the result's own bytes, then a JSON note, then the note's length and a magic word: the image's
length, digest and dimensions are published atomically with its bytes. Viewers ignore what follows
an image, so the files open as usual.
"""

import hashlib
import io
import json
import os
import struct
from dataclasses import asdict, dataclass

MAGIC = b"SRc1"
FOOTER = struct.Struct(">I4s")
MAX_NOTE_BYTES = 4096


@dataclass(frozen=True)
class ResultInfo:
    """What is known about a result's bytes.

    Attributes
    ----------
    length : number of bytes
    sha256 : their digest in hex
    width, height : the image's size in pixels
    """

    length: int
    sha256: str
    width: int
    height: int

    @classmethod
    def describe(cls, payload: bytes | memoryview, width: int, height: int) -> "ResultInfo":
        """Describe a result's bytes."""
        return cls(len(payload), hashlib.sha256(payload).hexdigest(), width, height)

    @property
    def etag(self) -> str:
        """The strong entity tag, without its quotes."""
        return self.sha256[:32]


class PayloadFile(io.FileIO):
    """A stored file that, to its readers, ends where the result's own bytes end."""

    payload_end: int | None = None

    def read(self, size: int | None = -1, /) -> bytes:
        """Read up to `size` bytes, or the rest of the result."""
        if self.payload_end is None:
            return super().read(-1 if size is None else size)
        left = max(self.payload_end - self.tell(), 0)
        return super().read(left if size is None or size < 0 else min(size, left))


@dataclass(frozen=True)
class StoredResult:
    """A stored result, open for reading at its first byte; the holder must close it."""

    file: PayloadFile
    info: ResultInfo
    modified: float


def write_note(info: ResultInfo) -> bytes:
    """Return what follows a result's own bytes in its file."""
    note = json.dumps(asdict(info)).encode()
    return note + FOOTER.pack(len(note), MAGIC)


def read_info(file: PayloadFile) -> ResultInfo | None:
    """Read the note at the end of a stored file; None if the file is not intact."""
    try:
        file.seek(-FOOTER.size, os.SEEK_END)
        size, magic = FOOTER.unpack(file.read(FOOTER.size))
        if magic != MAGIC or size > MAX_NOTE_BYTES:
            return None
        payload_length = file.seek(-FOOTER.size - size, os.SEEK_END)
        info = ResultInfo(**json.loads(file.read(size)))
    except (OSError, ValueError, TypeError):
        return None
    return info if info.length == payload_length else None
