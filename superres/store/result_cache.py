"""Content-hash cache: results in one folder, under names that change with their content."""

import contextlib
import errno
import logging
import os
import secrets
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from superres.disk import DiskSpace, bytes_on_disk, round_to_blocks
from superres.store.result_name import ResultName, hash_file
from superres.store.stored_result import (
    PayloadFile,
    ResultInfo,
    StoredResult,
    read_info,
    write_note,
)

TEMPORARY_PREFIX = ".writing-"
# This process has reserved space for its own files; those of others count as they are found.
OWN_PREFIX = f"{TEMPORARY_PREFIX}{secrets.token_hex(4)}-"
# Names of files known to be intact; beyond this many, all are verified again.
MAX_REMEMBERED = 10_000
# No write takes this long: the writer of a temporary file of this age has died.
LEFTOVER_SECONDS = 3600
PROBE_BYTES = 1024 * 1024
# What file systems without hard links return.
NO_HARD_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK})

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredFile:
    """A stored result as listed in the folder; `last_used` in seconds since the epoch."""

    name: str
    size_bytes: int  # on disk, in whole blocks
    last_used: float


# Inode, size and modification time: while these are the same, a file has not been rewritten.
FileIdentity = tuple[int, int, int]


def identify(status: os.stat_result) -> FileIdentity:
    """Return what distinguishes a file from others, and from a rewritten version of itself."""
    return status.st_ino, status.st_size, status.st_mtime_ns


class ResultCache:
    """Stored results in a folder, which is created when first needed.

    Several threads and processes may share the folder. `damaged` counts files found damaged; they
    are removed, and their results computed again.

    Parameters
    ----------
    space : accounts for the disk space of files
    """

    def __init__(self, folder: Path, space: DiskSpace | None = None) -> None:
        self.folder = folder
        self.damaged = 0
        self._space = space or DiskSpace()
        self._refused_bytes = 0
        self._verified: dict[str, FileIdentity] = {}

    def open(self, name: str) -> StoredResult | None:
        """Open a stored result and record its use; None if there is none.

        A damaged file is removed, so that the result is computed again.
        """
        path = self.folder / name
        try:
            file = PayloadFile(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            logger.error("cannot read %s: %s", name, error.strerror)
            return None
        status = os.fstat(file.fileno())
        info = read_info(file)
        if info is None or not self._verify(name, file, info, status):
            file.close()
            logger.error("removing a damaged result: %s", name)
            self.damaged += 1
            self.remove(name)
            return None
        # File systems mounted with relatime do not record reads, and eviction goes by last use.
        with contextlib.suppress(OSError):
            os.utime(path, ns=(time.time_ns(), status.st_mtime_ns))
        file.seek(0)
        return StoredResult(file, info, status.st_mtime)

    def _verify(
        self, name: str, file: PayloadFile, info: ResultInfo, status: os.stat_result
    ) -> bool:
        """Compare a result's bytes with their digest, once for each version of the file.

        Bytes that the disk cannot read are damaged, too.
        """
        identity = identify(status)
        file.payload_end = info.length
        if self._verified.get(name) == identity:
            return True
        try:
            is_whole = hash_file(file) == info.sha256
        except OSError as error:
            logger.error("cannot read %s: %s", name, error.strerror)
            return False
        if is_whole:
            self._remember_as_whole(name, identity)
        return is_whole

    def _remember_as_whole(self, name: str, identity: FileIdentity) -> None:
        if len(self._verified) >= MAX_REMEMBERED:
            self._verified.clear()
        self._verified[name] = identity

    def contains(self, name: str) -> bool:
        """Tell whether a result is stored, without recording a use."""
        return (self.folder / name).is_file()

    def store(self, name: str, payload: bytes | memoryview, info: ResultInfo) -> None:
        """Write a result atomically.

        The first complete write of a name wins: its bytes may already be in some HTTP cache.

        Raises
        ------
        OSError
            The folder cannot be written, or there is no space; nothing is left behind.
        ResultTooLarge
            The result is larger than the whole cache may be.
        """
        try:
            with self._write([payload, write_note(info)]) as file:
                identity = identify(file.stat())
                self._publish(file, name)
                self._remember_as_whole(name, identity)
        except OSError:
            self._refused_bytes = max(len(payload), PROBE_BYTES)
            raise

    def can_write(self) -> bool:
        """Tell whether the last write succeeded, or one of the same size would now."""
        if self._refused_bytes:
            pieces = [bytes(PROBE_BYTES)] * -(-self._refused_bytes // PROBE_BYTES)
            with contextlib.suppress(OSError), self._write(pieces):
                self._refused_bytes = 0
        return not self._refused_bytes

    @contextlib.contextmanager
    def _write(self, pieces: Iterable[bytes | memoryview]) -> Iterator[Path]:
        """Write a temporary file, which is removed when the block ends."""
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=OWN_PREFIX, dir=self.folder)
        length = taken = 0
        try:
            with os.fdopen(descriptor, "wb") as file:
                for piece in pieces:
                    length += len(piece)
                    more = round_to_blocks(length) - taken
                    self._space.take(more)
                    taken += more
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            yield Path(temporary)
        finally:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
            self._space.give_back(taken)

    def _publish(self, temporary: Path, name: str) -> None:
        """Give a written file its name, unless another file has it."""
        path = self.folder / name
        size_bytes = bytes_on_disk(temporary.stat())
        try:
            path.hardlink_to(temporary)
        except FileExistsError:
            return
        except OSError as error:
            if error.errno not in NO_HARD_LINKS:
                raise
            temporary.replace(path)
        self._space.note_stored(size_bytes)

    def remove(self, name: str) -> bool:
        """Remove a stored result; True if it is gone, no matter who removed it."""
        try:
            (self.folder / name).unlink(missing_ok=True)
        except OSError as error:
            logger.error("cannot remove %s: %s", name, error.strerror)
            return False
        return True

    def remove_leftovers(self) -> int:
        """Remove what killed writers have left behind; return the number of files."""
        removed = 0
        for name, status in self._list_files():
            is_old = time.time() - status.st_mtime > LEFTOVER_SECONDS
            if name.startswith(TEMPORARY_PREFIX) and is_old:
                removed += self.remove(name)
        return removed

    def scan(self) -> Iterator[StoredFile]:
        """Yield every stored result."""
        for name, status in self._list_files():
            if ResultName.parse(name):
                last_used = max(status.st_atime, status.st_mtime)
                yield StoredFile(name, bytes_on_disk(status), last_used)

    def count_foreign_bytes(self) -> int:
        """Return the size of temporary files of other processes, live or killed."""
        return sum(
            bytes_on_disk(status)
            for name, status in self._list_files()
            if name.startswith(TEMPORARY_PREFIX) and not name.startswith(OWN_PREFIX)
        )

    def _list_files(self) -> Iterator[tuple[str, os.stat_result]]:
        with contextlib.suppress(OSError), os.scandir(self.folder) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    yield entry.name, entry.stat(follow_symlinks=False)
