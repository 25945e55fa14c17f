"""An image's file on its way through the service."""

from dataclasses import dataclass, field
from typing import BinaryIO

# Uploads up to this size stay in memory; larger ones are spooled to a temporary file.
SPOOL_BYTES = 512 * 1024


@dataclass(eq=False)
class Upload:
    """An uploaded file, which whoever has the upload closes, unless another has taken it.

    Attributes
    ----------
    file : the bytes
    key : their SHA-256 in hex
    stem : the client's file name without folders and ending
    """

    file: BinaryIO
    key: str
    stem: str
    _is_taken: bool = field(default=False, init=False)

    def take_file(self) -> BinaryIO:
        """Return the file to somebody who closes it from now on."""
        assert not self._is_taken
        self._is_taken = True
        return self.file

    def close(self) -> None:
        """Close the file, unless somebody has taken it."""
        if not self._is_taken:
            self.file.close()
