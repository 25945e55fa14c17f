"""Names of stored results, `<content hash>.<variant>.<format>`, and the content hash itself."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO, Self

from superres.images.formats import FORMATS, Format

READ_CHUNK_BYTES = 1024 * 1024
KEY_PATTERN = re.compile(r"[0-9a-f]{64}")
VARIANT_LENGTH = 12
NAME_PATTERN = re.compile(
    rf"({KEY_PATTERN.pattern})\.([0-9a-f]{{{VARIANT_LENGTH}}})\.({'|'.join(FORMATS)})"
)


def generate_file_hash(image_data: bytes) -> str:
    """Return the SHA-256 of an upload in hex: the content hash under which results are stored."""
    return hashlib.sha256(image_data).hexdigest()


def hash_file(file: BinaryIO) -> str:
    """Return `generate_file_hash` of a file, read in chunks from its start."""
    file.seek(0)
    digest = hashlib.sha256()
    while chunk := file.read(READ_CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()


@dataclass(frozen=True)
class ResultName:
    """The parts of a result's name.

    Attributes
    ----------
    key : SHA-256 of the upload, in hex
    variant : hash of everything else that changes the result's bytes, so that a cached result
        never goes stale
    format : of the result
    """

    key: str
    variant: str
    format: Format

    @classmethod
    def make(cls, key: str, ingredients: Iterable[str], format_name: str) -> Self:
        """Return the name of an upload's result.

        Parameters
        ----------
        ingredients : everything other than the upload that changes the result's bytes
        """
        digest = hashlib.sha256("; ".join(ingredients).encode()).hexdigest()
        return cls(key, digest[:VARIANT_LENGTH], FORMATS[format_name])

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Parse a name; None if it is not one."""
        found = NAME_PATTERN.fullmatch(text)
        return cls(found[1], found[2], FORMATS[found[3]]) if found else None

    def __str__(self) -> str:
        """Return the name."""
        return f"{self.key}.{self.variant}.{self.format.name}"


def upload_key(name: str) -> str:
    """Return the SHA-256 in a name, which may come from a newer version with other formats."""
    return name.partition(".")[0]
