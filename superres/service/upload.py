"""An uploaded image file on its way through the service."""

import os
from dataclasses import dataclass, field
from typing import BinaryIO

# Uploads up to this size stay in memory; larger ones are spooled to a temporary file.
SPOOL_BYTES = 512 * 1024


@dataclass(eq=False)
class Upload:
    """An uploaded file; the holder of the upload closes it, unless it has been taken.

    Attributes
    ----------
    file : the bytes
    key : their SHA-256 in hex
    stem : the client's file name without folders and extension
    """

    file: BinaryIO
    key: str
    stem: str
    _is_taken: bool = field(default=False, init=False)
    _is_closed: bool = field(default=False, init=False)

    @property
    def size_bytes(self) -> int:
        """Size of the file."""
        return self.file.seek(0, os.SEEK_END)

    def take_file(self) -> BinaryIO:
        """Hand the file over to the caller, who must close it or give it back."""
        assert not self._is_taken
        self._is_taken = True
        return self.file

    def give_back(self) -> None:
        """Return a file that was taken; on any thread, and even after `close`."""
        self._is_taken = False
        if self._is_closed:
            self.file.close()

    def close(self) -> None:
        """Close the file, unless it has been taken."""
        self._is_closed = True
        if not self._is_taken:
            self.file.close()
