"""The store that several machines share: an S3 bucket or a folder, through obstore."""

import contextlib
import hashlib
import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import urlsplit
from urllib.request import url2pathname

if TYPE_CHECKING:
    from obstore.store import ObjectStore

from superres.errors import ConfigError, StoreDown
from superres.store.folder_mark import FolderMark
from superres.store.result_name import READ_CHUNK_BYTES

# After an error the store is left alone for this long; then one request retries it, and the others
# do not wait for that.
DOWN_SECONDS = 5.0
# The defaults wait more than a minute for a store that hangs.
CONNECT_SECONDS = 2
ANSWER_SECONDS = 4
# A write is acknowledged at its end: enough for the largest result at 10 MB/s.
WRITE_SECONDS = 20
RETRIES = 1
RETRY_SECONDS = 5
# What a bucket returns for a missing key. Other responses with status 404 come from missing
# buckets, from proxies, or from other servers at that address.
NO_SUCH_KEY = "<Code>NoSuchKey</Code>"
# Without ListBucket, Amazon S3 responds 403 even for a missing key.
PERMISSIONS = (
    "The credentials in AWS_* must allow s3:GetObject, s3:PutObject, s3:DeleteObject and, for the "
    "bucket, s3:ListBucket; if they have expired, restart with new ones."
)

logger = logging.getLogger(__name__)


class RemoteStore:
    """Objects under keys such as `results/a/b`; safe to use from any thread.

    Must not be created before the server forks: its client has its own threads.

    Parameters
    ----------
    url : s3://bucket/prefix, with credentials and endpoint in the AWS_* variables, or
        file:///folder
    is_marked : whether a folder is used only if it has the mark that `identify` found

    Attributes
    ----------
    folder : None for a bucket
    errors : how often the store has failed

    Every method raises StoreDown if the store fails, or has just failed.

    Raises
    ------
    ConfigError
        obstore is not installed, or does not accept the URL.
    """

    def __init__(self, url: str, is_marked: bool = False) -> None:
        try:
            import obstore
            from obstore import exceptions, store
        except ImportError:
            raise ConfigError("SR_STORE_URL needs the extra s3: pip install '.[s3]'") from None
        self._obstore = obstore
        self._reading: ObjectStore
        self._writing: ObjectStore
        self._exceptions = exceptions
        self.url = url
        self.folder: Path | None = None
        self._mark: FolderMark | None = None
        try:
            if urlsplit(url).scheme == "file":
                self.folder = Path(url2pathname(urlsplit(url).path))
                self._mark = FolderMark(self.folder) if is_marked else None
                self._reading = self._writing = store.LocalStore(self.folder, mkdir=True)
            else:
                self._reading, self._writing = (
                    store.from_url(
                        url,
                        client_options={
                            # Given options override all client settings from the environment.
                            "allow_http": os.environ.get("AWS_ALLOW_HTTP", "").lower() == "true",
                            "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
                            "read_timeout": timedelta(seconds=answer_seconds),
                        },
                        retry_config={
                            "max_retries": RETRIES,
                            "retry_timeout": timedelta(seconds=RETRY_SECONDS),
                        },
                    )
                    for answer_seconds in (ANSWER_SECONDS, WRITE_SECONDS)
                )
        except (exceptions.BaseError, OSError, ValueError) as error:
            raise ConfigError(f"SR_STORE_URL cannot be used: {error}") from None
        self._lock = threading.Lock()
        self._is_down = self._is_trying = False
        self._down_until = 0.0
        self._cannot_write = False
        self.errors = 0

    @contextlib.contextmanager
    def _watch(self) -> Iterator[None]:
        """Translate the store's errors into StoreDown; a missing object is not such an error."""
        with self._judge():
            if self._mark is not None:
                self._mark.check()
            yield
            # Whatever was missing or written concerns the right folder only if it is still mounted.
            if self._mark is not None:
                self._mark.check()

    @contextlib.contextmanager
    def _judge(self) -> Iterator[None]:
        with self._lock:
            if self._is_down:
                if self._is_trying or time.monotonic() < self._down_until:
                    raise unavailable()
                self._is_trying = True
        try:
            yield
        except (self._exceptions.BaseError, OSError) as error:
            self._note(works=False)
            # After that come forty lines of the client's own data.
            logger.error("the shared store failed: %s", str(error).partition("\n\nDebug")[0])
            if isinstance(error, PermissionError) or "AccessDenied" in str(error):
                logger.error("%s", PERMISSIONS)
            raise unavailable() from error
        except BaseException:
            self._note(works=not self._is_down)
            raise
        else:
            self._note(works=True)

    def identify(self, is_known: bool) -> str:
        """Return the store's identity, the same on all machines; see `FolderMark.read`."""
        return self.url if self._mark is None else self._mark.read(is_known)

    def _note(self, works: bool) -> None:
        with self._lock:
            self._is_trying = False
            self._is_down = not works
            if not works:
                self.errors += 1
                self._down_until = time.monotonic() + DOWN_SECONDS

    def can_write(self) -> bool:
        """Tell whether the last write succeeded, or a probe does now."""
        if self._cannot_write:
            with contextlib.suppress(StoreDown):
                self.put("probe", BytesIO(b"1"))
        return not self._cannot_write

    @contextlib.contextmanager
    def _watch_writing(self) -> Iterator[None]:
        try:
            with self._watch():
                yield
        except StoreDown:
            self._cannot_write = True
            raise
        self._cannot_write = False

    def put_new(self, key: str, path: Path) -> bool:
        """Store a file's bytes unless the key exists; tell whether it did not exist."""
        with self._watch_writing():
            try:
                self._obstore.put(self._writing, key, path, mode="create")
            except self._exceptions.AlreadyExistsError:
                return False
            return True

    def put(self, key: str, file: BinaryIO) -> None:
        """Store a whole file; it is stored completely when this returns."""
        file.seek(0)
        with self._watch_writing():
            # In one part, so that the entity tag is the digest of the whole.
            put = self._obstore.put(self._writing, key, file, use_multipart=False)
            if self.folder is None and not self._has_arrived(key, put["e_tag"], file):
                raise OSError(f"{key} arrived damaged")

    def _has_arrived(self, key: str, tag: str | None, file: BinaryIO) -> bool:
        """Tell whether a bucket has a file's content: not every server checks the digest sent."""
        file.seek(0)
        sent = digest_pieces(iter(partial(file.read, READ_CHUNK_BYTES), b""))
        # In an encrypted bucket the tag is something else.
        if (tag or "").strip('"') == sent:
            return True
        return digest_pieces(self._obstore.get(self._reading, key).stream()) == sent

    def get(self, key: str) -> Iterator[bytes] | None:
        """Return an object's bytes in pieces, or None if there is no such object."""
        with self._watch():
            found = self._find(key)
        return None if found is None else self._read(found)

    def _find(self, key: str) -> Any:
        try:
            return self._obstore.get(self._reading, key)
        except FileNotFoundError as error:
            if not self._says_no_such_key(error):
                raise
            return None

    def _says_no_such_key(self, error: FileNotFoundError) -> bool:
        return self.folder is not None or NO_SUCH_KEY in str(error)

    def _read(self, found: Any) -> Iterator[bytes]:
        with self._watch():
            yield from found.stream()

    def contains(self, key: str) -> bool:
        """Tell whether there is an object."""
        with self._watch():
            try:
                self._obstore.head(self._reading, key)
            except FileNotFoundError:
                # A bucket's response to HEAD does not say what was not found.
                return self.folder is None and self._find(key) is not None
            return True

    def remove(self, keys: Sequence[str]) -> None:
        """Remove objects, if they exist."""
        with self._watch():
            for key in keys:
                try:
                    self._obstore.delete(self._writing, key)
                except FileNotFoundError as error:
                    if not self._says_no_such_key(error):
                        raise

    def list_keys(self, folder: str, age_seconds: float = 0) -> list[str]:
        """Return the keys below a folder that are at least this old."""
        before = datetime.now(UTC) - timedelta(seconds=age_seconds)
        # The store's clock may be ahead of ours: with no minimum age, all keys are returned.
        return [
            each["path"]
            for each in self._list(folder)
            if not age_seconds or each["last_modified"] <= before
        ]

    def list_sizes(self, folder: str) -> dict[str, int]:
        """Return the keys below a folder, each with its size in bytes."""
        return {each["path"]: each["size"] for each in self._list(folder)}

    def _list(self, folder: str) -> list[Any]:
        with self._watch():
            return [each for page in self._obstore.list(self._reading, folder) for each in page]


def digest_pieces(pieces: Iterable[bytes]) -> str:
    """Return the MD5 of bytes: an object's tag, which detects damage, not malice."""
    digest = hashlib.md5(usedforsecurity=False)
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def unavailable() -> StoreDown:
    """Make the error for an unavailable store."""
    return StoreDown("The result store is not available.", int(DOWN_SECONDS))
