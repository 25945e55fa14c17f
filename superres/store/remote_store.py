"""The store that several machines share: a bucket by S3, or a folder, through obstore."""

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
from superres.store.result_cache import READ_CHUNK_BYTES

# After an error the store is left alone for this long, and then one request tries it: the others do
# not wait for it.
DOWN_SECONDS = 5.0
# The defaults wait for more than a minute for a store that hangs.
CONNECT_SECONDS = 2
ANSWER_SECONDS = 4
# Writing is answered at its end: the largest result at 10 MB a second.
WRITE_SECONDS = 20
RETRIES = 1
RETRY_SECONDS = 5
# What a bucket says of a key that it does not have. Other answers with status 404 come from
# buckets that are not there now, from proxies, from other servers at that address.
NO_SUCH_KEY = "<Code>NoSuchKey</Code>"
# Without the last one Amazon's S3 answers 403 for a key that is not there, too.
PERMISSIONS = (
    "The credentials in AWS_* must allow s3:GetObject, s3:PutObject, s3:DeleteObject and, for the "
    "bucket, s3:ListBucket; those that have expired take a restart with new ones."
)

logger = logging.getLogger(__name__)


class RemoteStore:
    """Objects under keys such as `results/a/b`; safe to use from any thread.

    Must not be made before the server forks: its client has threads of its own.

    Parameters
    ----------
    url : s3://bucket/prefix, with credentials and endpoint in the AWS_* variables, or
        file:///folder
    is_marked : a folder is used only where it has the mark that `identify` has found

    Attributes
    ----------
    folder : None for a bucket
    errors : how often the store has failed

    Every method raises StoreDown where the store fails, or has failed a moment ago.

    Raises
    ------
    ConfigError
        obstore is not installed, or does not take the URL.
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
                            # Options replace all that the variables say of the client.
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
        """Turn the store's errors into StoreDown; an object that is missing is no such error."""
        with self._judge():
            if self._mark is not None:
                self._mark.check()
            yield
            # What was not found, or is written, was so in the right folder only if it is there yet.
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
            # Behind that stands the client's own data, on forty lines.
            logger.error("the store does not work: %s", str(error).partition("\n\nDebug")[0])
            if isinstance(error, PermissionError) or "AccessDenied" in str(error):
                logger.error("%s", PERMISSIONS)
            raise unavailable() from error
        except BaseException:
            self._note(works=not self._is_down)
            raise
        else:
            self._note(works=True)

    def identify(self, is_known: bool) -> str:
        """Return what all who share this store call it; see `FolderMark.read`."""
        return self.url if self._mark is None else self._mark.read(is_known)

    def _note(self, works: bool) -> None:
        with self._lock:
            self._is_trying = False
            self._is_down = not works
            if not works:
                self.errors += 1
                self._down_until = time.monotonic() + DOWN_SECONDS

    def can_write(self) -> bool:
        """Tell whether the store took what was last written, or takes something now."""
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
        """Store a file's bytes, unless the key has some already; tell whether it had none."""
        with self._watch_writing():
            try:
                self._obstore.put(self._writing, key, path, mode="create")
            except self._exceptions.AlreadyExistsError:
                return False
            return True

    def put(self, key: str, file: BinaryIO) -> None:
        """Store what a file has from its start on; it is there whole when this returns."""
        file.seek(0)
        with self._watch_writing():
            # In one part, so that the tag is the digest of the whole.
            put = self._obstore.put(self._writing, key, file, use_multipart=False)
            if self.folder is None and not self._has_arrived(key, put["e_tag"], file):
                raise OSError(f"{key} arrived damaged")

    def _has_arrived(self, key: str, tag: str | None, file: BinaryIO) -> bool:
        """Tell whether a bucket has what a file has: not every server looks at the digest sent."""
        file.seek(0)
        sent = digest_pieces(iter(partial(file.read, READ_CHUNK_BYTES), b""))
        # The tag is something else where the bucket is encrypted.
        if (tag or "").strip('"') == sent:
            return True
        return digest_pieces(self._obstore.get(self._reading, key).stream()) == sent

    def get(self, key: str) -> Iterator[bytes] | None:
        """Return an object's bytes in pieces, or None where there is no such object."""
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
                # To HEAD a bucket does not say what is not found.
                return self.folder is None and self._find(key) is not None
            return True

    def remove(self, keys: Sequence[str]) -> None:
        """Remove objects, where they are there."""
        with self._watch():
            for key in keys:
                try:
                    self._obstore.delete(self._writing, key)
                except FileNotFoundError as error:
                    if not self._says_no_such_key(error):
                        raise

    def list_keys(self, folder: str, age_seconds: float = 0) -> list[str]:
        """Return the keys below a folder that were written so long ago."""
        before = datetime.now(UTC) - timedelta(seconds=age_seconds)
        # Its clock may be ahead of ours: what is wanted whatever its age, is wanted all the same.
        return [
            each["path"]
            for each in self._list(folder)
            if not age_seconds or each["last_modified"] <= before
        ]

    def list_sizes(self, folder: str) -> dict[str, int]:
        """Return the keys below a folder, each with its bytes."""
        return {each["path"]: each["size"] for each in self._list(folder)}

    def _list(self, folder: str) -> list[Any]:
        with self._watch():
            return [each for page in self._obstore.list(self._reading, folder) for each in page]


def digest_pieces(pieces: Iterable[bytes]) -> str:
    """Return the MD5 of bytes: an object's tag, which tells damage, not malice."""
    digest = hashlib.md5(usedforsecurity=False)
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def unavailable() -> StoreDown:
    """Make the error of a store that is not available."""
    return StoreDown("The store of results is not available.", int(DOWN_SECONDS))
